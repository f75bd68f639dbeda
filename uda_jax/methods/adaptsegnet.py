"""Tsai et al., "Learning to Adapt Structured Output Space for Semantic Segmentation", CVPR 2018.

A discriminator a level tells the softmax of the two domains apart; the segmenter makes the target's look like the
source's (eqs. 1 to 5). Single-level is either no auxiliary head (`model.two_levels = False`) or, as in the
published code, two levels with `lambda_seg_aux = lambda_adv_aux = 0`.
"""

import jax
import ml_collections

from uda_jax.methods.contract import Method
from uda_jax.methods.game import adversarial_method
from uda_jax.models.networks import Networks

CHOICES = {"gan": ("vanilla", "least_squares")}


def default_config() -> ml_collections.ConfigDict:
    """The paper's multi-level setting."""
    return ml_collections.ConfigDict(
        {"lambda_seg_aux": 0.1, "lambda_adv_main": 0.001, "lambda_adv_aux": 0.0002, "gan": "vanilla"}
    )


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    return adversarial_method(config, networks, config.adaptsegnet, jax.nn.softmax)
