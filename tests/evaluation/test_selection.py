"""Choosing by scores that need no target labels: which step, what it cost, and what is called oracle."""

import json
from pathlib import Path

import numpy as np
import pytest

from uda_jax.errors import UserError
from uda_jax.evaluation.selection import best, evaluations, rank_correlation, select_step
from uda_jax.reporting import selection
from uda_jax.reporting.comparison import Run

LINES = [
    {"step": 1, "loss": 3.0},
    {"step": 2, "eval/miou": 0.30, "eval/entropy": 0.20, "eval/flips": 0.90},
    {"step": 4, "eval/miou": 0.40, "eval/entropy": 0.10, "eval/flips": 0.80},
    {"step": 6, "eval/miou": 0.35, "eval/entropy": 0.05, "eval/flips": 0.90},
    {"step": 8, "eval/miou": 0.20},
]


def test_a_log_of_evaluations() -> None:
    found = evaluations(LINES)
    assert list(found) == [2, 4, 6, 8]
    assert found[4] == {"oracle": 0.40, "entropy": 0.10, "flips": 0.80}
    assert found[8] == {"oracle": 0.20}


@pytest.mark.parametrize(("by", "step"), [("entropy", 6), ("flips", 6), ("oracle", 4), ("last", 8)])
def test_the_best_of_the_kept_checkpoints(by: str, step: int, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert select_step(tmp_path, by, [2, 4, 6, 8]) == step
    assert select_step(tmp_path, by, [2]) == 2


def test_a_killed_run_leaves_half_a_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 9, "ev')
    assert select_step(tmp_path, "entropy", [2, 4, 6]) == 6


def test_what_was_not_scored_cannot_choose(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    with pytest.raises(UserError, match=r"none of the checkpoints.*\(8\) was evaluated by it.*eval.unlabelled"):
        select_step(tmp_path, "entropy", [8])
    with pytest.raises(UserError, match=r"eval.source_split"):
        select_step(tmp_path, "source_miou", [2, 4])
    with pytest.raises(UserError, match="expected one of last, entropy"):
        select_step(tmp_path, "miou", [2, 4])


def test_of_nothing_nothing_is_best() -> None:
    assert best([], "entropy") is None
    assert best([{"oracle": 0.1}], "entropy") is None


def test_rank_correlation_by_hand() -> None:
    """Ranks 0 1 2 3 and 0 2 1 3: 1 - 6 * 2 / (4 * 15)."""
    assert rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2], [1, 1, 2]) == pytest.approx(1)
    assert np.isnan(rank_correlation([1, 2], [1, 2]))
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def run(lines: list[dict[str, float]]) -> Run:
    return Run(Path("x"), {}, {}, {}, lines)  # type: ignore[arg-type]


def test_the_report_says_what_a_choice_cost() -> None:
    """The oracle's runs are no candidates: they were trained with target labels."""
    other = [{"step": 4, "eval/miou": 0.45, "eval/entropy": 0.15}, {"step": 6, "eval/miou": 0.5, "eval/entropy": 0.3}]
    oracle = [{"step": 6, "eval/miou": 0.9, "eval/entropy": 0.01}]
    by_labels, entropy, flips = selection.rows({"a": [run(LINES)], "b": [run(other)], "oracle": [run(oracle)]})
    assert by_labels[:4] == ["target labels (oracle)", "b at 6", "50.0", "0.0"]
    assert entropy[:4] == ["entropy", "a at 6", "35.0", "15.0"]
    # Ranks 3 1 0 2 4 and 0 2 1 3 4: 1 - 6 * 12 / (5 * 24), and less entropy is better.
    assert entropy[4] == "-0.40"
    assert flips[:2] == ["flips", "a at 6"]
    assert "| entropy | a at 6 |" in selection.markdown({"a": [run(LINES)], "b": [run(other)]})


def test_without_scores_there_is_no_table() -> None:
    assert selection.rows({"a": [run([{"step": 2, "eval/miou": 0.5}])]}) == []
    assert selection.markdown({}) == ""
