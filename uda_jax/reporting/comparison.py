"""What finished runs scored, side by side: reads their workdirs; the cells of the IoU table, and what to say of it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from etils import epath

from uda_jax.errors import UserError
from uda_jax.files import entries, read_json_lines
from uda_jax.paths import to_path

SOURCE, ORACLE = "source-only", "oracle"
SMALLEST_GAP = 0.01  # mean IoU: below it a share of the gap is noise

Lines = Sequence[Mapping[str, Any]]  # the parsed lines of one metrics.jsonl
Runs = Mapping[str, Sequence[epath.PathLike]]  # label -> workdirs, one a seed, in display order


class Run(NamedTuple):
    """What a workdir holds; optional files that are missing are empty."""

    workdir: epath.Path
    evaluation: dict[str, Any]
    config: dict[str, Any]
    facts: dict[str, Any]  # run.json
    metrics: list[dict[str, Any]]
    trained_to: int = 0  # the newest step in the log or among the checkpoints


Read = Mapping[str, Sequence[Run]]  # label -> runs, one a seed


def read_runs(runs: Runs) -> dict[str, list[Run]]:
    """Reads all workdirs.

    Raises:
      UserError: no run is given, a file is missing or invalid, or the runs have different classes.
    """
    empty = [label for label, workdirs in runs.items() if not workdirs]
    if not runs or empty:
        which = f"label {empty[0]!r} has no workdir" if empty else "no runs given"
        raise UserError(f'{which}; expected LABEL=WORKDIR[,WORKDIR...], as in "source-only=runs/source_only"')
    read = {label: [_read_run(to_path(workdir)) for workdir in workdirs] for label, workdirs in runs.items()}
    first, *others = flat(read)
    for run in others:
        if run.evaluation["classes"] != first.evaluation["classes"]:
            raise UserError(
                f"{run.workdir / 'evaluation.json'}: classes {run.evaluation['classes']} differ from "
                f"{first.evaluation['classes']} in {first.workdir / 'evaluation.json'}; "
                "evaluate both runs on the same labelled split, or report them apart"
            )
    return read


def _read_run(workdir: epath.Path) -> Run:
    lines = read_json_lines(workdir / "metrics.jsonl")
    steps = [line["step"] for line in lines if isinstance(line.get("step"), int)]
    steps += [int(path.name) for path in entries(workdir / "checkpoints") if path.name.isdecimal()]
    return Run(
        workdir,
        _read_evaluation(workdir / "evaluation.json"),
        _read_object(workdir / "config.json"),
        _read_object(workdir / "run.json"),
        lines,
        max(steps, default=0),
    )


def _read_evaluation(path: epath.Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"{path}: not found; expected the scores that training writes at its end. Finish the run by its "
            f"own command (it resumes): python -m uda_jax.main --config=... --workdir={path.parent}"
        )
    evaluation = _read_object(path)
    iou, classes = evaluation.get("iou"), evaluation.get("classes")
    if not (_are_names(classes) and isinstance(iou, dict) and set(iou) == set(classes)):
        raise UserError(
            f'{path}: expected "classes", a list of names, and "iou", a ratio or null for each of them; '
            f"found classes {classes!r} and iou {iou!r}; evaluate the run again"
        )
    for name, value in iou.items():
        if value is not None and not (is_number(value) and 0 <= value <= 1):
            found = f"iou of {name!r} is {value!r}"
            raise UserError(f"{path}: {found}, expected 0..1 or null; evaluate the run again")
    scored = evaluation.setdefault("scored", classes)
    if scored != [] and not (_are_names(scored) and set(scored) <= set(classes)):
        raise UserError(f'{path}: "scored" is {scored!r}, expected some of {classes}; evaluate the run again')
    return evaluation


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(name, str) for name in value)


def _read_object(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file, {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); expected the file that the run wrote") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def flat(read: Read) -> list[Run]:
    """All runs of all labels, in display order."""
    return [run for seeds in read.values() for run in seeds]


def scores(read: Read) -> tuple[list[str], dict[str, np.ndarray]]:
    """Row names (the classes, then "mean") and for each label IoU ratios, float64 [seeds, classes + 1].

    NaN marks a class that does not occur; the mean is that of `mean_iou`.
    """
    classes = flat(read)[0].evaluation["classes"]
    return [*classes, "mean"], {
        label: np.array([[*_ious(run, classes), mean_iou(run)] for run in seeds]) for label, seeds in read.items()
    }


def mean_iou(run: Run) -> float:
    """Mean over the classes that the evaluation scored and that occur, a ratio; NaN if there is none."""
    return spread(_ious(run, run.evaluation["scored"]))[0]


def _ious(run: Run, classes: Sequence[str]) -> np.ndarray:
    return np.array([run.evaluation["iou"][name] for name in classes], float)  # null becomes NaN


def averaged(run: Run) -> set[str]:
    """The names of the classes that `mean_iou` is over."""
    return {name for name in run.evaluation["scored"] if run.evaluation["iou"][name] is not None}


def gap_closed(means: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Share of the gap from source-only to oracle that each other label closes, float64 [seeds] each.

    (adapted - source) / (oracle - source), seed by seed in the order given; a reference with another number
    of seeds enters with its mean. NaN where the oracle is less than a point above source-only: no gap to close.

    Args:
      means: for each label the mean IoU of each seed, float [seeds].

    Returns:
      Empty if "source-only" or "oracle" is not among the labels.
    """
    if SOURCE not in means or ORACLE not in means:
        return {}
    closed = {}
    for label, adapted in means.items():
        if label in (SOURCE, ORACLE):
            continue
        source, oracle = (_paired(means[name], len(adapted)) for name in (SOURCE, ORACLE))
        gap = np.where(oracle - source >= SMALLEST_GAP, oracle - source, np.nan)
        closed[label] = (adapted - source) / gap
    return closed


