"""Hoyer et al., "DAFormer: Improving Network Architectures and Training Strategies for Domain-Adaptive Semantic
Segmentation", CVPR 2022: DACS, with features that stay near ImageNet's.

Its rare classes (section 3.3, `config.data.source.sampling`) and its warm-up (`config.optimizer.warmup_steps`) are of
the config, its network (`config.model.head`) is another choice.
"""

import ml_collections

from uda_jax.methods import selftraining
from uda_jax.methods.contract import Method
from uda_jax.models.networks import Networks

CHOICES, BOUNDS, LEAST_CLASSES = selftraining.CHOICES, selftraining.BOUNDS, selftraining.LEAST_CLASSES
# Of crops of 512 rows, those that show sky and bonnet.
MARGINS = {"ignore_top": 15 / 512, "ignore_bottom": 120 / 512}


def default_config() -> ml_collections.ConfigDict:
    return selftraining.default_config(alpha=0.999, lambda_distance=0.005, **MARGINS)


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    return selftraining.build(config, networks, config.daformer)
