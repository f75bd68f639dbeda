"""Choosing among evaluations by scores that need no target labels, and by the one that does, which is called oracle."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from uda_jax.errors import UserError
from uda_jax.files import AnyPath, read_json_lines

ORACLE = "oracle"  # mIoU on the target: no choice that a user without labels could make
# Name -> whether higher is better; `uda_jax.evaluation.unlabelled` says what they are.
SCORES: Mapping[str, bool] = {
    "entropy": False,
    "information": True,
    "density": True,
    "flips": True,
    "mixval": True,
    "agreement": True,
    "source_miou": True,
}
CHOICES = ("last", *SCORES, ORACLE)

Scored = dict[str, float]  # by name of `SCORES`, and `ORACLE`


def evaluations(lines: Iterable[Mapping[str, Any]]) -> dict[int, Scored]:
    """Step -> its scores, from the lines of a metrics.jsonl."""
    found: dict[int, Scored] = {}
    for line in lines:
        if isinstance(line.get("eval/miou"), float):
            scores = {name: line[f"eval/{name}"] for name in SCORES if isinstance(line.get(f"eval/{name}"), float)}
            found[line["step"]] = {ORACLE: line["eval/miou"], **scores}
    return found


def best(scored: Sequence[Scored], by: str) -> int | None:
    """Which is best by that score, the last of equals; None if none has it."""
    sign = 1 if SCORES.get(by, True) else -1
    values = [sign * one[by] if by in one else -np.inf for one in scored]
    return len(values) - 1 - int(np.argmax(values[::-1])) if max(values, default=-np.inf) > -np.inf else None


def select_step(workdir: AnyPath, by: str, steps: Sequence[int]) -> int:
    """The step that `by` chooses of those evaluations of a run whose checkpoints are kept; "last" needs none.

    Raises:
      UserError: an unknown name, or no kept checkpoint was evaluated by it.
    """
    if by not in CHOICES:
        raise UserError(f"--select={by}: expected one of {', '.join(CHOICES)}")
    if by == "last" or not steps:
        return max(steps, default=0)
    scored = evaluations(read_json_lines(workdir / "metrics.jsonl"))
    kept = {step: scores for step, scores in scored.items() if step in steps and by in scores}
    chosen = best(list(kept.values()), by)
    if chosen is None:
        how = "--config.eval.source_split" if by == "source_miou" else "--config.eval.unlabelled"
        raise UserError(
            f"--select={by}: none of the checkpoints in {workdir} ({', '.join(map(str, steps))}) was evaluated by it; "
            f"train with {how} set and keep more (config.train.keep), or leave --select out for the last"
        )
    return list(kept)[chosen]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: 1 where both order alike; NaN for fewer than three, or where all are equal."""
    if len(a) < 3:
        return float("nan")
    one, other = (_ranks(np.asarray(values, float)) for values in (a, b))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places in order, equals sharing the mean of theirs."""
    less = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return less + (equal - 1) / 2
