"""What each score that needs no target labels would have picked of the runs in a report, and what that cost."""

from typing import NamedTuple

import numpy as np

from uda_jax.evaluation.selection import ORACLE as BY_LABELS
from uda_jax.evaluation.selection import SCORES, Scored, best, evaluations, rank_correlation
from uda_jax.reporting.comparison import ORACLE, Read, percent

HEADER = ("score", "picks, by seed", "mIoU of its picks, %", "below the best, points", "rank correlation with mIoU")


class Candidate(NamedTuple):
    """An evaluation that could have been chosen."""

    label: str
    step: int
    scores: Scored


def candidates(read: Read) -> list[list[Candidate]]:
    """By seed, every evaluation of every run but the oracle's, which has seen target labels."""
    adapted = {label: seeds for label, seeds in read.items() if label != ORACLE}
    count = max((len(seeds) for seeds in adapted.values()), default=0)
    found = []
    for seed in range(count):
        runs = [(label, seeds[seed]) for label, seeds in adapted.items() if seed < len(seeds)]
        found.append([Candidate(label, *item) for label, run in runs for item in evaluations(run.metrics).items()])
    return [seed for seed in found if seed]


def rows(read: Read) -> list[list[str]]:
    """A row for each score that any run has, first of all the choice by target labels; [] without such scores."""
    seeds = candidates(read)
    logged = [name for name in SCORES if any(name in one.scores for seed in seeds for one in seed)]
    return [_row(name, seeds) for name in (BY_LABELS, *logged)] if logged else []


def _row(name: str, seeds: list[list[Candidate]]) -> list[str]:
    chosen, below, correlations = [], [], []
    for seed in seeds:
        at = best([one.scores for one in seed], name)
        if at is None:
            continue
        chosen.append(seed[at])
        below.append(max(one.scores[BY_LABELS] for one in seed) - seed[at].scores[BY_LABELS])
        pairs = [(one.scores[name], one.scores[BY_LABELS]) for one in seed if name in one.scores]
        sign = 1 if SCORES.get(name, True) else -1
        correlations.append(sign * rank_correlation(*zip(*pairs, strict=True)))
    picks = ", ".join(f"{one.label} at {one.step}" for one in chosen)
    finite = [value for value in correlations if np.isfinite(value)]
    return [
        "target labels (oracle)" if name == BY_LABELS else name,
        picks,
        percent(np.array([one.scores[BY_LABELS] for one in chosen])),
        percent(np.array(below)),
        f"{np.mean(finite):.2f}" if finite else "-",
    ]


def markdown(read: Read) -> str:
    """The table for docs; "" without scores."""
    table = rows(read)
    lines = [HEADER, ["---"] * len(HEADER), *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if table else ""
