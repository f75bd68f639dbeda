"""Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", 2019.

Direct entropy minimisation (section 3.1): the segmenter is trained to be sure of the target's pixels.
"""

from typing import Any

import jax
import ml_collections

from uda_jax.losses import entropy_loss
from uda_jax.methods.source_only import discriminators, supervised_loss
from uda_jax.models.deeplab_v2 import Outputs

__all__ = ["DOMAINS", "default_config", "discriminators", "segmenter_loss"]

DOMAINS = ("source", "target")


def default_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"lambda_seg_aux": 0.1, "lambda_ent_main": 0.001, "lambda_ent_aux": 0.0002})


def segmenter_loss(
    params: Any,
    discriminator_params: Any,
    outputs: dict[str, Outputs],
    batch: dict[str, jax.Array],
    step: jax.Array,
    key: jax.Array,
    config: ml_collections.ConfigDict,
    networks: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """CE on the source plus the weighted entropies of the target's predictions (eq. 4)."""
    del params, discriminator_params, step, key, networks
    c = config.minent
    loss, metrics = supervised_loss(outputs["source"], batch["source_label"], c.lambda_seg_aux)
    for level in ("main", "aux") if config.model.two_levels else ("main",):
        entropy = entropy_loss(jax.nn.softmax(outputs["target"].level(level)))
        metrics[f"loss_ent_{level}"] = entropy
        loss = loss + c[f"lambda_ent_{level}"] * entropy
    return loss, metrics
