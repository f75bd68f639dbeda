"""Your own images (and label maps) as a prepared dataset: `folders/<name>`.

A split is a directory of .jpg / .png images and, if it is labelled, a directory of label maps; files of the
same relative path without extension are one scene. Label maps are PNG files of train ids, or of whatever a label
map says.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds

from data_prep import label_map as maps
from data_prep.builders import Plan, SceneBuilder, write
from data_prep.files import Files, Scene, folder_files
from data_prep.label_map import LabelMap
from data_prep.left_out import first, tell
from data_prep.prepare import Recipe
from uda_jax import cli
from uda_jax.errors import UserError

# Split -> images directory, labels directory and, if both were found in one that was given, that one.
Splits = Mapping[str, tuple[str | Path, str | Path | None] | tuple[Path, Path | None, Path | None]]


class Folders(SceneBuilder):
    """Directories of images and label maps."""

    name = "folders"


def build(
    out: str | Path,
    name: str,
    splits: Splits,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
    *,
    label_map: LabelMap = maps.TRAIN_IDS,
    encoding: str = "png",
    workers: int = 1,
) -> Path:
    """Writes `<out>/folders/<name>/1.0.0` and returns it.

    The set appears only when it is complete, and only then replaces an older one.

    Args:
      out: the data directory.
      splits: split name -> (images directory, labels directory or None).
      size: (height, width) to store; None stores every image as it is.
      overwrite: replace a set of this name.
      label_map: what the label files hold, and the classes.
      encoding: "png" or "jpeg", of images that are not stored byte for byte.
      workers: processes.
    Raises:
      UserError: nothing to read, an image without its label or of another size than it, labels that the label map
        does not know, an unreadable file, two files of one name, or the set exists and `overwrite` is false.
    """
    files = {split: folder_files(*directories) for split, directories in splits.items()}
    tell(one for found in files.values() for one in found.left)
    scenes = {split: paired(files[split], *directories[:2]) for split, directories in splits.items()}
    recipe = Recipe(partial(maps.read_train_ids, label_map=label_map), size, encoding)
    plan = Plan(scenes, dict.fromkeys(scenes, recipe), label_map.classes, workers, maps.first_ids(label_map))
    config = tfds.core.BuilderConfig(name=name)
    target = Path(out) / "folders" / name / str(Folders.VERSION)
    return write(lambda scratch: Folders(data_dir=scratch, config=config, plan=plan), target, overwrite)


def paired(files: Files, images: str | Path, label_maps: str | Path | None) -> list[Scene]:
    """Images with their labels, sorted by id; prints a warning about labels without an image.

    Raises:
      UserError: an image has no label.
    """
    found, labels = files.images, files.labels
    if labels is None:
        return [(stem, path, None) for stem, path in found.items()]
    missing = [str(found[stem]) for stem in found if stem not in labels]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(found)} images in {images} have no label map in {label_maps} "
            f"(same relative path, .png):\n{first(missing)}\n"
            "Add the labels, remove the images, or leave out the labels directory."
        )
    spare = [str(path) for stem, path in labels.items() if stem not in found]
    if spare:
        warning = f"warning: {len(spare)} label maps in {label_maps} have no image, left out:\n{first(spare)}"
        print(cli.printable(warning))
    return [(stem, path, labels[stem]) for stem, path in found.items()]
