"""What each part of APODA is worth: trains every variant with every seed and writes a table; rerun it to go on.

    python -m data_prep.build --dataset=streets --out=data
    python -m benchmarks.ablation --workdir=runs/ablation --seeds=3

Every run is an ordinary one in WORKDIR/<variant>/seed<n>; all but source-only go on from one warm-up a seed, whose
steps they share. After each of them WORKDIR/ablation.json and WORKDIR/ablation.md are written anew with all that is
finished. docs/apoda.md says what the variants are.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from uda_jax import cli, launch
from uda_jax.errors import UserError
from uda_jax.files import to_json, write_whole
from uda_jax.launch import launched
from uda_jax.paths import local
from uda_jax.reporting.comparison import Run, percent, read_runs
from uda_jax.reporting.text import table
from uda_jax.training.processes import gathered

HEAD_SHARE = 0.9
EPS = ("eps_discriminator", "eps_source", "eps_target")
# What the variants are changes of, whatever the config's own choice has become.
FIRST = {"adversarial_after_warmup": False, "perturbed_losses_train": "classifier"}
LARGER = 4
# Of an unverified recollection of the paper: docs/apoda.md.
RECOLLECTED = {"lambda_perturbed_source": 0.2, "lambda_consistency": 0.002, "lambda_ent_main": 0.0005}
DIAGNOSTICS = ("rms_source", "rms_target", "flip_source", "flip_target", "acc_d_main", "acc_d_main_perturbed")
Runs = dict[str, list[Path]]  # variant -> workdirs, one a seed


def variants(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """Label -> config, in the order of the table; "all + entropy" is `config` with `FIRST`."""
    c = config.apoda

    def only(*names: str) -> dict[str, Any]:
        return {name: c[name] if name in names else 0.0 for name in EPS} | {"lambda_ent_main": 0.0}

    kept = {"adversarial_after_warmup": True}
    larger = {name: LARGER * c[name] for name in EPS}
    changes = {
        "warm-up, then no attack": only(),
        "+ D attack": only("eps_discriminator"),
        "+ F attack on source": only("eps_source"),
        "+ F attack on target": only("eps_target"),
        "all": {"lambda_ent_main": 0.0},
        "all + entropy": {},
        "random signs instead": {"attack": "noise"},
        "whole-map instead": {"attack": "map"},
        "sequential, F on source alone": {"attack_order": "sequential", "eps_target": 0.0},
        "recollected weights": RECOLLECTED,
        **{f"K = {k}": {"attack_steps": k} for k in (1, 3, 5) if k != c.attack_steps},
        "adversarial loss kept": kept,
        "kept, no attack": kept | dict.fromkeys(EPS, 0.0),
        f"kept, eps x {LARGER}": kept | larger,
        f"kept, eps x {LARGER}, backbone too": kept | larger | {"perturbed_losses_train": "classifier+backbone"},
    }
    runs = {label: config.copy_and_resolve_references() for label in ("source-only", "AdaptSegNet", *changes)}
    runs["source-only"].method = "source_only"
    runs["AdaptSegNet"].method = "adaptsegnet"
    runs["AdaptSegNet"].adaptsegnet.update(gan=c.gan, lambda_adv_main=c.lambda_adv_main)
    for label, change in changes.items():
        runs[label].apoda.update(FIRST | change)
    return runs


def choose(config: ml_collections.ConfigDict, labels: Sequence[str]) -> dict[str, ml_collections.ConfigDict]:
    """The variants of these labels, of all for none.

    Raises:
      UserError: `config` is not APODA's, or a label is unknown.
    """
    if config.method != "apoda":
        raise UserError(f"the ablation is APODA's, but config.method={config.method!r}; use configs/streets_apoda.py")
    everything = variants(config)
    unknown = [label for label in labels if label not in everything]
    if unknown:
        raise UserError(f"--variants: {unknown[0]!r} is not one of {', '.join(map(repr, everything))}")
    return {label: run for label, run in everything.items() if not labels or label in labels}


def ablation(
    config: ml_collections.ConfigDict, workdir: Path, seeds: int = 1, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains what is not finished yet, seed by seed, and returns the content of ablation.json.

    Raises:
      Stopped, UserError: as `choose` and `uda_jax.training.loop.train`.
    """
    from uda_jax.training.loop import train

    chosen = choose(config, labels)
    finished: Runs = {}
    for seed in range(config.seed, config.seed + seeds):
        for label, run in chosen.items():
            directory = workdir / re.sub(r"\W+", "_", label).strip("_") / f"seed{seed}"
            run.seed = seed
            if run.method != "source_only" and not directory.exists() and config.apoda.warmup_steps:
                warmed_up = workdir / "warm_up" / f"seed{seed}"
                train(_warm_up(config, seed), warmed_up)
                if jax.process_index() == 0:
                    start_from(warmed_up, directory)
                gathered("started")  # no process looks into the workdir before it is there
            train(run, directory)
            gathered("trained")  # process 0 writes its results last
            finished.setdefault(label, []).append(directory)
            results = collect(finished, config.apoda.warmup_steps)
            if jax.process_index() == 0:
                write_whole(workdir / "ablation.json", to_json(results, indent=1) + "\n")
                write_whole(workdir / "ablation.md", markdown(results, finished))
    return results


def _warm_up(config: ml_collections.ConfigDict, seed: int) -> ml_collections.ConfigDict:
    run = config.copy_and_resolve_references()
    run.apoda.update(FIRST)  # as the variants: so a changed default does not lock an old warm-up out
    run.seed, run.train.steps = seed, min(config.apoda.warmup_steps, config.train.steps)
    return run


