"""Optimizers of the two players, as the config says: schedules, groups by pattern, SGD as published, and AdamW."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import traverse_util

from uda_jax.errors import UserError

CHOICES = {"name": ("sgd", "adamw"), "variant": ("dedup", "torch2", "legacy")}

Params = Any
Schedule = Callable[[jax.Array], jax.Array]


def poly_schedule(base: float, steps: int, power: float = 0.9) -> Schedule:
    """base * (1 - step / steps) ** power, the DeepLab schedule; zero from `steps` on."""

    def schedule(step: jax.Array) -> jax.Array:
        # Subtracted as integers, so that float32 loses nothing near the end, where `optax.polynomial_schedule` of
        # 250,000 steps is 0.15 % off; in the default float from there on.
        remaining = jnp.maximum(steps - step, 0).astype(jnp.result_type(float))
        return base * (remaining / steps) ** power

    return schedule


def warmed_up(schedule: Schedule, steps: int, start: float = 1e-6) -> Schedule:
    """`schedule`, times a factor that rises linearly from `start` at step 0 to 1 at `steps` (mmcv's linear warm-up)."""

    def warm(step: jax.Array) -> jax.Array:
        missing = jnp.maximum(steps - step, 0).astype(jnp.result_type(float)) / max(steps, 1)
        return schedule(step) * (1 - missing * (1 - start))

    return warm if steps else schedule


class Group(NamedTuple):
    """How one parameter is trained.

    Attributes:
      multiplier: factor on the learning rate; zero freezes the parameter entirely.
      listings: how many times the published optimizer lists it.
    """

    multiplier: float
    listings: int


Rule = tuple[str, float, float]  # pattern that a parameter's whole path matches, factors on its rate and weight decay
Groups = dict[tuple[str, ...], Group]  # of every parameter, by path


def segmenter_groups(params: Params, head_multiplier: float, affine: str, rules: Sequence[Rule] = ()) -> Groups:
    """The group of every parameter: that of the first rule whose pattern matches its path, "backbone/layer1_0/...".

    Args:
      affine: "frozen" freezes scales and biases of the backbone's batch norm, whatever the rules say.
      rules: before the published ones, which are: heads at the multiplied rate, all else at the plain one.
    Raises:
      UserError: a pattern is no regular expression, or matches no parameter.
    """
    published: tuple[Rule, ...] = (("(aux_)?head/.*", head_multiplier, 1.0), (".*", 1.0, 1.0))
    paths = list(traverse_util.flatten_dict(params))
    chosen = {path: _first([*rules, *published], path) for path in paths}
    for rule in rules:
        if rule not in chosen.values():
            some = ", ".join("/".join(path) for path in paths[:3])
            raise UserError(
                f"config.optimizer.groups: {rule[0]!r} is the first to match of no parameter; there are {some}, ..."
            )

    def group(path: tuple[str, ...]) -> Group:
        if affine == "frozen" and path[0] == "backbone" and path[-1] in ("scale", "bias") and "bn" in path[-2]:
            return Group(0.0, 0)
        return Group(chosen[path][1], _listings(path))

    return {path: group(path) for path in paths}


def decay_factors(params: Params, rules: Sequence[Rule]) -> dict[tuple[str, ...], float]:
    """The factor on every parameter's weight decay, by path; 1 where no rule says otherwise."""
    return {path: _first([*rules, (".*", 1.0, 1.0)], path)[2] for path in traverse_util.flatten_dict(params)}


def _first(rules: Sequence[Rule], path: tuple[str, ...]) -> Rule:
    return next(rule for rule in rules if _matches(rule[0], "/".join(path)))


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error as error:
        raise UserError(f"config.optimizer.groups: {pattern!r} is no regular expression: {error}") from error


def _check_covered(groups: Groups, params: Params) -> None:
    """Every parameter is in a group, and no group is of another; that none is in two, a dict sees to."""
    differing = groups.keys() ^ traverse_util.flatten_dict(params).keys()
    assert not differing, f"groups and parameters differ: {sorted(differing)}"


def _listings(path: tuple[str, ...]) -> int:
    """How often AdaptSegNet lists a parameter: its list walks modules inside modules, so that in ResNets every
    convolution of a block is there three times and every downsampling convolution four times; the rest once."""
    if len(path) < 4 or path[0] != "backbone" or not path[1].startswith("layer"):
        return 1
    return 4 if path[2].startswith("downsample") else 3


class SGDState(NamedTuple):
    step: jax.Array
    momentum: Params


def listed_sgd(
    schedule: Schedule,
    groups: Groups,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    variant: str = "dedup",
    decays: Mapping[tuple[str, ...], float] | None = None,
) -> optax.GradientTransformation:
    """PyTorch's SGD with momentum and weight decay, applied once for every time a parameter is listed.

    One transformation for all groups and variants, and not `optax.partition` over chains of optax's: the difference of
    p before and after is rounded otherwise than -rate * m, and checkpoints hold this state.

    Args:
      schedule: learning rate by step.
      groups: `Group` of every parameter, by flattened path.
      variant: "dedup" counts every parameter once (the textbook). "torch2" repeats the update on a shared momentum
        buffer, as current PyTorch does with a repeated list (whose buffers are separate in the very first step).
        "legacy" is PyTorch <= 0.4.1, with which the published models were trained: there each repetition also adds
        the weight decay to the gradient itself, so that it grows from one listing to the next.
      decays: factors on the weight decay by path, 1 where there is none.
    """

    def init(params: Params) -> SGDState:
        return SGDState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update_one(path: tuple[str, ...], g: jax.Array, m: jax.Array, p: jax.Array, step: jax.Array) -> Any:
        group = groups[path]
        if group.multiplier == 0.0:
            return jnp.zeros_like(p), m
        rate = (schedule(step) * group.multiplier).astype(p.dtype)
        start, decay = p, weight_decay * (decays or {}).get(path, 1.0)
        for i in range(1 if variant == "dedup" else group.listings):
            decayed = g + decay * p
            g = decayed if variant == "legacy" else g
            fresh = (step == 0) if variant == "torch2" and i > 0 else False
            m = jnp.where(fresh, decayed, momentum * m + decayed)
            p = p - rate * m
        return p - start, m

    def update(grads: Params, state: SGDState, params: Params | None = None) -> tuple[Params, SGDState]:
        assert params is not None
        _check_covered(groups, params)
        g, m, p = (traverse_util.flatten_dict(tree) for tree in (grads, state.momentum, params))
        pairs = {path: update_one(path, g[path], m[path], p[path], state.step) for path in p}
        updates = traverse_util.unflatten_dict({k: u for k, (u, _) in pairs.items()})
        buffers = traverse_util.unflatten_dict({k: m for k, (_, m) in pairs.items()})
        return updates, SGDState(state.step + 1, buffers)

    return optax.GradientTransformation(init, update)


def adamw(
    schedule: Schedule,
    groups: Groups,
    weight_decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    decays: Mapping[tuple[str, ...], float] | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) as PyTorch has it: the decay is scaled by the rate, and so by its group's.

    Args:
      decays: as of `listed_sgd`.
    """
    inner = optax.scale_by_adam(b1, b2)

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        assert params is not None
        _check_covered(groups, params)
        rate = schedule(state.count)
        directions, state = inner.update(grads, state, params)
        d, p = (traverse_util.flatten_dict(tree) for tree in (directions, params))
        factors = decays or {}
        updates = {
            path: -(rate * group.multiplier).astype(p[path].dtype)
            * (d[path] + weight_decay * factors.get(path, 1.0) * p[path])
            for path, group in groups.items()
        }
        return traverse_util.unflatten_dict(updates), state

    return optax.GradientTransformation(inner.init, update)


class Optimizers(NamedTuple):
    segmenter: optax.GradientTransformation
    discriminator: optax.GradientTransformation


def segmenter_schedule(config: ml_collections.ConfigDict) -> Schedule:
    """The learning rate by step of what has the multiplier 1."""
    c = config.optimizer
    return warmed_up(poly_schedule(c.learning_rate, c.schedule_steps, c.power), c.warmup_steps, c.warmup_start)


def build_optimizers(params: Params, config: ml_collections.ConfigDict) -> Optimizers:
    """Listed SGD or AdamW for the segmenter, Adam for the discriminators, as `config.optimizer` says."""
    c = config.optimizer
    groups = segmenter_groups(params, c.head_multiplier, config.model.affine, c.groups)
    schedule, decays = segmenter_schedule(config), decay_factors(params, c.groups)
    if c.name == "adamw":
        segmenter = adamw(schedule, groups, c.weight_decay, c.adamw_b1, c.adamw_b2, decays)
    else:
        segmenter = listed_sgd(schedule, groups, c.momentum, c.weight_decay, c.variant, decays)
    return Optimizers(
        segmenter,
        optax.adam(
            poly_schedule(c.discriminator_learning_rate, c.schedule_steps, c.power),
            b1=c.discriminator_b1,
            b2=c.discriminator_b2,
        ),
    )
