"""The one jitted program of training: a segmenter update, a discriminator update, and what the method remembers.

It knows the game and no paper. Both players move from the same point, as in the published code: gradients of
both are taken at the old parameters, then both are updated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from uda_jax.methods import Context, Method, build_method
from uda_jax.methods.contract import Scalars
from uda_jax.models.networks import Networks
from uda_jax.training.optimizers import build_optimizers, segmenter_schedule
from uda_jax.training.state import STEPS, TrainState, run_key

Batch = dict[str, jax.Array]


class Gradients(NamedTuple):
    """What a batch says at one point, before anything moves.

    Attributes:
      segmenter, discriminator: gradients of the two players' losses; the latter empty without discriminators.
      batch_stats: the segmenter's running statistics after this batch.
      carry: what the method's loss left for its memory.
    """

    segmenter: Any
    discriminator: Any
    batch_stats: Any
    carry: Any = ()


def build_step(config: ml_collections.ConfigDict, networks: Networks) -> Callable[..., tuple[TrainState, Scalars]]:
    """The pure function (state, batch, constants = {}) -> (state, metrics).

    The batch holds what the method's streams say (see `methods.contract.Stream`), `constants` what its `init_constants`
    made. Metrics are scalars.
    """
    method = build_method(config, networks)
    gradients, update = _gradients(config, method), build_update(config)

    def step(state: TrainState, batch: Batch, constants: Any = {}) -> tuple[TrainState, Scalars]:  # noqa: B006
        grads, metrics = gradients(state, batch, constants)
        new = update(state, grads)
        context = context_of(config, state, batch, constants)
        return new.replace(memory=method.update_memory(context, grads.carry, new.params, new.batch_stats)), metrics

    return step


def context_of(config: ml_collections.ConfigDict, state: TrainState, batch: Batch, constants: Any) -> Context:
    return Context(
        state.step,
        jax.random.fold_in(run_key(config.seed, STEPS), state.step),
        batch,
        state.batch_stats,
        state.discriminator_params,
        state.memory,
        constants,
    )


def build_gradients(config: ml_collections.ConfigDict, networks: Networks) -> Callable[..., tuple[Gradients, Scalars]]:
    """The first half of a step: (state, batch, constants = {}) -> (gradients of both players, metrics)."""
    return _gradients(config, build_method(config, networks))


def _gradients(config: ml_collections.ConfigDict, method: Method) -> Callable[..., tuple[Gradients, Scalars]]:
    def gradients(state: TrainState, batch: Batch, constants: Any = {}) -> tuple[Gradients, Scalars]:  # noqa: B006
        context = context_of(config, state, batch, constants)
        (loss, aux), grads = jax.value_and_grad(method.segmenter_loss, has_aux=True)(state.params, context)
        metrics = {
            "loss": loss,
            **aux.metrics,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": segmenter_schedule(config)(state.step),
        }
        carry = jax.lax.stop_gradient(aux.carry)
        if method.discriminator_loss is None:
            return Gradients(grads, {}, aux.stats, carry), metrics

        (_, d_metrics), d_grads = jax.value_and_grad(method.discriminator_loss, has_aux=True)(
            state.discriminator_params, context, carry
        )
        metrics = {**metrics, **d_metrics, "grad_norm_d": optax.tree.norm(d_grads)}
        return Gradients(grads, d_grads, aux.stats, carry), metrics

    return gradients


def build_update(config: ml_collections.ConfigDict) -> Callable[[TrainState, Gradients], TrainState]:
    """The second half of a step: both players move."""

    def update(state: TrainState, grads: Gradients) -> TrainState:
        optimizers = build_optimizers(state.params, config)
        updates, optimizer = optimizers.segmenter.update(grads.segmenter, state.optimizer, state.params)
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=grads.batch_stats,
            optimizer=optimizer,
        )
        if not state.discriminator_params:
            return new

        updates, optimizer = optimizers.discriminator.update(
            grads.discriminator, state.discriminator_optimizer, state.discriminator_params
        )
        return new.replace(
            discriminator_params=optax.apply_updates(state.discriminator_params, updates),
            discriminator_optimizer=optimizer,
        )

    return update