def start_from(warmed_up: Path, directory: Path) -> None:
    """Gives a new workdir the state and the log of another run, all at once: as if its run had taken these steps."""
    copy = directory.with_name(directory.name + ".partial")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(warmed_up / "checkpoints", copy / "checkpoints")
    shutil.copy(warmed_up / "metrics.jsonl", copy)
    copy.rename(directory)


def collect(finished: Runs, warmup_steps: int) -> dict[str, Any]:
    """What the runs say: means and diagnostics of every seed, and which classes are head and tail."""
    read = read_runs(finished)
    first = next(iter(read.values()))[0]
    head = head_classes(first)
    tail = [name for name in first.evaluation["scored"] if name not in head]
    return {
        "data": {k: first.evaluation[k] for k in ("dataset", "split", "images")},
        "steps": first.evaluation["step"],
        "head": head,
        "tail": tail,
        "variants": {
            label: [
                {
                    "workdir": str(run.workdir),
                    "miou": run.evaluation["miou"],
                    "head": mean_over(run, head),
                    "tail": mean_over(run, tail),
                    "iou": run.evaluation["iou"],
                    "diagnostics": diagnostics(run, warmup_steps),
                }
                for run in runs
            ]
            for label, runs in read.items()
        },
    }


def head_classes(run: Run) -> list[str]:
    """The scored classes that are most frequent in the truth, down to the one that completes 90 % of its pixels."""
    pixels = dict(zip(run.evaluation["classes"], np.sum(run.evaluation["confusion"], axis=1), strict=True))
    ranked = sorted(run.evaluation["scored"], key=lambda name: -pixels[name])
    before = np.cumsum([0, *(pixels[name] for name in ranked)])[:-1]
    total = sum(pixels[name] for name in ranked)
    return [name for name, sum_before in zip(ranked, before, strict=True) if sum_before < HEAD_SHARE * total]


def mean_over(run: Run, names: Sequence[str]) -> float | None:
    """Mean IoU of those of the classes that occur, None for none."""
    ious = [run.evaluation["iou"][name] for name in names if run.evaluation["iou"][name] is not None]
    return float(np.mean(ious)) if ious else None


def diagnostics(run: Run, warmup_steps: int) -> dict[str, float]:
    """Means of the logged diagnostics after the warm-up, and flip rates by class of each domain; see docs/apoda.md."""
    lines = [line for line in run.metrics if "rms_source" in line]  # each of the steps since the line before it
    starts = [0, *(line["step"] for line in lines)]
    lines = [line for start, line in zip(starts, lines, strict=False) if start >= warmup_steps]
    if not lines:
        return {}
    mean = {name: float(np.mean([line[name] for line in lines])) for name in lines[0] if name != "step"}
    found = {name: mean[name] for name in DIAGNOSTICS}
    for name, share in mean.items():
        if name.startswith("predicted_") and share > 0:
            domain_and_class = name.removeprefix("predicted_")
            found[f"flip_{domain_and_class}"] = mean[f"flipped_{domain_and_class}"] / share
    return found


def markdown(results: Mapping[str, Any], finished: Runs) -> str:
    """The tables as a page: means and diagnostics by variant, then IoU by class."""
    data, names = results["data"], results["variants"]
    header = (
        "| variant | seeds | mIoU | less AdaptSegNet's | head | tail | RMS(d)/RMS(f) | flips | D, clean | perturbed |"
    )
    lines = [header, "| --- |" + " ---: |" * (header.count("|") - 2)]
    reference = _column(names.get("AdaptSegNet", ()), "miou")
    for label, seeds in names.items():
        miou = _column(seeds, "miou")
        paired = min(len(miou), len(reference))  # seed by seed, as the variants of a seed share its warm-up
        means = [percent(x) for x in (miou, miou[:paired] - reference[:paired])]
        means += [percent(_column(seeds, what)) for what in ("head", "tail")]
        logged = [run["diagnostics"] for run in seeds]
        pairs = [
            " / ".join(percent(_column(logged, f"{what}_{domain}")) for domain in ("source", "target"))
            for what in ("rms", "flip")
        ]
        accuracies = [percent(_column(logged, name)) for name in ("acc_d_main", "acc_d_main_perturbed")]
        lines.append(f"| {' | '.join([label, str(len(seeds)), *means, *pairs, *accuracies])} |")
    return f"""\
IoU in % on {data["dataset"]} {data["split"]}, {data["images"]} images, after {results["steps"]} steps; mean ± sample
standard deviation over seeds. Differences to AdaptSegNet are taken seed by seed. Head classes, from the most frequent
down to 90 % of the labelled pixels: {", ".join(results["head"])}; tail: {", ".join(results["tail"])}. RMS, flips
(source / target) and the accuracies of D, in %, are means over the logged steps after the warm-up.

{chr(10).join(lines)}

{table(finished, markdown=True)}"""


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One number of every seed as floats; NaN where a seed lacks it."""
    values = (row.get(name) for row in rows)
    return np.array([np.nan if value is None else value for value in values], float)


def main() -> None:
    config, workdir = flags.FLAGS.config, local(flags.FLAGS.workdir, "--workdir")
    with launched():
        ablation(config, workdir, flags.FLAGS.seeds, flags.FLAGS.variants)
        if jax.process_index() == 0:
            print(f"\n{(workdir / 'ablation.md').read_text()}\nwritten to {workdir / 'ablation.md'} and ablation.json")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", "configs/streets_apoda.py", "The whole method.", lock_config=True)
    flags.DEFINE_string("workdir", None, "Gets one directory a variant and seed, and the tables.", required=True)
    flags.DEFINE_integer("seeds", 1, "How many seeds, counted from config.seed.", lower_bound=1)
    flags.DEFINE_list("variants", [], "Only these, by their labels in the table; default: all.")
    flags.adopt_module_key_flags(launch)
    cli.run(main)