def _paired(reference: np.ndarray, seeds: int) -> np.ndarray:
    return reference if len(reference) == seeds else np.full(seeds, spread(reference)[0])


def percent(ratios: np.ndarray) -> str:
    """ "42.1" or, over several seeds, "42.1 ± 0.8" (sample sd) in percent; "-" if there is no number."""
    mean, sd = spread(100 * np.asarray(ratios))
    if np.isnan(mean):
        return "-"
    mean = round(mean, 1) + 0.0  # never -0.0
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def cells(names: Sequence[str], ious: Mapping[str, np.ndarray]) -> list[list[str]]:
    """The table's cells: a header row, a row for each class and a last row "mean"."""
    rows = [[name, *(percent(values[:, i]) for values in ious.values())] for i, name in enumerate(names)]
    return [["class", *ious], *rows]


def remarks(read: Read, ious: Mapping[str, np.ndarray]) -> list[str]:
    """Sentences that belong under the table: the gap closed, and what makes its columns hard to compare."""
    means = {label: values[:, -1] for label, values in ious.items()}
    lines = [
        f"{label} closes {percent(closed)} % of the gap between {SOURCE} and {ORACLE}."
        if np.isfinite(closed).any()
        else f"{label}: there is no gap to close, as {ORACLE} is not a point above {SOURCE}."
        for label, closed in gap_closed(means).items()
    ]
    if any(len(seeds) > 1 for seeds in read.values()):
        counts = ", ".join(f"{label} {len(seeds)}" for label, seeds in read.items())
        lines.append(f"± is the sample standard deviation over seeds (runs: {counts}).")
    evaluated = sorted({evaluated_on(run) for run in flat(read)})
    if len(evaluated) > 1:
        lines.append(f"Caution: the runs were evaluated on different images: {'; '.join(evaluated)}.")
    for run in flat(read):
        step = run.evaluation.get("step", run.trained_to)
        if run.trained_to > step:
            lines.append(
                f"Caution: {run.workdir} was scored at step {step}, but has been trained to {run.trained_to} since; "
                "its own command scores it again."
            )
    return [*lines, *_remarks_on_mean(flat(read))]


def _remarks_on_mean(runs: Sequence[Run]) -> list[str]:
    means_over = [averaged(run) for run in runs]
    partly = means_over[0].union(*means_over) - means_over[0].intersection(*means_over)
    if partly:  # a class that does not occur but is predicted scores 0 in one run and null in another
        return [f"Caution: not every run's mean takes in {', '.join(sorted(partly))}."]
    left_out = {name for run in runs for name, iou in run.evaluation["iou"].items() if iou is not None}
    left_out -= means_over[0]
    if left_out:
        return [f"The mean is over {len(means_over[0])} classes, without {', '.join(sorted(left_out))}."]
    return []


def evaluated_on(run: Run) -> str:
    """Dataset, split and number of images of a run's scores."""
    found = run.evaluation
    data = f"{found.get('dataset', 'unnamed data')} {found.get('split', '')}".strip()
    return f"{data}, {found.get('images', '?')} images"


def series(lines: Lines, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, float [N] each, in order; of two lines of a step the later counts."""
    points = {line["step"]: line[key] for line in lines if is_number(line.get(key)) and "step" in line}
    steps = sorted(points)
    return np.array(steps, float), np.array([points[step] for step in steps], float)


def spread(values: np.ndarray) -> tuple[float, float | None]:
    """Mean (NaN of nothing) and sample standard deviation (None for fewer than two) of the finite values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), None
    return float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else None


def is_number(value: object) -> bool:
    """Whether `value` is an int or a float (JSON's booleans are not numbers)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
