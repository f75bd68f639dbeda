"""The one jitted program of training: a segmenter update and a discriminator update from the same outputs.

It knows the game and no paper. Both players move from the same point, as in the published code: gradients of
both are taken at the old parameters, then both are updated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from uda_jax.methods import METHODS
from uda_jax.networks import Networks
from uda_jax.optimizers import build_optimizers, segmenter_schedule
from uda_jax.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Gradients(NamedTuple):
    """What a batch says at one point, before anything moves.

    Attributes:
      segmenter, discriminator: gradients of the two players' losses; the latter empty without discriminators.
      batch_stats: the segmenter's running statistics after this batch.
    """

    segmenter: Any
    discriminator: Any
    batch_stats: Any


def build_step(
    config: ml_collections.ConfigDict, networks: Networks
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The pure function (state, batch) -> (state, metrics).

    The batch holds "source_image" uint8 [B, H, W, 3], "source_label" int32 [B, H, W] and, for methods that
    use the target, "target_image" uint8 [B, H', W', 3]. Metrics are scalars.
    """
    gradients, update = build_gradients(config, networks), build_update(config)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grads, metrics = gradients(state, batch)
        return update(state, grads), metrics

    return step


def build_gradients(
    config: ml_collections.ConfigDict, networks: Networks
) -> Callable[[TrainState, Batch], tuple[Gradients, Metrics]]:
    """The first half of a step: (state, batch) -> (gradients of both players, metrics).

    The forward passes that both losses write down are the same expressions, so the compiler runs each once
    (there is a test).
    """
    method = METHODS[config.method]

    def loss_of_segmenter(params: Any, state: TrainState, batch: Batch) -> Any:
        outputs, batch_stats = {}, state.batch_stats
        for domain in method.DOMAINS:  # source first: the running statistics follow this order
            outputs[domain], batch_stats = networks.segment(params, batch_stats, batch[f"{domain}_image"])
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        loss, metrics = method.segmenter_loss(
            params, state.discriminator_params, outputs, batch, state.step, key, config, networks
        )
        return loss, (outputs, batch_stats, metrics)

    def gradients(state: TrainState, batch: Batch) -> tuple[Gradients, Metrics]:
        (loss, (outputs, batch_stats, metrics)), grads = jax.value_and_grad(loss_of_segmenter, has_aux=True)(
            state.params, state, batch
        )
        metrics = {
            "loss": loss,
            **metrics,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": segmenter_schedule(config)(state.step),
        }
        if not state.discriminator_params:
            return Gradients(grads, {}, batch_stats), metrics

        (_, d_metrics), d_grads = jax.value_and_grad(method.discriminator_loss, has_aux=True)(
            state.discriminator_params, jax.lax.stop_gradient(outputs), config, networks
        )
        metrics = {**metrics, **d_metrics, "grad_norm_d": optax.tree.norm(d_grads)}
        return Gradients(grads, d_grads, batch_stats), metrics

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
