"""Hoyer et al., "MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation", CVPR 2023.

On top of DAFormer, or with `lambda_distance` 0 of DACS: the student also learns what the teacher says of a target image
of which it sees 30 % of the blocks.
"""

import ml_collections

from uda_jax.methods import selftraining
from uda_jax.methods.contract import Method
from uda_jax.methods.daformer import MARGINS
from uda_jax.models.networks import Networks

CHOICES, BOUNDS, LEAST_CLASSES = selftraining.CHOICES, selftraining.BOUNDS, selftraining.LEAST_CLASSES


def default_config() -> ml_collections.ConfigDict:
    return selftraining.default_config(alpha=0.999, lambda_distance=0.005, lambda_masked=1.0, **MARGINS)


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    return selftraining.build(config, networks, config.mic)
