"""A picture of what a self-training run learns from at its newest checkpoint: mixtures, pseudo-labels and weights.

    python -m benchmarks.mixture runs/dacs --out=mixture.png

A row for each image of the next batch. From the left: the source's image, the target's, what the teacher says of it
(black where it is not sure), the mixture with the colours that the student sees, its labels, and its pixels' weights
(black 0, white 1). Target labels are not read.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from uda_jax import cli
from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.export import class_names, find_step, read_config, restore_weights
from uda_jax.methods import Context, selftraining
from uda_jax.models.networks import build_networks
from uda_jax.training.loop import training_batches
from uda_jax.training.step import steps_key

GAP = 4  # pixels between pictures


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mixture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sys.exit(cli.answered(lambda: draw(args.workdir, args.out)))


def draw(workdir: Path, out: Path) -> None:
    """Writes the picture.

    Raises:
      UserError: no training run there, or none that mixes.
    """
    config = read_config(workdir)
    if "classes_of" not in config[config.method]:
        raise UserError(f"{workdir} was trained with {config.method!r}, which mixes nothing: name a run of 'dacs'")
    step = find_step(workdir)
    memory = restore_weights(workdir, config, step).memory
    batch = {key: jnp.asarray(value) for key, value in next(training_batches(config, step)).items()}
    palette = labels.palette(class_names(workdir, step, config.model.num_classes))
    columns = [colour_of(column, palette) for column in mixtures(config, memory, batch, step)]
    rows = [np.concatenate([framed(column[i]) for column in columns], 1) for i in range(config.train.batch_size)]
    Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP]).save(out)
    print(out)


def mixtures(config: ml_collections.ConfigDict, memory: dict, batch: dict, step: int) -> list[np.ndarray]:
    """The columns: images uint8 [B, H, W, 3], labels int [B, H, W] and weights float [B, H, W]."""
    settings, classes = config[config.method], config.model.num_classes
    source, label, target = batch["source_image"], batch["source_label"], batch["target_weak"]
    logits = build_networks(config).predict(memory["params"], memory["batch_stats"], target).main
    says, weight, _ = selftraining.pseudo_labels(logits, settings)
    _, confidence = selftraining.labelled(logits)
    key = jax.random.fold_in(steps_key(config), step)
    draws = selftraining.draw(Context(jnp.asarray(step), key, batch, {}, {}, memory, {}), settings, classes)
    mixed = selftraining.mixture(source.astype(jnp.float32), label, target.astype(jnp.float32), says, weight, draws)
    columns = [
        source,
        target,
        jnp.where(confidence >= settings.threshold, says, labels.IGNORE),
        jnp.round(mixed.images).astype(jnp.uint8),
        mixed.labels,
        mixed.weights,
    ]
    return [np.asarray(column) for column in columns]


def colour_of(column: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Any column as uint8 [B, H, W, 3]."""
    if column.ndim == 4:
        return column
    if np.issubdtype(column.dtype, np.integer):
        return palette[np.clip(column, 0, labels.IGNORE)].astype(np.uint8)
    return np.repeat(np.round(255 * column)[..., None].astype(np.uint8), 3, -1)


def framed(picture: np.ndarray) -> np.ndarray:
    """With a white gap at its right and below."""
    return np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
