"""Supervised training on the source domain: the baseline, and with target labels as source the oracle."""

from typing import Any

import jax
import ml_collections

from uda_jax.losses import cross_entropy
from uda_jax.models.deeplab_v2 import Outputs

DOMAINS = ("source",)


def default_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"lambda_seg_aux": 0.1})


def discriminators(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    del config
    return ()


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
    del params, discriminator_params, step, key, networks
    return supervised_loss(outputs["source"], batch["source_label"], config.source_only.lambda_seg_aux)


def supervised_loss(
    outputs: Outputs, labels: jax.Array, lambda_seg_aux: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """CE(main) + lambda_seg_aux CE(aux) (AdaptSegNet, eq. 5): what every method does on the source domain."""
    loss = cross_entropy(outputs.main, labels)
    metrics = {"loss_seg_main": loss}
    if outputs.aux is not None:
        metrics["loss_seg_aux"] = cross_entropy(outputs.aux, labels)
        loss = loss + lambda_seg_aux * metrics["loss_seg_aux"]
    return loss, metrics
