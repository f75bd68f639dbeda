"""AdamW with groups by pattern and a linear warm-up into poly, against PyTorch's under mmcv's rules."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from tests.parity import reference as ref
from tests.parity.selftraining import load, rule
from uda_jax.training.optimizers import adamw, decay_factors, poly_schedule, segmenter_groups, warmed_up

FILE = "selftraining"
# The published rule: the first of these that is in a parameter's name decides alone.
RULES = ((".*pos_block.*", 1.0, 0.0), ("decode_head/.*", 10.0, 1.0), (".*norm.*", 1.0, 0.0))
BASE, STEPS, WARMUP = 0.01, 9, 3
Path = tuple[str, ...]


def problem() -> tuple[ref.Vectors, dict[Path, np.ndarray]]:
    """(vectors, parameters at the start by path)."""
    v = load(FILE)
    shapes = [tuple(map(int, shape.split("x"))) for shape in v["adamw/toy/param_shapes"]]
    names = v["adamw/param_names"].tolist()
    return v, {tuple(n.split(".")): rule("ADAMW", n, s) for n, s in zip(names, shapes, strict=True)}


def test_groups_by_pattern_are_those_of_mmcv() -> None:
    v, start = problem()
    params = traverse_util.unflatten_dict(start)
    groups, decays = segmenter_groups(params, 1.0, "train", RULES), decay_factors(params, RULES)
    for path, decay, rate in zip(start, v["adamw/weight_decay"], v["adamw/toy/base_lr"], strict=True):
        assert (0.01 * decays[path], BASE * groups[path].multiplier) == (decay, pytest.approx(rate))


@pytest.mark.parametrize(
    ("case", "base", "steps", "warmup"), [("published", 6e-5, 40_000, 1500), ("toy", BASE, STEPS, WARMUP)]
)
def test_warm_up_into_poly(case: str, base: float, steps: int, warmup: int) -> None:
    v = load(FILE)
    schedule = warmed_up(poly_schedule(base, steps, 1.0), warmup)
    ours = np.array([schedule(jnp.asarray(step)) for step in v[f"adamw/{case}/iters"]])
    ref.check(FILE, "adamw: rates", ours, v[f"adamw/{case}/lr_1x"])
    ref.check(FILE, "adamw: rates", 10 * ours, v[f"adamw/{case}/lr_10x"])


def test_six_updates() -> None:
    """Of pos_block the first two alone: then it has no gradient, and PyTorch lets its decay and its counter rest."""
    v, start = problem()
    params: Any = traverse_util.unflatten_dict({k: jnp.asarray(x, jnp.float64) for k, x in start.items()})
    groups = segmenter_groups(params, 1.0, "train", RULES)
    schedule = warmed_up(poly_schedule(BASE, STEPS, 1.0), WARMUP)
    optimizer = adamw(schedule, groups, decays=decay_factors(params, RULES))
    state = optimizer.init(params)
    ends = np.cumsum([x.size for x in start.values()])[:-1]
    truth = ref.truth(v, "adamw/toy/params_after_step")
    for step, flat in enumerate(v["adamw/toy/grads"].astype(np.float64)):
        parts = zip(start.items(), np.split(flat, ends), strict=True)
        grads = {path: jnp.asarray(g.reshape(x.shape)) for (path, x), g in parts}
        updates, state = optimizer.update(traverse_util.unflatten_dict(grads), state, params)
        params = optax.apply_updates(params, updates)
        ours = traverse_util.flatten_dict(params)
        for path, theirs in zip(start, np.split(truth[step], ends), strict=True):
            if step < 2 or "pos_block" not in path:
                ref.check(FILE, "adamw: parameters", np.ravel(ours[path]), theirs)
