"""The one jitted program of training: a segmenter update, a discriminator update, and what the method remembers.

It knows the game and no paper. Both players move from the same point, as in the published code: gradients of
both are taken at the old parameters, then both are updated.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from uda_jax import runs
from uda_jax.methods import Context, Method, build_method
from uda_jax.methods.contract import Scalars
from uda_jax.models.networks import Networks
from uda_jax.training.optimizers import build_optimizers, segmenter_schedule
from uda_jax.training.sharding import replicated, split_images, unfilled
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
    """The pure function (state, batch, constants = {}, key = None) -> (state, metrics).

    The batch holds what the method's streams say (see `methods.contract.Stream`), `constants` what its `init_constants`
    made; `key` is the run's, by default that of the config's seed, which is then part of the program. Metrics are
    scalars.
    """
    method = build_method(config, networks)
    gradients, update = accumulated(_gradients(config, method), config.train.accumulate), build_update(config)

    def step(
        state: TrainState,
        batch: Batch,
        constants: Any = {},  # noqa: B006
        key: jax.Array | None = None,
    ) -> tuple[TrainState, Scalars]:
        grads, metrics = gradients(state, batch, constants, key)
        new = update(state, grads)
        context = context_of(config, key, state, batch, constants)
        return new.replace(memory=method.update_memory(context, grads.carry, new.params, new.batch_stats)), metrics

    return step


def jit_step(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> Any:
    """`build_step` for the mesh, (state, batch, constants, key) -> (state, metrics).

    The state is donated, the batch split. The key is `steps_key`, an argument so that one program is that of all seeds.
    """
    step, rows = build_step(config, networks), {k: x.shape[1] for k, x in runs.batch_of(config).items()}

    def on_mesh(state: TrainState, batch: Batch, constants: Any, key: jax.Array) -> tuple[TrainState, Scalars]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # `models.layers` asks how rows are split
            return step(state, unfilled(batch, rows), constants, key)

    return jax.jit(
        on_mesh,
        compiler_options=compiler_options(config.mesh.tpu_options) if mesh.devices.flat[0].platform == "tpu" else None,
        donate_argnums=0,
        in_shardings=(replicated(mesh), split_images(mesh), replicated(mesh), replicated(mesh)),
        out_shardings=replicated(mesh),
    )


def steps_key(config: ml_collections.ConfigDict) -> jax.Array:
    """What the randomness of a run's steps comes from; each folds in its number."""
    return run_key(config.seed, STEPS)


def compiler_options(given: tuple[str, ...]) -> dict[str, bool | str]:
    """("name=true", "other=3") -> {"name": True, "other": "3"}, as XLA wants them."""
    values: dict[str, bool | str] = {"true": True, "false": False}
    return {name: values.get(value, value) for name, _, value in (option.partition("=") for option in given)}


def accumulated(gradients: Callable[..., tuple[Gradients, Scalars]], parts: int) -> Callable[..., Any]:
    """`gradients` as means over `parts` of the batch, one after the other: their memory instead of the batch's.

    Losses that are means over pixels weigh the parts alike, whatever share of them is ignored. Batch norm sees a part
    at a time, and moves its running statistics with each; the carry is the last part's.
    """
    if parts == 1:
        return gradients

    def split(x: jax.Array) -> jax.Array:  # every parts-th image: of a batch over devices, each has some of each part
        return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

    def of_batch(state: TrainState, batch: Batch, constants: Any, key: jax.Array | None) -> tuple[Gradients, Scalars]:
        def one(before: tuple[Gradients, Scalars], part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
            sums, metrics = before
            number, images = part
            grads, more = gradients(state.replace(batch_stats=sums.batch_stats), images, constants, key, number)
            segmenter, discriminator, metrics = jax.tree.map(
                lambda total, x: total + x / parts,
                (sums.segmenter, sums.discriminator, metrics),
                (grads.segmenter, grads.discriminator, more),
            )
            return (Gradients(segmenter, discriminator, grads.batch_stats, grads.carry), metrics), None

        split_up = jnp.arange(parts), jax.tree.map(split, batch)
        first = jax.tree.map(lambda x: x[0], split_up)
        shapes = jax.eval_shape(gradients, state, first[1], constants, key, first[0])
        zeros, metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (grads, metrics), _ = jax.lax.scan(one, (zeros._replace(batch_stats=state.batch_stats), metrics), split_up)
        norms = {"grad_norm": grads.segmenter, "grad_norm_d": grads.discriminator}
        return grads, metrics | {name: optax.tree.norm(norms[name]) for name in norms.keys() & metrics.keys()}

    return of_batch


def context_of(
    config: ml_collections.ConfigDict,
    key: jax.Array | None,
    state: TrainState,
    batch: Batch,
    constants: Any,
    part: jax.Array | None = None,
) -> Context:
    key = jax.random.fold_in(steps_key(config) if key is None else key, state.step)
    return Context(
        state.step,
        key if part is None else jax.random.fold_in(key, part),
        batch,
        state.batch_stats,
        state.discriminator_params,
        state.memory,
        constants,
    )


def build_gradients(config: ml_collections.ConfigDict, networks: Networks) -> Callable[..., tuple[Gradients, Scalars]]:
    """The first half of a step: (state, batch, constants = {}, key = None, part = None) -> (gradients, metrics).

    The gradients are both players'; the key is as of `build_step`. A part of a batch has its number, and so randomness
    of its own.
    """
    return _gradients(config, build_method(config, networks))


def _gradients(config: ml_collections.ConfigDict, method: Method) -> Callable[..., tuple[Gradients, Scalars]]:
    def gradients(
        state: TrainState,
        batch: Batch,
        constants: Any = {},  # noqa: B006
        key: jax.Array | None = None,
        part: jax.Array | None = None,
    ) -> tuple[Gradients, Scalars]:
        context = context_of(config, key, state, batch, constants, part)
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
