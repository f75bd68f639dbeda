"""Your own images (and label maps) as a prepared dataset: `folders/<name>`.

A split is a directory of .jpg / .png images and, if it is labelled, a directory of label maps; files of the
same relative path without extension are one scene. Label maps are 8-bit single-channel PNG of train ids.
"""

import contextlib
import dataclasses
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageOps, UnidentifiedImageError

from data_prep import features
from uda_jax.data import labels
from uda_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = (".png",)
STORABLE = ("JPEG", "PNG")  # formats that the pipeline decodes

Scene = tuple[str, Path, Path | None]  # id, image file, label file
Splits = Mapping[str, tuple[str | Path, str | Path | None]]  # split -> images directory, labels directory


@dataclasses.dataclass(kw_only=True)
class FoldersConfig(tfds.core.BuilderConfig):
    """`scenes` of every split; `labelled` splits; `size` = (height, width) to store, None: as they are."""

    scenes: dict[str, list[Scene]] = dataclasses.field(default_factory=dict, repr=False)
    labelled: dict[str, bool] = dataclasses.field(default_factory=dict)
    size: tuple[int, int] | None = None


class Folders(tfds.core.GeneratorBasedBuilder):
    """Directories of images and label maps."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded (and TFDS 4.9.10 needs importlib_resources to look for checksums)
    builder_config: FoldersConfig

    def _info(self) -> tfds.core.DatasetInfo:
        metadata = features.metadata(self.builder_config.labelled)
        return self.dataset_info_from_configs(features=features.features(), metadata=metadata)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        config = self.builder_config
        return {split: _examples(scenes, config.size) for split, scenes in config.scenes.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("every split has its own generator")


def build(
    out: str | Path, name: str, splits: Splits, size: tuple[int, int] | None = None, overwrite: bool = False
) -> Path:
    """Writes `<out>/folders/<name>/1.0.0` and returns it.

    The set appears only when it is complete, and only then replaces an older one.

    Args:
      out: the data directory.
      splits: split name -> (images directory, labels directory or None).
      size: (height, width) to store; None stores every image as it is.
      overwrite: replace a set of this name.
    Raises:
      UserError: nothing to read, an image without its label or of another size than it, labels that are not
        train ids, an unreadable file, two files of one name, or the set exists and `overwrite` is false.
    """
    scenes = {split: find_scenes(*directories) for split, directories in splits.items()}
    labelled = {split: directories[1] is not None for split, directories in splits.items()}
    config = FoldersConfig(name=name, scenes=scenes, labelled=labelled, size=size)
    target = Path(out) / "folders" / name / str(Folders.VERSION)
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists. Give --overwrite to replace it, or choose another --name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
        builder = Folders(data_dir=scratch, config=config)
        with contextlib.redirect_stdout(io.StringIO()):  # it would praise the scratch directory
            builder.download_and_prepare()
        if target.exists():
            shutil.rmtree(target)
        Path(builder.data_dir).rename(target)
    return target


def find_scenes(images: str | Path, label_maps: str | Path | None) -> list[Scene]:
    """The scenes of one split, sorted by id; prints a warning about labels without an image.

    Raises:
      UserError: a directory is missing or empty, an image has no label, or two files have one name.
    """
    found = _by_stem(Path(images), IMAGE_SUFFIXES)
    if label_maps is None:
        return [(stem, path, None) for stem, path in found.items()]
    maps = _by_stem(Path(label_maps), LABEL_SUFFIXES)
    missing = [str(found[stem]) for stem in found if stem not in maps]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(found)} images in {images} have no label map in {label_maps} "
            f"(same relative path, .png):\n{_first(missing)}\n"
            "Add the labels, remove the images, or leave out the labels directory."
        )
    spare = [str(path) for stem, path in maps.items() if stem not in found]
    if spare:
        print(f"warning: {len(spare)} label maps in {label_maps} have no image, left out:\n{_first(spare)}")
    return [(stem, path, maps[stem]) for stem, path in found.items()]


def _by_stem(directory: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Relative path without extension -> file, sorted, subdirectories included, hidden files left out."""
    if not directory.is_dir():
        raise UserError(f"no such directory: {directory}")
    found: dict[str, Path] = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        stem = path.relative_to(directory).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"two files of one name: {found[stem]} and {path}. Remove or rename one.")
        found[stem] = path
    if not found:
        raise UserError(f"no images found in {directory} (looked for {', '.join(suffixes)}, subdirectories too)")
    return dict(sorted(found.items()))


def _first(names: list[str], count: int = 5) -> str:
    more = [f"  ... and {len(names) - count} more"] if len(names) > count else []
    return "\n".join([f"  {name}" for name in names[:count]] + more)


def _examples(scenes: list[Scene], size: tuple[int, int] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for stem, image_file, label_file in scenes:
        encoded, image = read_image(image_file)
        original = image.shape[:2]
        label = None if label_file is None else read_label(label_file)
        if label is not None and label.shape != original:
            raise UserError(
                f"{image_file} is {original[1]}x{original[0]} and its label {label_file} is "
                f"{label.shape[1]}x{label.shape[0]} (width x height): they must be of one size."
            )
        if size is not None and original != tuple(size):
            encoded, image = None, features.resize_image(image, size)
            label = None if label is None else features.resize_label(label, size)
        example = features.example(stem, image, label, original)
        yield stem, example if encoded is None else {**example, "image": encoded}


def read_image(path: Path) -> tuple[bytes | None, np.ndarray]:
    """RGB uint8 [H, W, 3], upright, with the file's bytes if they can be stored as they are (else None).

    Raises:
      UserError: the file is no readable image.
    """
    encoded = path.read_bytes()
    picture = _open(path, encoded)
    upright = picture.getexif().get(0x0112, 1) == 1  # the camera's orientation tag; TensorFlow ignores it
    as_is = picture.format in STORABLE and picture.mode == "RGB" and upright
    pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    return (encoded if as_is else None), pixels


def read_label(path: Path) -> np.ndarray:
    """Train ids uint8 [H, W] of an 8-bit grey or palette PNG (its indices).

    Raises:
      UserError: not readable, not single-channel, or with values that are no train ids.
    """
    picture = _open(path, path.read_bytes())
    if picture.mode not in ("L", "P"):
        raise UserError(
            f"{path} is an image of mode {picture.mode}: expected an 8-bit single-channel PNG of train ids "
            f"(0..{labels.NUM_CLASSES - 1}, {labels.IGNORE} = ignore). Coloured label pictures do not do."
        )
    label = np.asarray(picture)
    values = np.unique(label)
    strange = values[(values >= labels.NUM_CLASSES) & (values != labels.IGNORE)]
    if strange.size:
        raise UserError(
            f"{path} has label values {', '.join(map(str, strange))}: expected train ids "
            f"0..{labels.NUM_CLASSES - 1} or {labels.IGNORE} (ignore).{_hint(values)}"
        )
    return label


def _hint(values: np.ndarray) -> str:
    if values[values != labels.IGNORE].max() <= max(c.cityscapes_id for c in labels.CLASSES):
        return (
            " These look like Cityscapes labelIds, not train ids: map them with "
            'uda_jax.data.labels.id_table("cityscapes")[label].'
        )
    return ""


def _open(path: Path, encoded: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(encoded))
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read the image {path}: {error}. Replace or remove it.") from error
    return picture
