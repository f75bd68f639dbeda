import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.conftest import shrink
from uda_jax.config import check_config, default_config
from uda_jax.errors import UserError
from uda_jax.models.networks import build_networks
from uda_jax.training.optimizers import (
    Group,
    adamw,
    build_optimizers,
    decay_factors,
    listed_sgd,
    poly_schedule,
    segmenter_groups,
)
from uda_jax.training.state import create_state


def test_poly_schedule_by_formula() -> None:
    schedule = poly_schedule(2.5e-4, 250_000)
    for step in (0, 1, 1000, 149_999, 249_999):
        np.testing.assert_allclose(schedule(step), 2.5e-4 * (1 - step / 250_000) ** 0.9, rtol=1e-5)
    assert schedule(250_000) == schedule(300_000) == 0


def run(optimizer: optax.GradientTransformation, params: dict, grads: list[dict]) -> dict:
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture
def problem() -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(0)

    def tree() -> dict:
        return {"a": {"kernel": jnp.asarray(rng.standard_normal(5), jnp.float32)}}

    return tree(), [tree() for _ in range(4)]


def test_once_listed_is_the_textbook_sgd_of_optax(problem: tuple[dict, list[dict]]) -> None:
    schedule = poly_schedule(0.1, 10)
    textbook = optax.chain(optax.add_decayed_weights(5e-4), optax.trace(0.9), optax.scale_by_learning_rate(schedule))
    groups = {("a", "kernel"): Group(1.0, 3)}
    for variant, listed in (("dedup", groups), ("torch2", {("a", "kernel"): Group(1.0, 1)})):
        ours = run(listed_sgd(schedule, listed, variant=variant), *problem)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, run(textbook, *problem))


def test_the_variants_differ_where_a_parameter_is_listed_again(problem: tuple[dict, list[dict]]) -> None:
    groups = {("a", "kernel"): Group(1.0, 3)}
    results = [
        run(listed_sgd(poly_schedule(0.1, 10), groups, variant=v), *problem)["a"]["kernel"]
        for v in ("dedup", "torch2", "legacy")
    ]
    for i in range(3):
        assert not np.allclose(results[i], results[i - 1], rtol=1e-5)


def test_groups_of_the_published_resnet() -> None:
    config = default_config()
    config.model.update(width=2, stem_width=2)
    config.data.source.size = (32, 64)
    params = jax.eval_shape(lambda: create_state(config, build_networks(config))).params
    groups = segmenter_groups(params, 10.0, "frozen")
    convs = {path: g for path, g in groups.items() if path[-1] == "kernel"}
    by_listing = {n: sum(g.listings == n for g in convs.values()) for n in (1, 3, 4)}
    assert by_listing == {1: 1, 3: 99, 4: 4}  # the stem, the blocks, the downsampling convolutions
    assert all(g == Group(0.0, 0) for path, g in groups.items() if path[-1] in ("scale",))
    heads = {g for path, g in groups.items() if path[0] in ("head", "aux_head")}
    assert heads == {Group(10.0, 1)}


def test_trainable_affine_is_trained_and_vgg_is_listed_once() -> None:
    config = shrink(default_config())
    config.model.update(backbone="vgg16")
    params = jax.eval_shape(lambda: create_state(config, build_networks(config))).params
    assert {g.listings for g in segmenter_groups(params, 1.0, "frozen").values()} == {1}
    assert {g.multiplier for g in segmenter_groups(params, 1.0, "frozen").values()} == {1.0}
    config.model.update(backbone="resnet18")
    params = jax.eval_shape(lambda: create_state(config, build_networks(config))).params
    assert 0.0 not in {g.multiplier for g in segmenter_groups(params, 10.0, "train").values()}


def test_rules_come_before_the_published_groups_and_cover_what_they_say() -> None:
    config = shrink(default_config())
    params = jax.eval_shape(lambda: create_state(config, build_networks(config))).params
    plain = segmenter_groups(params, 10.0, "frozen")
    rules = (("head/.*", 2.0, 0.5), ("backbone/layer4.*", 0.1, 1.0))
    groups = segmenter_groups(params, 10.0, "frozen", rules)
    assert groups.keys() == plain.keys()  # every parameter is in one
    for path, group in groups.items():
        if path[0] == "head":
            assert group == Group(2.0, 1)
        elif path[1].startswith("layer4") and plain[path].multiplier:
            assert group == plain[path]._replace(multiplier=0.1)
        else:
            assert group == plain[path]  # the frozen stay frozen
    assert {path[0] for path, factor in decay_factors(params, rules).items() if factor == 0.5} == {"head"}
    for pattern, words in (
        ("heads/.*", "'heads/.*' is the first to match of no parameter"),
        ("(", "no regular expression"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            segmenter_groups(params, 10.0, "frozen", [(pattern, 1.0, 1.0)])


@pytest.mark.parametrize("make", [listed_sgd, adamw])
@pytest.mark.parametrize("paths", [[("a", "bias")], [("a", "kernel"), ("a", "bias")], []])
def test_a_parameter_without_a_group_or_a_group_without_a_parameter_is_a_mistake(
    make: Callable[..., optax.GradientTransformation], paths: list[tuple[str, str]], problem: tuple[dict, list[dict]]
) -> None:
    params, grads = problem
    optimizer = make(poly_schedule(0.1, 10), dict.fromkeys(paths, Group(1.0, 1)))
    with pytest.raises(AssertionError, match="groups and parameters differ"):
        optimizer.update(grads[0], optimizer.init(params), params)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups_reach_the_update(name: str, problem: tuple[dict, list[dict]]) -> None:
    params, grads = problem
    config = default_config()
    config.optimizer.update(name=name, learning_rate=0.1, warmup_steps=2, weight_decay=0.1, schedule_steps=100)
    moved = {}
    for factor in (1.0, 0.5, 0.0):
        config.optimizer.groups = ((".*", factor, 0.0),)
        optimizer = build_optimizers(params, config).segmenter
        start = optimizer.init(params)
        _, warm = optimizer.update(grads[0], start, params)
        moved[factor] = optimizer.update(grads[0], warm, params)[0]["a"]["kernel"]
    np.testing.assert_allclose(moved[0.5], 0.5 * moved[1.0], rtol=1e-6)
    assert not moved[0.0].any() and moved[1.0].all()


def test_settings_of_the_other_optimizer_are_refused() -> None:
    for name, setting, value in (("adamw", "momentum", 0.5), ("adamw", "variant", "legacy"), ("sgd", "adamw_b1", 0.8)):
        config = default_config()
        config.optimizer.update({"name": name, setting: value})
        with pytest.raises(UserError, match=f"config.optimizer.{setting}={value!r} does nothing with"):
            check_config(config)
