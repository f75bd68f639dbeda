"""`python -m uda_jax.evaluate --checkpoint=[LABEL=]RUN_OR_FILE --data=data --dataset=cityscapes --split=val` scores
finished models on any labelled split, side by side where --checkpoint is given several times.

Prints IoU per class and the means; with --out=DIR also scores.json, scores.csv, a picture of what was taken for what
and one of how sure the models are. docs/predict.md explains each.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax import cli
from uda_jax.errors import UserError
from uda_jax.export import add_select
from uda_jax.files import make_directory, to_json, write_whole
from uda_jax.inference import figures, scoring
from uda_jax.inference.model import load_model
from uda_jax.paths import local, records_dir, user_path
from uda_jax.predict import add_settings, settings_of
from uda_jax.reporting.text import aligned


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2: the user can mend it)."""
    args = _parser().parse_args(argv)
    return cli.answered(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Raises UserError for what cannot work, before anything is scored."""
    settings, out = settings_of(args), local(args.out, "--out") if args.out else None
    data = str(records_dir(args.data, "--data"))
    if out is not None and not args.overwrite and (out / "scores.json").exists():
        raise UserError(f"{out} holds scores already; choose another --out, or say --overwrite")
    models = {}
    for given in args.checkpoint:
        label, path = _labelled(given)
        if label in models:
            raise UserError(
                f"--checkpoint={given}: there is a {label!r} already; tell them apart, --checkpoint=LABEL=PATH"
            )
        models[label] = load_model(user_path(path, "--checkpoint"), args.step, args.select)
        print(models[label])
        scoring.check_classes(models[label], data, args.dataset, args.split, args.only)
    if len({model.segmenter.classes for model in models.values()}) > 1:
        raise UserError("the models know different classes; evaluate them apart")
    results = {
        label: scoring.score(model, data, args.dataset, args.split, settings, args.limit, args.only)
        for label, model in models.items()
    }
    first = next(iter(results.values()))
    print(f"{args.dataset} {args.split}, {first['images']} images, in %")
    print(aligned(scoring.rows(results)))
    if out is not None:
        _write(results, out)
        print(f"wrote {out}")


def _labelled(given: str) -> tuple[str, str]:
    """(label, path) of LABEL=PATH or of a path alone, which may have a "=" in it."""
    label, equals, path = given.partition("=")
    return (label, path) if equals and not Path(given).exists() else (Path(given).stem, given)


def _write(results: dict[str, dict[str, Any]], out: Path) -> None:
    make_directory(out)
    for label, result in results.items():
        drawn = figures.confusion(np.asarray(result["confusion"]), result["classes"], f"{label}, {result['dataset']}")
        write_whole(out / f"confusion_{label.replace('/', '_')}.png", figures.png(drawn))
    write_whole(out / "reliability.png", figures.png(figures.reliability(results)))
    write_whole(out / "scores.csv", scoring.as_csv(scoring.rows(results)))
    write_whole(out / "scores.json", to_json(results, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m uda_jax.evaluate", description="Scores finished models.")
    parser.add_argument(
        "--checkpoint", action="append", required=True, metavar="[LABEL=]RUN_OR_FILE", help="may be given several times"
    )
    parser.add_argument("--step", type=int, help="which of a run's checkpoints; default: the newest")
    add_select(parser)
    parser.add_argument("--data", default="data", help="where data_prep.build put the records")
    parser.add_argument("--dataset", required=True, help="such as cityscapes or folders/mine")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=0, help="score the first images alone; 0 for all")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], metavar="CLASSES", help="that the mean is over"
    )
    parser.add_argument("--out", metavar="DIR", help="for scores.json, scores.csv and pictures")
    parser.add_argument("--overwrite", action="store_true", help="scores that are there")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
