"""Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", 2019.

Direct entropy minimisation (section 3.1): the segmenter is trained to be sure of the target's pixels.
"""

from typing import Any

import jax
import ml_collections

from uda_jax.methods.contract import Aux, Context, Method
from uda_jax.methods.game import TWO_DOMAINS, levels, segment_in_turn
from uda_jax.methods.health import predicted
from uda_jax.methods.losses import entropy_loss
from uda_jax.models.networks import Networks

LEAST_CLASSES = 2  # entropies are shares of log(classes)


def default_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"lambda_seg_aux": 0.1, "lambda_ent_main": 0.001, "lambda_ent_aux": 0.0002})


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    c = config.minent

    def segmenter_loss(params: Any, context: Context) -> tuple[jax.Array, Aux]:
        """CE on the source plus the weighted entropies of the target's predictions (eq. 4)."""
        loss, metrics, outputs, stats = segment_in_turn(networks, params, context, c.lambda_seg_aux)
        for level in levels(config):
            entropy = entropy_loss(jax.nn.softmax(outputs["target"].level(level)))
            metrics[f"loss_ent_{level}"] = entropy
            loss = loss + c[f"lambda_ent_{level}"] * entropy
        return loss, Aux(stats, metrics | predicted(outputs["target"].main, "target"))

    return Method(TWO_DOMAINS, segmenter_loss)
