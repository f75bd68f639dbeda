"""What a self-training run's teacher says of the target, class by class, at each checkpoint that was kept.

    python -m benchmarks.pseudo_labels runs/dusk/dacs/seed0

Target labels are read: this is a diagnosis, by which nothing may be chosen. `--config.train.keep` says how many
checkpoints a run keeps. Over the images of `config.data.eval` it prints Markdown, in percent, of every class

    found     its pixels that the teacher gives it (recall)
    right     pixels given to it that are its own (precision)
    sure      pixels given to it with `threshold` or more, of which
    true      are its own

and of all pixels how many are sure, how many of those and of the others are right, and the expected calibration error.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks.workdirs import report_on
from uda_jax.data import pipeline
from uda_jax.data.labels import IGNORE
from uda_jax.errors import UserError
from uda_jax.evaluation.calibration import expected_error, histogram
from uda_jax.evaluation.metrics import confusion_matrix
from uda_jax.export import class_names, read_config, restore_weights
from uda_jax.methods.selftraining import labelled
from uda_jax.models.networks import build_networks
from uda_jax.training import checkpoint


class Said(NamedTuple):
    """What a teacher says of a set.

    Attributes:
      all, sure: int64 [classes, classes], truth by prediction, over all pixels and over the sure ones.
      calibration: of `calibration.histogram`.
    """

    all: np.ndarray
    sure: np.ndarray
    calibration: np.ndarray


def main() -> None:
    report_on("benchmarks.pseudo_labels", __doc__, report)


def report(workdirs: list[Path]) -> None:
    """Prints a table a run and checkpoint.

    Raises:
      UserError: no training run there, or none with a teacher.
    """
    for workdir in workdirs:
        config = read_config(workdir)
        threshold = config[config.method].get("threshold")
        if threshold is None:
            raise UserError(f"{workdir} was trained with {config.method!r}, without a teacher: name a run of 'dacs'")
        count = build_count(config, threshold)
        for step in checkpoint.steps(workdir):
            names = class_names(workdir, step, config.model.num_classes)
            teacher = restore_weights(workdir, config, step).memory
            print(f"\n{workdir}, step {step}\n\n{table(said(config, teacher, count), names)}", flush=True)


def build_count(config: ml_collections.ConfigDict, threshold: float) -> Callable[..., Any]:
    """Jitted (weights, images, labels) -> (confusion, that of the sure pixels, confidence, classes), of a batch."""
    networks, classes = build_networks(config), config.model.num_classes

    def count(weights: Any, image: jax.Array, label: jax.Array) -> tuple[jax.Array, ...]:
        chosen, confidence = labelled(networks.predict(weights["params"], weights["batch_stats"], image).main)
        sure = jnp.where(confidence >= threshold, label, IGNORE)
        return *(confusion_matrix(truth, chosen, classes) for truth in (label, sure)), confidence, chosen

    return jax.jit(count)


def said(config: ml_collections.ConfigDict, teacher: Any, count: Callable[..., Any]) -> Said:
    """Counts over `config.data.eval`, at the size of the images that the network sees; `count` from `build_count`."""
    stream = config.data.eval
    stream.label_size = ()
    total: list[Any] = [0, 0, 0]
    for batch in pipeline.eval_batches(config.data.dir, stream, batch_size=1):
        label = np.where(batch["mask"][:, None, None], batch["label"], IGNORE)
        every, sure, confidence, chosen = map(np.asarray, count(teacher, batch["image"], label))
        counted = label < config.model.num_classes
        found = (every, sure, histogram(confidence[counted], chosen[counted] == label[counted]))
        total = [a + b for a, b in zip(total, found, strict=True)]
    return Said(*total)


def table(found: Said, names: list[str]) -> str:
    """Markdown; "-" where there is nothing to divide by."""

    def share(part: Any, whole: Any) -> str:
        return f"{100 * part / whole:.0f}" if whole else "-"

    right, right_and_sure = np.diag(found.all), np.diag(found.sure)
    lines = ["| class | found | right | sure | true |", "|---|---:|---:|---:|---:|"]
    for i, name in enumerate(names):
        given, sure = found.all[:, i].sum(), found.sure[:, i].sum()
        row = (share(right[i], found.all[i].sum()), share(right[i], given), share(sure, given))
        lines.append(f"| {name} | {' | '.join(row)} | {share(right_and_sure[i], sure)} |")
    pixels, sure = found.all.sum(), found.sure.sum()
    lines += [
        "",
        f"{share(sure, pixels)} % of the pixels are sure; right are {share(right_and_sure.sum(), sure)} % of those and "
        f"{share(right.sum() - right_and_sure.sum(), pixels - sure)} % of the others. Calibration error "
        f"{100 * expected_error(found.calibration):.1f} %.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
