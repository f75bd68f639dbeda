"""Everything that training changes, as one pytree."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from uda_jax.methods import build_method
from uda_jax.models.networks import Networks
from uda_jax.training.optimizers import build_optimizers
from uda_jax.training.sharding import abstract

# What randomness is for, from the config's seed; keys of one use never coincide with those of another.
INITIAL, MEMORY, STEPS = range(3)


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
    params, stats = initial_segmenter(config, networks)
    _, key_d = jax.random.split(run_key(config.seed, INITIAL))
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
        memory=method.init_memory(params, stats, run_key(config.seed, MEMORY)),
    )


def make_constants(config: ml_collections.ConfigDict, networks: Networks, params: Any, stats: Any) -> Any:
    """The method's frozen networks, of the weights that training starts from; {} if it has none."""
    make = build_method(config, networks).init_constants
    return {} if make is None else make(params, stats)


def abstract_state(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> TrainState:
    """The shapes, dtypes and placement of a state."""
    return abstract(jax.eval_shape(partial(create_state, config, networks)), mesh)


def initial_segmenter(config: ml_collections.ConfigDict, networks: Networks) -> tuple[Any, Any]:
    """The segmenter's (parameters, batch statistics) of a fresh state."""
    key, _ = jax.random.split(run_key(config.seed, INITIAL))
    return networks.init(key, tuple(config.data.source.size))


def run_key(seed: int, use: int) -> jax.Array:
    """The key of a run for INITIAL values, its first MEMORY or its STEPS, which fold in their number."""
    return jax.random.fold_in(jax.random.key(seed), use)


def remember(state: TrainState, config: ml_collections.ConfigDict, networks: Networks) -> TrainState:
    """The state with its memory made anew, of weights that were put into it."""
    method = build_method(config, networks)
    return state.replace(memory=method.init_memory(state.params, state.batch_stats, run_key(config.seed, MEMORY)))
