"""Supervised training on the source domain: the baseline, and with target labels as source the oracle."""

from typing import Any

import jax
import ml_collections

from uda_jax.methods.contract import Aux, Context, Method
from uda_jax.methods.supervised import DROPOUT, SOURCE, supervised_loss
from uda_jax.models.networks import Networks


def default_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"lambda_seg_aux": 0.1})


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    def segmenter_loss(params: Any, context: Context) -> tuple[jax.Array, Aux]:
        batch = context.batch
        key = jax.random.fold_in(context.key, DROPOUT)
        outputs, stats = networks.segment(params, context.stats, batch["source_image"], key)
        loss, metrics = supervised_loss(outputs, batch["source_label"], config.source_only.lambda_seg_aux)
        return loss, Aux(stats, metrics)

    return Method(SOURCE, segmenter_loss)
