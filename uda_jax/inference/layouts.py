"""Where predictions are written, under which names and with which ids."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.inference.predictor import Size

KINDS = {"labels": ".png", "color": ".png", "overlay": ".jpg", "confidence": ".png", "entropy": ".png"}


class Layout(NamedTuple):
    """A set of files.

    Attributes:
      folder: below --out, of label maps; None: a folder a kind, below which names are those of the input.
      ids: what label maps hold, where the user did not say.
      size: (height, width) of label maps; None: the picture's own.
    """

    folder: str | None = None
    ids: str = "train"
    size: Size | None = None


LAYOUTS = {
    "folders": Layout(),
    "cityscapes": Layout("", "cityscapes"),  # what its server takes, zipped
    # The segmentation track of the VisDA-2017 challenge: the model trained on the source alone, and the adapted one.
    "visda17_source": Layout("source_pred_dir", "train", (720, 1280)),
    "visda17_adaptation": Layout("adaptation_pred_dir", "train", (720, 1280)),
}


def targets(layout: Layout, kinds: Sequence[str], out: Path, names: Iterable[Path]) -> dict[Path, dict[str, Path]]:
    """Name of a picture -> kind -> the file that is to hold it.

    Raises:
      UserError: two pictures would have the same file.
    """
    found, owners = {}, dict[Path, Path]()
    for name in names:
        found[name] = {kind: _target(layout, kind, out, name) for kind in kinds}
        for path in found[name].values():
            if path in owners:
                raise UserError(
                    f"{owners[path]} and {name} would both become {path}; rename one, or predict them apart"
                )
            owners[path] = name
    return found


def _target(layout: Layout, kind: str, out: Path, name: Path) -> Path:
    if layout.folder is None:
        return out / kind / name.with_suffix(KINDS[kind])
    return out / layout.folder / f"{name.stem}{KINDS[kind]}"


def check_free(files: dict[Path, dict[str, Path]]) -> None:
    """Raises UserError if any of them is there."""
    there = [path for kinds in files.values() for path in kinds.values() if path.exists()]
    if there:
        raise UserError(
            f"{there[0]} is there already ({len(there)} of the files to write are); nothing was written. Choose "
            "another --out, or say --existing=skip or --existing=overwrite"
        )


def id_writer(
    ids: str, classes: Sequence[str], own: dict[str, Any] | None = None
) -> tuple[Callable[..., Any], np.ndarray]:
    """(train ids uint8 [H, W] -> ids uint8 [H, W], palette uint8 [256, 3] of these).

    Args:
      ids: "train"; "cityscapes"; "own", the run's; or a label map as data_prep.build reads it, whose first id of each
        class is written.
      classes: by train id.
      own: class -> id, where the model says.

    Raises:
      UserError: a class has no id there, or one that 8 bits do not hold.
    """
    palette = labels.palette(classes)
    if ids == "train":
        return lambda train_ids: train_ids, palette
    known = _known(ids, own)
    missing = [name for name in classes if name not in known]
    if missing:
        raise UserError(
            f"--ids={ids} has no id for {', '.join(missing)}, which the model knows; its classes are {', '.join(known)}"
        )
    table, colors = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    for train_id, name in enumerate(classes):
        if not 0 <= known[name] <= 255:
            raise UserError(f"--ids={ids}: the id of {name} is {known[name]}, but a label map's pixels hold 0..255")
        table[train_id], colors[known[name]] = known[name], palette[train_id]
    return lambda train_ids: table[train_ids], colors


def _known(ids: str, own: dict[str, Any] | None) -> dict[str, int]:
    """Class -> id."""
    if ids == "cityscapes":
        return {c.name: c.cityscapes_id for c in labels.CLASSES}
    if ids == "own":
        if not own:
            raise UserError("--ids=own: the model does not say what ids its data had; give the label map, --ids=FILE")
        return own
    from data_prep import label_map

    return label_map.first_ids(label_map.load(ids))
