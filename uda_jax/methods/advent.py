"""Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", 2019.

Adversarial entropy minimisation (section 3.2): AdaptSegNet's game, on maps of weighted self-information.
"""

from typing import Any

import jax
import ml_collections

from uda_jax.losses import weighted_self_information
from uda_jax.methods.adaptsegnet import adversarial_loss, discriminators, domain_game, softmax_of
from uda_jax.methods.source_only import supervised_loss
from uda_jax.models.deeplab_v2 import Outputs

__all__ = ["DOMAINS", "default_config", "discriminator_input", "discriminator_loss", "discriminators", "segmenter_loss"]

DOMAINS = ("source", "target")


def default_config() -> ml_collections.ConfigDict:
    """The paper's setting; gan is "vanilla" or "least_squares"."""
    return ml_collections.ConfigDict(
        {"lambda_seg_aux": 0.1, "lambda_adv_main": 0.001, "lambda_adv_aux": 0.0002, "gan": "vanilla"}
    )


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
    """CE on the source plus the weighted adversarial losses of the target's maps (eq. 8)."""
    del params, step, key
    c = config.advent
    loss, metrics = supervised_loss(outputs["source"], batch["source_label"], c.lambda_seg_aux)
    adversarial, more = adversarial_loss(discriminator_params, outputs["target"], information, c, networks)
    return loss + adversarial, {**metrics, **more}


def discriminator_loss(
    discriminator_params: Any, outputs: dict[str, Outputs], config: ml_collections.ConfigDict, networks: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Half the source loss plus half the target loss, summed over the levels (eq. 6)."""
    return domain_game(discriminator_params, outputs, information, config.advent.gan, networks)


def discriminator_input(outputs: Outputs, level: str, config: ml_collections.ConfigDict) -> jax.Array:
    del config
    return information(outputs, level)


def information(outputs: Outputs, level: str) -> jax.Array:
    """What the discriminators look at, [B, H, W, classes]."""
    return weighted_self_information(softmax_of(outputs, level))
