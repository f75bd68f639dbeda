"""What there is to know of one scene: its files are read to their last byte and measured. Run by worker processes.

Nothing here judges, and no fault of a file raises: errors are among the facts.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_prep import mask_content, pictures
from data_prep.prepare import in_parallel
from data_prep.verify.ids import BANDS, mistaken_for
from uda_jax.data import labels
from uda_jax.errors import UserError

FEW = 32  # scenes that are read without starting processes

Size = tuple[int, int]  # height, width
In = TypeVar("In")


class Label(NamedTuple):
    """A label file as read.

    stored: the ids in the file, int32 [H, W], or if `colored` packed colours; train_ids: uint8 [H, W];
    unknown: values of `stored` that the data set does not have.
    """

    stored: np.ndarray
    train_ids: np.ndarray
    unknown: Sequence[int]
    colored: bool = False


class Spec(NamedTuple):
    """What the scenes of a data set should be.

    published: images of each split, as published; empty for own data.
    read_label: raises UserError for a file that cannot be a label of the set.
    names: the classes by train id.
    ids: the key of `labels.TABLES` that stored ids belong to; None: ids of the user's own.
    sizes: the (height, width) that images have as published; empty: any.
    mixed_sizes: a label may be of another size than its image.
    """

    name: str
    published: Mapping[str, int]
    read_label: Callable[[Path], Label]
    names: tuple[str, ...]
    ids: str | None
    sizes: tuple[Size, ...] = ()
    mixed_sizes: bool = False


class Item(NamedTuple):
    """One scene: where its files lie. `label` is None where there is none."""

    split: str
    id: str
    image: Path
    label: Path | None


class Facts(NamedTuple):
    """What was measured; a field keeps its default where a file is missing or cannot be read.

    size, label_size: (height, width), the image's after its EXIF rotation; raw_size: before it was resized and stored.
    oddities: what is unusual about how the image is stored, such as "grey" or "16-bit".
    digest: of the decoded pixels; `blank`: they are all of one colour; `masklike`: they look like a label map.
    mistaken: the key of `labels.TABLES` that the stored ids seem to belong to, where that is not the set's.
    classes: train id -> pixels; unknown: stored id or colour that the set does not have -> pixels.
    colors: (share of pixels in Cityscapes palette colours, number of colours) of a label that is a coloured picture.
    """

    split: str
    id: str
    image: str
    label: str = ""
    image_error: str = ""
    label_error: str = ""
    size: Size | None = None
    label_size: Size | None = None
    raw_size: Size | None = None
    oddities: tuple[str, ...] = ()
    digest: str = ""
    blank: bool = False
    masklike: bool = False
    mistaken: str = ""
    classes: Mapping[int, int] = {}
    unknown: Mapping[str, int] = {}
    colors: tuple[float, int] | None = None


def measure(function: Callable[[In], Facts], items: Iterable[In], count: int, workers: int) -> Iterable[Facts]:
    """Yields the facts of every item in order, with a progress bar on a terminal; a few are read without processes."""
    read = in_parallel(function, items, workers if count > FEW else 1)
    return tqdm(read, total=count, unit=" scenes", disable=None, leave=False)


def scan(spec: Spec, item: Item) -> Facts:
    """Reads both files of a scene in full."""
    facts = Facts(item.split, item.id, str(item.image), "" if item.label is None else str(item.label))
    try:
        image = pictures.read_image(item.image)[1]
        how = oddities(item.image.read_bytes(), item.image.suffix)
        facts = facts._replace(oddities=how, **measure_image(image))
    except Exception as error:  # decoders raise a dozen kinds on broken files
        facts = facts._replace(image_error=reason(error, item.image))
    return facts if item.label is None else facts._replace(**_scan_label(spec, item.label))


def _scan_label(spec: Spec, path: Path) -> dict[str, Any]:
    try:
        label = spec.read_label(path)
        measured = measure_label(label, spec.ids)
    except Exception as error:  # as above
        colors = _colors(path) if isinstance(error, UserError) else None
        return {"colors": colors} if colors else {"label_error": reason(error, path)}
    colors = _colors(path) if measured["unknown"] and not label.colored else None
    return {"colors": colors} if colors else measured


def measure_image(image: np.ndarray) -> dict[str, Any]:
    """The fields of `Facts` that RGB pixels uint8 [H, W, 3] give."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    blank = bool((image == image[:1, :1]).all())
    return {
        "size": image.shape[:2],
        "digest": digest.hexdigest(),
        "blank": blank,
        "masklike": mask_content.masklike(image),
    }


def measure_label(label: Label, ids: str | None) -> dict[str, Any]:
    """The fields of `Facts` that a label gives; `ids` as in `Spec`."""
    bands = [histogram(rows) for rows in np.array_split(label.stored, BANDS)]
    pixels = {value: tuple(band.get(value, 0) for band in bands) for value in sorted(set().union(*bands))}
    return {
        "label_size": label.stored.shape,
        "mistaken": mistaken_for(pixels, ids) if ids and not label.colored else "",
        "classes": histogram(label.train_ids),
        "unknown": {f"#{v:06x}" if label.colored else str(v): sum(pixels[v]) for v in label.unknown},
    }


def histogram(values: np.ndarray) -> dict[int, int]:
    """Value -> how often it occurs, of integers of any shape."""
    if not values.size:
        return {}
    low, high = int(values.min()), int(values.max())
    if high - low < 1 << 20:
        counts = np.bincount(values.ravel().astype(np.int64) - low)
        return {int(k) + low: int(counts[k]) for k in np.flatnonzero(counts)}
    return {int(value): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}


def oddities(encoded: bytes, suffix: str = "") -> tuple[str, ...]:
    """What is unusual about how an image is stored, from its header; `suffix` is its file name's, if it has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags that nobody reads
        picture = Image.open(io.BytesIO(encoded))
        mode, form, transparent = picture.mode, picture.format, "transparency" in picture.info
        if form == "PNG" and (b"eXIf" in encoded or b"Raw profile type exif" in encoded):
            picture.load()  # the tag may lie behind the pixels
    orientation = pictures.orientation(picture)
    right = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(suffix.lower(), form)
    found = {
        "grey": mode in ("1", "L", "LA") or mode.startswith("I"),
        "alpha": mode in ("LA", "PA", "RGBA", "La", "RGBa") or transparent,
        "palette": mode in ("P", "PA"),
        "16-bit": mode.startswith("I") or pictures.png_depth(encoded)[0] == 16,
        "CMYK": mode == "CMYK",
        f"EXIF orientation {orientation}": orientation != 1,
        f"{form} named {suffix}": form != right,
    }
    return tuple(name for name, present in found.items() if present)


def _colors(path: Path) -> tuple[float, int] | None:
    """The field `colors` of a label file; None if it is no coloured picture."""
    try:
        stored = pictures.read_values(path)
    except Exception:  # broken: reported by who called
        return None
    if not stored.colored:
        return None
    known = {pictures.pack(row.color) for table in labels.TABLES.values() for row in table}
    counts = histogram(stored.values)
    return sum(n for color, n in counts.items() if color in known) / stored.values.size, len(counts)


def reason(error: Exception, path: Path) -> str:
    """The first sentence of a message, without the name of the file, which will stand beside it."""
    text = str(error).splitlines()[0] if str(error) else ""
    for start in (f"cannot read the image {path}: ", f"{path}: ", f"{path} "):
        text = text.removeprefix(start)
    text = text.split(". ")[0].rstrip(".")
    expected = isinstance(error, UserError | OSError | SyntaxError)
    return text if expected and text else f"{type(error).__name__}: {text}"
