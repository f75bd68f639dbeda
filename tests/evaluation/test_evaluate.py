"""What is said of an evaluation, and what of it is kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from uda_jax.evaluation.evaluate import summary, write_evaluation
from uda_jax.training.writer import Writer

RESULT = {
    "dataset": "streets/camera",
    "split": "val",
    "images": 5,
    "miou": 0.5,
    "iou": {"road": 0.75, "car": 0.25, "train": None},
    "scored": ["road", "car", "train"],
}


def test_the_mean_says_how_many_classes_it_is_over() -> None:
    """A class that was asked for and does not occur is in no mean, but was counted."""
    assert "mean          50.0 over 2 classes (1 of those to score do not occur)" in summary(RESULT)
    assert summary(RESULT | {"scored": ["road", "car"]}).endswith("mean          50.0 over 2 classes")


def test_nothing_scored_is_null(tmp_path: Path) -> None:
    nothing = RESULT | {"miou": float("nan"), "iou": dict.fromkeys(RESULT["iou"]), "scored": []}
    assert summary(nothing).endswith("mean             - over 0 classes")
    write_evaluation(nothing, 3, tmp_path / "evaluation.json")
    text = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in text
    stored = json.loads(text)
    assert (stored["step"], stored["miou"]) == (3, None)
    assert summary(stored) == summary(nothing)


def test_the_log_has_no_nan(tmp_path: Path) -> None:
    with Writer(tmp_path, 0, 4, "x") as writer:
        writer.write(1, {"eval/miou": float("nan"), "loss": np.float32(0.5).item()})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "eval/miou": null, "loss": 0.5}\n'


def test_a_resumed_log_drops_what_comes_again(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 1, "eval/miou": 0.25}', "[3]", '{"step": 2, "loss": 2.0}', '{"st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    with Writer(tmp_path, 1, 4, "x") as writer:
        assert writer.evaluated == {1}
        writer.write(2, {"loss": 2.5})
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert kept == [*lines[:2], '{"step": 2, "loss": 2.5}']


@pytest.mark.parametrize("content", ["", "\n\n", "\x00\x00"])
def test_a_log_without_lines(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)
    with Writer(tmp_path, 5, 6, "x") as writer:
        assert writer.evaluated == set()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
