"""`python -m uda_jax.evaluate`: a finished run scores what it scored when it was trained, as does its exported file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.streets import builder as streets
from uda_jax.data import labels
from uda_jax.evaluate import main
from uda_jax.evaluation import calibration
from uda_jax.inference import scoring


def evaluate(data_dir: Path, *flags: str) -> int:
    return main([f"--data={data_dir}", "--dataset=streets/camera", *flags])


def test_a_run_scores_as_it_did(run: Path, exported: Path, data_dir: Path, tmp_path: Path) -> None:
    flags = [f"--checkpoint=run={run}", f"--checkpoint=file={exported}", f"--out={tmp_path / 'out'}"]
    assert evaluate(data_dir, *flags) == 0
    trained = json.loads((run / "evaluation.json").read_text())
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    for result in found.values():
        difference = np.abs(np.array(result["confusion"]) - np.array(trained["confusion"])).sum()
        assert difference <= 4  # of 10,000 pixels: ties by rounding
        assert result["miou"] == pytest.approx(trained["miou"], abs=1e-3)
        assert (result["images"], result["step"], result["settings"]["looked_at"]) == (5, 2, [32, 64])
        assert np.sum(result["calibration"], 0)[0] == np.sum(result["confusion"])
    with (tmp_path / "out" / "scores.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "run", "file"]
    assert rows.pop(0) == ["looked at", "64x32", "64x32"]
    assert [row[0] for row in rows[:19]] == list(labels.NAMES)
    assert {"mIoU-19", "mIoU-16", "mIoU-13", "calibration error"} <= {row[0] for row in rows}
    for name in ("confusion_run.png", "confusion_file.png", "reliability.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_other_ways_of_looking_are_said(exported: Path, data_dir: Path, tmp_path: Path) -> None:
    flags = ["--flip", "--scales=1,1.5", "--window=48x32", "--limit=2", "--only=road,car"]
    assert evaluate(data_dir, f"--checkpoint={exported}", f"--out={tmp_path / 'out'}", *flags) == 0
    (result,) = json.loads((tmp_path / "out" / "scores.json").read_text()).values()
    assert (result["images"], result["scored"]) == (2, ["road", "car"])
    assert result["settings"]["flip"] and result["settings"]["window"] == [32, 48]
    assert result["miou"] == pytest.approx(np.mean([result["iou"]["road"], result["iou"]["car"]]))


def test_labels_are_scored_as_large_as_they_are(exported: Path, tmp_path: Path) -> None:
    """The network sees 64x32; the labels have 128x64 pixels, and all of them count."""
    streets.build(tmp_path, size=(64, 128), train_images=1, val_images=1, workers=1)
    assert (
        main([f"--data={tmp_path}", "--dataset=streets/camera", f"--checkpoint={exported}", f"--out={tmp_path}"]) == 0
    )
    (result,) = json.loads((tmp_path / "scores.json").read_text()).values()
    assert result["settings"]["looked_at"] == [32, 64]
    assert 0.5 * 64 * 128 < np.sum(result["confusion"]) <= 64 * 128


def test_paths_may_have_an_equals_sign(exported: Path, data_dir: Path, tmp_path: Path) -> None:
    odd = tmp_path / "rate=3" / "model.npz"
    odd.parent.mkdir()
    odd.write_bytes(exported.read_bytes())
    flags = [f"--checkpoint={odd}", f"--checkpoint=labelled={odd}", "--limit=1", f"--out={tmp_path}"]
    assert evaluate(data_dir, *flags) == 0
    assert list(json.loads((tmp_path / "scores.json").read_text())) == ["model", "labelled"]


def test_means_that_must_not_be_compared_have_their_own_names() -> None:
    """19 classes, SYNTHIA's 16 and the 13 of older tables; a class that does not occur is in none of them."""
    iou = {name: i / 100 for i, name in enumerate(labels.NAMES)} | {"road": None}
    found = scoring.means(iou)
    assert found["mIoU-19"] == pytest.approx(sum(range(1, 19)) / 18 / 100)
    assert found["mIoU-16"] == pytest.approx((sum(range(1, 19)) - 9 - 14 - 16) / 15 / 100)
    assert found["mIoU-13"] == pytest.approx((sum(range(1, 19)) - 9 - 14 - 16 - 3 - 4 - 5) / 12 / 100)
    assert scoring.means({"road": 0.5, "car": 0.5}) == {}


def test_calibration_by_hand() -> None:
    """Two pixels of 0.9, one of them right, and one of 0.2, wrong: (2 * |0.9 - 0.5| + 0.2) / 3."""
    counts = calibration.histogram(np.array([0.9, 0.9, 0.2]), np.array([True, False, False]))
    assert counts.shape == (15, 3)
    assert calibration.expected_error(counts) == pytest.approx((2 * 0.4 + 0.2) / 3)
    sure = calibration.histogram(np.array([1.0]), np.array([True]))
    assert calibration.expected_error(sure) == 0
    assert np.isnan(calibration.expected_error(np.zeros((15, 3))))


def test_labels_of_other_classes(exported: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (info,) = (data_dir / "streets" / "camera").glob("*/metadata.json")
    before = info.read_text()
    try:
        info.write_text(before.replace('"sidewalk"', '"pavement"'))
        assert evaluate(data_dir, f"--checkpoint={exported}") == 2
    finally:
        info.write_text(before)
    said = capsys.readouterr().err
    assert "knows 19 classes" in said and "pavement" in said and "label map" in said


def test_flags_that_cannot_work(
    exported: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = f"--checkpoint={exported}"
    for flags, message in (
        ([checkpoint, "--split=test"], "no split 'test'"),
        ([checkpoint, "--only=road,cat"], "'cat' is none of the classes"),
        ([checkpoint, checkpoint], "tell them apart"),
        ([f"--checkpoint=x={tmp_path / 'gone'}"], "there is no"),
    ):
        assert evaluate(data_dir, *flags) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "scores.json").write_text("mine")
    assert evaluate(data_dir, checkpoint, f"--out={tmp_path}") == 2
    assert (tmp_path / "scores.json").read_text() == "mine"
