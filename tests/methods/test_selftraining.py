"""DACS, DAFormer and MIC beyond the published vectors: what is drawn, switches, and what happens at the edges."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import random_batch
from tests.training.test_train import lines
from uda_jax.config import check_config
from uda_jax.errors import UserError
from uda_jax.methods import build_method, colours, masking, mixing, selftraining
from uda_jax.methods.feature_distance import feature_distance
from uda_jax.models.networks import build_networks
from uda_jax.training.loop import train
from uda_jax.training.state import TrainState, create_state, make_constants
from uda_jax.training.step import build_step

CLASSES, IGNORED = 19, 19
METHODS = ("dacs", "daformer", "mic")


@pytest.fixture
def config(config: ConfigDict) -> ConfigDict:
    config.method = "dacs"
    config.model.update(two_levels=False, init="he", affine="train")
    config.dacs.threshold = 0.1  # fresh networks are never sure
    return config


def steps(config: ConfigDict, count: int = 1, batch: dict[str, jax.Array] | None = None) -> tuple[TrainState, dict]:
    networks = build_networks(config)
    state = jax.jit(lambda: create_state(config, networks))()
    constants = jax.jit(partial(make_constants, config, networks))(state.params, state.batch_stats)
    step, metrics = jax.jit(build_step(config, networks)), {}
    for seed in range(count):
        state, metrics = step(state, batch or random_batch(config, seed), constants)
    return state, metrics


def labels_of(*ids: int) -> jax.Array:
    """One image of 2x4 pixels for each, all of that id; (255, 3) are two images."""
    return jnp.stack([jnp.full((2, 4), i) for i in ids])


@pytest.mark.parametrize(
    ("labels", "of", "ignored", "expected"),
    [
        ((3, 255), "image", True, [{3}, {IGNORED}]),
        ((3, 255), "image", False, [{3}, set()]),
        ((255, 255), "batch", False, [set(), set()]),  # no pixel has a label: nothing to paste
        ((255, 255), "batch", True, [{IGNORED}, {IGNORED}]),
        ((-1, 200), "batch", True, [{IGNORED}, {IGNORED}]),  # ids that are none
    ],
)
def test_what_may_be_pasted(labels: tuple[int, ...], of: str, ignored: bool, expected: list[set[int]]) -> None:
    chosen = mixing.choose_classes(jax.random.key(0), labels_of(*labels), CLASSES, of, ignored)
    assert [set(np.flatnonzero(row).tolist()) for row in chosen] == expected


def test_half_of_the_classes_are_pasted_each_as_often_as_any_other() -> None:
    labels = jnp.arange(7).reshape(1, 1, 7)
    chosen = jax.vmap(lambda key: mixing.choose_classes(key, labels, CLASSES, "batch", True)[0])(
        jax.random.split(jax.random.key(0), 2000)
    )
    assert (chosen.sum(-1) == 4).all() and not chosen[:, 7:].any()
    assert np.abs(chosen[:, :7].mean(0) - 4 / 7).max() < 0.05  # 4.5 standard deviations


def test_images_of_a_batch_get_other_classes_and_colours_unless_alike() -> None:
    labels = jnp.broadcast_to(jnp.arange(18).reshape(1, 2, 9), (2, 2, 9))
    chosen = mixing.choose_classes(jax.random.key(0), labels, CLASSES, "batch", True)
    assert (chosen[0] != chosen[1]).any()
    drawn = colours.draw_colours(jax.random.key(0), 16, 0.2, 0.8, 0.5)
    assert len(np.unique(drawn.sigma)) == 16 and len(np.unique(drawn.order, axis=0)) > 4
    assert (np.sort(drawn.order, -1) == np.arange(4)).all()
    assert (np.abs(drawn.factors - np.array([1, 1, 1, 0])) <= 0.2).all()
    alike = colours.draw_colours(jax.random.key(0), 16, 0.2, 0.8, 0.5, alike=True)
    assert len(np.unique(alike.sigma)) == 1 and len(np.unique(alike.order, axis=0)) == 1
    assert len(np.unique(alike.factors[:, 0])) == 16


def test_colours_and_blur_come_as_often_as_asked() -> None:
    drawn = jax.vmap(lambda key: colours.draw_colours(key, 1, 0.2, 0.8, 0.5))(jax.random.split(jax.random.key(0), 2000))
    assert drawn.jitter.mean() == pytest.approx(0.8, abs=0.04)
    assert drawn.blur.mean() == pytest.approx(0.5, abs=0.05)


def test_nothing_drawn_leaves_images_as_they_are() -> None:
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    none = colours.draw_colours(jax.random.key(1), 2, 0.2, 0.0, 0.0)
    np.testing.assert_array_equal(colours.recoloured(images, none), images)
    both = colours.draw_colours(jax.random.key(1), 2, 0.2, 1.0, 1.0)
    assert np.abs(colours.recoloured(images, both) - images).max() > 0.01


def test_a_block_larger_than_the_image_hides_all_or_nothing() -> None:
    assert masking.grid((32, 64), 512) == (1, 1)
    shown = masking.shown(jnp.array([[[0.9]], [[0.5]]]), (32, 64), 0.7)
    assert shown[0].all() and not shown[1].any()


@pytest.mark.parametrize(("weight_of", "expected"), [("batch", [0.375] * 2), ("image", [0.25, 0.5])])
def test_weights_of_a_batch_or_an_image(weight_of: str, expected: list[float]) -> None:
    logits = np.zeros((2, 2, 2, 3))
    logits[0, 0, 0, 1] = logits[1, 0, :, 2] = 9
    c = selftraining.default_config(threshold=0.9, weight_of=weight_of, ignore_bottom=0.5)
    labels, weight, sure = selftraining.pseudo_labels(jnp.asarray(logits), c)
    assert sure == 0.375
    np.testing.assert_array_equal(labels[:, 0], [[1, 0], [2, 2]])
    np.testing.assert_allclose(weight[:, 0], np.broadcast_to(np.array(expected)[:, None], (2, 2)))
    assert not weight[:, 1].any()


def test_weights_of_a_pixel() -> None:
    logits = np.zeros((1, 1, 2, 3))
    logits[0, 0, 1, 2] = 9
    _, weight, _ = selftraining.pseudo_labels(
        jnp.asarray(logits), selftraining.default_config(threshold=0.9, weight_of="pixel")
    )
    assert weight.tolist() == [[[0, 1]]]


@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.slow) for name in METHODS[:2]] + ["mic"])
def test_a_step_of_each(config: ConfigDict, method: str) -> None:
    config.method = method
    config[method].threshold = 0.1
    state, metrics = steps(config)
    assert metrics["loss_mixed"] > 0 and 0 < metrics["sure_target"] <= 1
    assert ("loss_distance" in metrics) == (method != "dacs") and ("loss_masked" in metrics) == (method == "mic")
    assert all(np.isfinite(value).all() for value in metrics.values())
    # The teacher of step 1 is half of the first student and half of the second.
    networks = build_networks(config)
    before = create_state(config, networks)
    middle = jax.tree.map(lambda a, b: 0.5 * (a + b), before.params, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), middle, state.memory["params"])
    found = build_method(config, networks)
    assert found.evaluated(state)["params"] is state.params
    assert found.others["teacher"](state) is state.memory


@pytest.mark.slow
def test_a_step_in_bfloat16(config: ConfigDict) -> None:
    """MIC, which is DAFormer with masks, which is DACS with a distance."""
    config.method = "mic"
    config.mic.threshold = 0.0  # all pixels are sure, so that no rounding decides about their weight
    exact, in_float32 = steps(config)
    config.model.dtype = "bfloat16"
    state, metrics = steps(config)
    assert {x.dtype for x in jax.tree.leaves((state.params, state.memory))} == {jnp.dtype("float32")}
    for name in metrics.keys() & {"loss", "loss_seg_main", "loss_mixed", "loss_masked", "grad_norm"}:
        np.testing.assert_allclose(metrics[name], in_float32[name], rtol=0.05, err_msg=name)
    moved = [
        np.linalg.norm(np.ravel(a - b))
        for a, b in zip(*map(jax.tree.leaves, (state.params, exact.params)), strict=True)
    ]
    size = [np.linalg.norm(np.ravel(x)) for x in jax.tree.leaves(exact.params)]
    assert np.linalg.norm(moved) < 0.01 * np.linalg.norm(size)


@pytest.mark.slow
def test_before_its_start_it_is_source_only(config: ConfigDict) -> None:
    config.dacs.update(start_step=2, source_mean="valid")
    state, metrics = steps(config)
    config.method = "source_only"
    plain, _ = steps(config)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        (state.params, state.batch_stats),
        (plain.params, plain.batch_stats),
    )
    assert metrics["loss_mixed"] == 0


@pytest.mark.slow
def test_after_its_start_it_is_as_without_one(config: ConfigDict) -> None:
    config.dacs.start_step = 1
    _, metrics = steps(config, 2)
    assert metrics["loss_mixed"] > 0 and metrics["sure_target"] > 0


@pytest.mark.slow
def test_a_batch_without_any_label_trains_on_what_the_teacher_says(config: ConfigDict) -> None:
    batch = random_batch(config)
    batch["source_label"] = jnp.full_like(batch["source_label"], 255)
    config.dacs.paste_ignored = False
    _, metrics = steps(config, batch=batch)
    assert metrics["loss_seg_main"] == 0 and metrics["loss_mixed"] > 0
    config.method = "daformer"
    _, metrics = steps(config, batch=batch)
    assert metrics["loss_distance"] == 0  # no thing is there, and the loss is not NaN
    assert np.isfinite(metrics["grad_norm"])


def test_a_teacher_in_evaluation_mode_and_averaged_statistics(config: ConfigDict) -> None:
    config.dacs.update(teacher_mode="eval", teacher_stats="averaged", teacher_moves="after", scored="teacher")
    state, _ = steps(config)
    # It moves after its first step, for the first time: a copy.
    for name, tree in (("params", state.params), ("batch_stats", state.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, state.memory[name], tree)
    found = build_method(config, build_networks(config))
    assert found.evaluated(state) is state.memory and set(found.others) == {"student"}


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [("threshold", 1.5, "must be 0 to 1"), ("alpha", -0.1, "must be 0 to 1"), ("mask_block", 0, "must be at least 1")],
)
def test_settings_out_of_bounds_are_named(config: ConfigDict, setting: str, value: float, words: str) -> None:
    config.dacs[setting] = value
    with pytest.raises(UserError, match=f"config.dacs.{setting}={value} {words}"):
        check_config(config)


def test_images_of_two_sizes_cannot_be_mixed(config: ConfigDict, tmp_path: Path) -> None:
    config.data.target.size = (32, 96)
    words = r"mixes images of two domains.*config.data.source of 64x32, config.data.target of 96x32; set crop"
    with pytest.raises(UserError, match=words):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_of_networks_that_pool_in_ceil_mode() -> None:
    """A column and a row more than the image's eighths: labels are filled up, and the last ones count in them."""
    labels = np.zeros((1, 32, 64), int)
    labels[:, :, 56:] = 11
    features = jnp.broadcast_to(jnp.arange(9.0)[:, None], (1, 5, 9, 1))
    for of, expected in (((11,), 7.0), ((0,), 3.0), ((5,), 0.0)):
        distance = feature_distance(features, jnp.zeros_like(features), jnp.asarray(labels), of, 0.75, CLASSES)
        assert distance == expected


@pytest.mark.slow
def test_both_scores_are_logged_and_another_methods_checkpoint_is_refused(config: ConfigDict, tmp_path: Path) -> None:
    config.train.update(steps=2, eval_every=1)
    config.eval.unlabelled = 2
    train(config, tmp_path / "run")
    scored = [line for line in lines(tmp_path / "run") if "eval/miou" in line]
    assert len(scored) == 2 and all("eval/miou_teacher" in line for line in scored)
    assert all(0 <= line["eval/agreement"] <= 1 for line in scored)
    config.method = "mic"
    with pytest.raises(UserError, match="method"):
        train(config, tmp_path / "run")
