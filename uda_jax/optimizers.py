"""Optimizers of the two players: poly schedules, per-group rates and PyTorch's SGD with its listing quirk."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import traverse_util

Params = Any
Schedule = Callable[[jax.Array], jax.Array]


def poly_schedule(base: float, steps: int, power: float = 0.9) -> Schedule:
    """base * (1 - step / steps) ** power, the DeepLab schedule; zero from `steps` on."""

    def schedule(step: jax.Array) -> jax.Array:
        # Subtracted as integers, so that float32 loses nothing near the end; in the default float from there on.
        remaining = jnp.maximum(steps - step, 0).astype(jnp.result_type(float))
        return base * (remaining / steps) ** power

    return schedule


class Group(NamedTuple):
    """How one parameter is trained.

    Attributes:
      multiplier: factor on the learning rate; zero freezes the parameter entirely.
      listings: how many times the published optimizer lists it.
    """

    multiplier: float
    listings: int


def segmenter_groups(params: Params, head_multiplier: float, affine: str) -> dict[tuple[str, ...], Group]:
    """The published grouping by path: heads at the multiplied rate, frozen affines, and how often each is listed.

    AdaptSegNet's list walks modules inside modules, so that in ResNets every convolution of a block is listed three
    times and every downsampling convolution four times; the stem and the heads once.
    """

    def group(path: tuple[str, ...]) -> Group:
        if path[0] in ("head", "aux_head"):
            return Group(head_multiplier, 1)
        if affine == "frozen" and path[-1] in ("scale", "bias") and "bn" in path[-2]:
            return Group(0.0, 0)
        if len(path) < 4 or not path[1].startswith("layer"):
            return Group(1.0, 1)
        return Group(1.0, 4 if path[2].startswith("downsample") else 3)

    return {path: group(path) for path in traverse_util.flatten_dict(params)}


class SGDState(NamedTuple):
    step: jax.Array
    momentum: Params


def listed_sgd(
    schedule: Schedule,
    groups: dict[tuple[str, ...], Group],
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    variant: str = "dedup",
) -> optax.GradientTransformation:
    """PyTorch's SGD with momentum and weight decay, applied once for every time a parameter is listed.

    Args:
      schedule: learning rate by step.
      groups: `Group` of every parameter, by flattened path.
      variant: "dedup" counts every parameter once (the textbook). "torch2" repeats the update on a shared momentum
        buffer, as current PyTorch does with a repeated list (whose buffers are separate in the very first step).
        "legacy" is PyTorch <= 0.4.1, with which the published models were trained: there each repetition also adds
        the weight decay to the gradient itself, so that it grows from one listing to the next.
    """

    def init(params: Params) -> SGDState:
        return SGDState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update_one(path: tuple[str, ...], g: jax.Array, m: jax.Array, p: jax.Array, step: jax.Array) -> Any:
        group = groups[path]
        if group.multiplier == 0.0:
            return jnp.zeros_like(p), m
        rate = (schedule(step) * group.multiplier).astype(p.dtype)
        start = p
        for i in range(1 if variant == "dedup" else group.listings):
            decayed = g + weight_decay * p
            g = decayed if variant == "legacy" else g
            fresh = (step == 0) if variant == "torch2" and i > 0 else False
            m = jnp.where(fresh, decayed, momentum * m + decayed)
            p = p - rate * m
        return p - start, m

    def update(grads: Params, state: SGDState, params: Params | None = None) -> tuple[Params, SGDState]:
        assert params is not None
        g, m, p = (traverse_util.flatten_dict(tree) for tree in (grads, state.momentum, params))
        pairs = {path: update_one(path, g[path], m[path], p[path], state.step) for path in p}
        updates = traverse_util.unflatten_dict({k: u for k, (u, _) in pairs.items()})
        buffers = traverse_util.unflatten_dict({k: m for k, (_, m) in pairs.items()})
        return updates, SGDState(state.step + 1, buffers)

    return optax.GradientTransformation(init, update)


class Optimizers(NamedTuple):
    segmenter: optax.GradientTransformation
    discriminator: optax.GradientTransformation


def segmenter_schedule(config: ml_collections.ConfigDict) -> Schedule:
    """The learning rate of the segmenter's backbone by step; its heads' is `head_multiplier` times that."""
    c = config.optimizer
    return poly_schedule(c.learning_rate, c.schedule_steps, c.power)


def build_optimizers(params: Params, config: ml_collections.ConfigDict) -> Optimizers:
    """SGD for the segmenter's parameters and Adam for the discriminators', as `config.optimizer` says."""
    c = config.optimizer
    groups = segmenter_groups(params, c.head_multiplier, config.model.affine)
    return Optimizers(
        listed_sgd(segmenter_schedule(config), groups, c.momentum, c.weight_decay, c.variant),
        optax.adam(
            poly_schedule(c.discriminator_learning_rate, c.schedule_steps, c.power),
            b1=c.discriminator_b1,
            b2=c.discriminator_b2,
        ),
    )
