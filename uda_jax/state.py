"""Everything that training changes, as one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.methods import METHODS
from uda_jax.networks import Networks
from uda_jax.optimizers import build_optimizers


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds; randomness and data order follow from `step` and the config's seed.

    Attributes:
      step: int32 [], updates done.
      params, batch_stats: the segmenter's.
      discriminator_params: a tree per level; empty for methods without a discriminator.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    discriminator_params: Any
    optimizer: Any
    discriminator_optimizer: Any


def create_state(config: ml_collections.ConfigDict, networks: Networks) -> TrainState:
    """A fresh state from `config.seed`; a pure function, to be jitted or given to `jax.eval_shape`."""
    key, key_d = jax.random.split(jax.random.key(config.seed))
    images = jnp.zeros((1, *config.data.source.size, 3), jnp.uint8)
    outputs, variables = networks.segmenter.init_with_output(key, images, train=False)
    method = METHODS[config.method]
    discriminator_params = {}
    for i, level in enumerate(method.discriminators(config)):
        maps = method.discriminator_input(outputs, level, config)
        discriminator_params[level] = networks.discriminator.init(jax.random.fold_in(key_d, i), maps)["params"]
    optimizers = build_optimizers(variables["params"], config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        discriminator_params=discriminator_params,
        optimizer=optimizers.segmenter.init(variables["params"]),
        discriminator_optimizer=optimizers.discriminator.init(discriminator_params),
    )
