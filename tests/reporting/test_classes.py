"""Data sets of other classes than the nineteen: names, colours and the checks before a run starts."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from data_prep import folders
from data_prep.label_map import parse
from tests.conftest import SIZE, shrink
from tests.data_prep.raw_trees import save
from uda_jax.config import default_config
from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.evaluation.evaluate import check_classes, evaluate
from uda_jax.reporting import figures
from uda_jax.training.loop import train
from uda_jax.training.sharding import make_mesh

CLASSES = ["floor", "road", "lamp"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """folders/three (labelled), folders/bare (without labels), folders/other (three other classes)."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in "abcd":
        save(raw / "images" / f"{name}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(raw / "labels" / f"{name}.png", rng.integers(0, 3, SIZE, np.uint8))
    label_map = {"ids": {i: i for i in range(3)}}
    for name, classes in (("three", CLASSES), ("other", ["a", "b", "c"])):
        splits = {"train": (raw / "images", raw / "labels"), "val": (raw / "images", raw / "labels")}
        folders.build(out, name, splits, label_map=parse({"classes": classes, **label_map}, "map"))
    folders.build(out, "bare", {"train": (raw / "images", None)})
    return out


@pytest.fixture
def config(data: Path) -> ConfigDict:
    config = shrink(default_config(), str(data))
    config.model.num_classes = 3
    config.data.source.dataset = config.data.oracle.dataset = config.data.eval.dataset = "folders/three"
    config.data.target.dataset = "folders/bare"
    return config


def test_matching_classes_pass_and_unlabelled_sets_do_not_count(config):
    check_classes(config, ("source", "target", "eval"))  # folders/bare says 19 classes, but reads none


def test_another_number_of_classes_names_both_and_the_setting(config):
    config.model.num_classes = 19
    message = (
        r"config.model.num_classes=19, but folders/three \(config.data.source\) has 3 classes: floor, road, lamp. "
        r"Set --config.model.num_classes=3"
    )
    with pytest.raises(UserError, match=message):
        check_classes(config, ("source", "target", "eval"))


def test_different_classes_are_refused(config):
    config.data.eval.dataset = "folders/other"
    with pytest.raises(
        UserError, match=r"folders/three \(config.data.source\) and folders/other .*: floor, road, lamp"
    ):
        check_classes(config, ("source", "eval"))


def test_labels_that_are_needed_at_the_end_are_missed_at_the_start(config):
    config.data.eval.update(dataset="folders/bare", split="train")
    with pytest.raises(UserError, match=r"folders/bare \(config.data.eval\) has no labels in its split 'train'"):
        check_classes(config, ("source", "target", "eval"))


def test_scored_classes_must_exist(config):
    config.eval.classes = (0, 3)
    with pytest.raises(UserError, match=r"config.eval.classes has \[3\], but the train ids are 0..2"):
        check_classes(config, ("source", "eval"))


def test_a_run_checks_before_it_writes(config, tmp_path):
    config.model.num_classes = 5
    with pytest.raises(UserError, match="num_classes=5"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_has_the_names_and_colours_of_the_dataset(config, tmp_path):
    def step(_, batch):  # predicts the truth but for the first class
        predictions = jnp.maximum(batch["label"], 1).astype(jnp.uint8)
        cells = jnp.where(batch["mask"][:, None, None], 3 * batch["label"] + predictions, 9)
        return jnp.bincount(cells.ravel(), length=10)[:9].reshape(3, 3), predictions

    result = evaluate(None, config, step, make_mesh(), samples=tmp_path)
    assert result["classes"] == CLASSES and list(result["iou"]) == CLASSES
    assert result["iou"]["lamp"] == 1 and result["iou"]["floor"] == 0 and 0 < result["iou"]["road"] < 1
    palette = labels.palette(CLASSES)
    assert tuple(palette[1]) == (128, 64, 128) and len(np.unique(palette[:3], axis=0)) == 3 and not palette[3:].any()
    picture = np.asarray(Image.open(next(tmp_path.glob("*_prediction.png"))).convert("RGB"))
    assert {tuple(color) for color in picture.reshape(-1, 3)} <= {tuple(color) for color in palette[1:3]}
    assert list(figures.class_colors(CLASSES).values())[1] == "#804080"


@pytest.mark.slow
def test_a_run_on_three_classes(config, tmp_path):
    train(config, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["classes"] == CLASSES and result["images"] == 4 and 0 <= result["miou"] <= 1
