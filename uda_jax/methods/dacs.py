"""Tranheden et al., "DACS: Domain Adaptation via Cross-domain Mixed Sampling", WACV 2021.

Its loop is that of `selftraining`, which the papers after it share. The defaults are those of DAFormer's repository;
docs/selftraining.md says in which settings the paper's own code differs.
"""

import ml_collections

from uda_jax.methods import selftraining
from uda_jax.methods.contract import Method
from uda_jax.models.networks import Networks

CHOICES, BOUNDS, LEAST_CLASSES = selftraining.CHOICES, selftraining.BOUNDS, selftraining.LEAST_CLASSES


def default_config() -> ml_collections.ConfigDict:
    return selftraining.default_config()


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    return selftraining.build(config, networks, config.dacs)
