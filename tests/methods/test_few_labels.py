"""A few labelled target images beside a method."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import random_batch
from uda_jax.config import check_config, stream_of
from uda_jax.errors import UserError
from uda_jax.methods.losses import cross_entropy
from uda_jax.models.networks import build_networks
from uda_jax.training import checkpoint
from uda_jax.training.loop import train
from uda_jax.training.state import create_state
from uda_jax.training.step import build_gradients


@pytest.fixture
def few(config: ConfigDict) -> ConfigDict:
    config.model.update(affine="train", init="he", two_levels=False, norm="frozen", backbone="resnet18")
    config.few_labels.update(split="train[:2]", weight=0.5)
    return config


@pytest.mark.parametrize(
    "method", ["adaptsegnet", *(pytest.param(m, marks=pytest.mark.slow) for m in ("source_only", "dacs"))]
)
def test_their_cross_entropy_joins_the_loss_of_any_method(few: ConfigDict, method: str) -> None:
    few.method = method
    networks = build_networks(few)
    state, batch = jax.jit(lambda: create_state(few, networks))(), random_batch(few)
    assert batch["labelled_image"].shape == (*batch["labelled_label"].shape, 3)
    with_them, metrics = jax.jit(build_gradients(few, networks))(state, batch)
    few.few_labels.update(split="", weight=1.0)
    without, plain = jax.jit(build_gradients(few, networks))(state, batch)

    def theirs(params: dict) -> jax.Array:
        outputs, _ = networks.segment(params, state.batch_stats, batch["labelled_image"])
        return cross_entropy(outputs.main, batch["labelled_label"])

    loss, grads = jax.jit(jax.value_and_grad(theirs))(state.params)
    np.testing.assert_allclose(metrics["loss_labelled"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], plain["loss"] + 0.5 * loss, rtol=1e-5)
    expected = jax.tree.map(lambda a, b: a + 0.5 * b, without.segmenter, grads)
    largest = max(float(abs(x).max()) for x in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * largest), with_them.segmenter, expected
    )


def test_a_run_reads_no_more_labels_than_it_was_given(few: ConfigDict, tmp_path: Path) -> None:
    few.train.update(steps=2, checkpoint_every=2)
    train(few, tmp_path)
    assert checkpoint.read_about(tmp_path, 2)["records"]["labelled"] == 2
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss_labelled"] > 0 for line in logged if "loss" in line)
    few.data.oracle.dataset = "streets/rendered"
    with pytest.raises(UserError, match=r"data.oracle.dataset: 'streets/camera' there, 'streets/rendered' here"):
        train(few, tmp_path)


def test_the_few_are_drawn_alike_whatever_the_oracle_draws_by(few: ConfigDict) -> None:
    few.data.oracle.update(sampling="rare_class", rare_pixels=7, size=(32, 64))
    check_config(few)
    stream = stream_of(few, "labelled")
    assert (stream.sampling, stream.split, tuple(stream.size)) == ("uniform", "train[:2]", (32, 64))
    assert few.data.oracle.sampling == "rare_class"  # unmoved


def test_a_weight_without_labels_is_refused(few: ConfigDict) -> None:
    few.few_labels.split = ""
    with pytest.raises(UserError, match=r"config.few_labels.weight=0.5 does nothing with config.few_labels.split=''"):
        check_config(few)


@pytest.mark.parametrize("split", ["trian[:2]", "train[:0]"])
def test_a_split_that_gives_none_is_named(few: ConfigDict, tmp_path: Path, split: str) -> None:
    few.few_labels.split = split
    with pytest.raises(UserError, match=split.partition("[")[0]):
        train(few, tmp_path / "run")
    assert not (tmp_path / "run").exists()
