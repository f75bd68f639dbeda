"""The diagnosis of a teacher's labels."""

import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks.pseudo_labels import Said, table
from tests.training import forked
from uda_jax.evaluation.calibration import histogram
from uda_jax.training.loop import train


def test_shares_of_a_class() -> None:
    everything = np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]])  # of truth 0 six are found, of 7 given to it 6 are right
    sure = np.array([[3, 0, 0], [1, 0, 0], [0, 0, 0]])
    calibration = histogram(np.full(10, 0.9), np.arange(10) < 7)
    text = table(Said(everything, sure, calibration), ["road", "sky", "car"])
    assert "| road | 75 | 86 | 57 | 75 |" in text
    assert "| sky | 50 | 33 | 0 | - |" in text
    assert "| car | - | - | - | - |" in text
    assert "40 % of the pixels are sure; right are 75 % of those and 67 % of the others. " in text
    assert "Calibration error 20.0 %" in text


@pytest.mark.slow
def test_a_run_is_read_at_every_checkpoint_and_one_without_a_teacher_is_refused(
    config: ConfigDict, tmp_path: Path
) -> None:
    config.model.update(affine="train", init="he", two_levels=False)
    config.method = "dacs"
    config.train.update(steps=2, checkpoint_every=1)
    train(config, tmp_path / "dacs")
    config.method = "source_only"
    train(config, tmp_path / "source_only")
    status, said = forked.run("benchmarks.pseudo_labels", str(tmp_path / "dacs"), str(tmp_path / "source_only"))
    assert re.findall(r"dacs, step (\d)", said) == ["1", "2"]
    found = [[int(x) for x in re.findall(r"\d+", line)] for line in said.splitlines() if line.startswith("| road")]
    assert len(found) == 2 and all(0 <= x <= 100 for row in found for x in row)
    assert status == 2 and "source_only was trained with 'source_only', without a teacher" in said
