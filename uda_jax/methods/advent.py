"""Vu et al., "ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation", 2019.

Adversarial entropy minimisation (section 3.2): AdaptSegNet's game, on maps of weighted self-information (eqs. 6 and 8).
"""

import jax
import ml_collections

from uda_jax.methods.contract import Method
from uda_jax.methods.game import adversarial_method
from uda_jax.methods.losses import weighted_self_information
from uda_jax.models.networks import Networks

CHOICES = {"gan": ("vanilla", "least_squares")}
LEAST_CLASSES = 2  # entropies are shares of log(classes)


def default_config() -> ml_collections.ConfigDict:
    """The paper's setting."""
    return ml_collections.ConfigDict(
        {"lambda_seg_aux": 0.1, "lambda_adv_main": 0.001, "lambda_adv_aux": 0.0002, "gan": "vanilla"}
    )


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    return adversarial_method(config, networks, config.advent, information)


def information(logits: jax.Array) -> jax.Array:
    """What the discriminators look at, of and in [..., classes]."""
    return weighted_self_information(jax.nn.softmax(logits))
