"""Everything that training changes, as one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.methods import build_method
from uda_jax.models.networks import Networks
from uda_jax.training.optimizers import build_optimizers


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds; randomness and data order follow from `step` and the config's seed.

    Attributes:
      step: int32 [], updates done.
      params, batch_stats: the segmenter's.
      discriminator_params: a tree per level; empty for methods without a discriminator.
      memory: the method's own tree; empty for methods that remember nothing.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    discriminator_params: Any
    optimizer: Any
    discriminator_optimizer: Any
    memory: Any = flax.struct.field(default_factory=dict)


def create_state(config: ml_collections.ConfigDict, networks: Networks) -> TrainState:
    """A fresh state from `config.seed`; a pure function, to be jitted or given to `jax.eval_shape`."""
    key, key_d = jax.random.split(jax.random.key(config.seed))
    images = jnp.zeros((1, *config.data.source.size, 3), jnp.uint8)
    variables = networks.segmenter.init(key, images, train=False)
    params, stats = variables["params"], variables.get("batch_stats", {})
    method = build_method(config, networks)
    discriminator_params = {
        level: networks.discriminator.init(jax.random.fold_in(key_d, i), jnp.zeros((1, *shape)))["params"]
        for i, (level, shape) in enumerate(method.discriminators.items())
    }
    optimizers = build_optimizers(params, config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=stats,
        discriminator_params=discriminator_params,
        optimizer=optimizers.segmenter.init(params),
        discriminator_optimizer=optimizers.discriminator.init(discriminator_params),
        memory=method.init_memory(params, stats, memory_key(config.seed)),
    )


def memory_key(seed: int) -> jax.Array:
    """For what a method remembers at first; those of the steps are folded in from 0 on."""
    return jax.random.fold_in(jax.random.key(seed), 2**32 - 1)


def remember(state: TrainState, config: ml_collections.ConfigDict, networks: Networks) -> TrainState:
    """The state with its memory made anew, of weights that were put into it."""
    method = build_method(config, networks)
    return state.replace(memory=method.init_memory(state.params, state.batch_stats, memory_key(config.seed)))
