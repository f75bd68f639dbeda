"""Small trees of images and labels as people have them, and what is right for each file; drawn from a seed.

`draw(rng, root)` writes one below `root`.
"""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep.pictures import TURNS
from tests.data_prep import picture_files as files
from tests.data_prep.picture_files import ODD_EXIF, encoded, exif, with_part
from tests.data_prep.raw_trees import raw_ids
from uda_jax.data import labels

Rng = np.random.Generator
NAMES = ("a", "b c", "50% #1", "-x", "ü é 街", "f/g", "d e/-f/h", "a.b", "(1)", "x" * 120)


class File(NamedTuple):
    """What a file holds and what must be stored: RGB or train ids, or None where it must be refused.

    sure: false where it may be refused too, and pixels are what Pillow reads, if anything.
    """

    content: bytes
    pixels: np.ndarray | None
    sure: bool = True


class Scene(NamedTuple):
    image_path: Path
    image: File
    label_path: Path
    label: File


class Tree(NamedTuple):
    """arguments: of build and verify, but for what only one of them takes; lost: links to nowhere."""

    arguments: list[str]
    dataset: str
    scenes: dict[str, Scene]
    lost: list[Path]


# Damage


def damaged(rng: Rng, content: bytes) -> bytes:
    """A PNG that is cut at random, changed at random, or nothing of the kind."""
    at = int(rng.integers(len(content)))
    changed = bytearray(content)
    changed[at] ^= 1 << int(rng.integers(8))
    kinds = {kind for kind, _ in files.parts(content)}
    wrong = files.assemble(files.parts(content), sorted(kinds)[rng.integers(len(kinds))])
    endless = files.assemble(files.parts(content)[:-1])
    return pick(rng, (content[:at], bytes(changed), wrong, endless, b"<html>Please log in</html>"))


def pick(rng: Rng, things):
    return things[rng.integers(len(things))]


def turned(rng: Rng, pixels: np.ndarray) -> tuple[np.ndarray, bytes]:
    """How a camera would store the picture, and the EXIF block that says how to hold it."""
    tag = int(rng.integers(2, 9))
    return np.ascontiguousarray(TURNS[{6: 8, 8: 6}.get(tag, tag)](pixels)), exif(tag)


# Images


def image(rng: Rng, size: tuple[int, int]) -> tuple[str, File]:
    """A suffix and an image of this (height, width), once it is upright."""
    pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    draw_one = pick(rng, (_converted, _converted, _jpeg, _jpeg, _wide, _turned, _odd_parts, _odd_parts, _damaged_image))
    content, right, sure = draw_one(rng, pixels)
    suffix = pick(rng, (".jpg", ".JPEG", ".png") if content.startswith(b"\xff\xd8") else (".png", ".PNG"))
    return suffix, File(content, right, sure)


def _shown(content: bytes) -> np.ndarray | None:
    """As Pillow reads it, without its orientation."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception:
        return None


def _converted(rng: Rng, pixels: np.ndarray):
    content = encoded(pixels, mode=pick(rng, ("1", "L", "LA", "P", "RGB", "RGBA")))
    return content, _shown(content), True


def _jpeg(rng: Rng, pixels: np.ndarray):
    form, options = pick(rng, (("JPEG", {"progressive": True}), ("JPEG", {"quality": 95}), ("MPO", {"save_all": True})))
    content = encoded(pixels, form, pick(rng, ("L", "RGB", "CMYK") if form == "JPEG" else ("RGB",)), **options)
    whole = _shown(content)
    if rng.random() < 0.3:
        at = int(rng.integers(len(content)))
        changed = content[:at] if rng.random() < 0.5 else content[:at] + bytes([rng.integers(256)]) + content[at + 1 :]
        return changed, _shown(changed), False
    return content, whole, True


def _wide(rng: Rng, pixels: np.ndarray):
    if rng.random() < 0.5:
        return encoded(pixels[..., 0] * np.uint16(257)), pixels[..., :1].repeat(3, axis=2), True
    return tf.io.encode_png((pixels.astype(np.uint16) << 8) + 77).numpy(), pixels, True


def _turned(rng: Rng, pixels: np.ndarray):
    if rng.random() < 0.4:
        stored, block = turned(rng, pixels[..., 0] * np.uint16(257))
        return encoded(stored, exif=block), pixels[..., :1].repeat(3, axis=2), True
    if rng.random() < 0.3:
        return encoded(pixels, exif=pick(rng, list(ODD_EXIF.values()))), pixels, True
    stored, block = turned(rng, pixels)
    return encoded(stored, exif=block), pixels, True


def _odd_parts(rng: Rng, pixels: np.ndarray):
    whole = encoded(pixels)
    others = [Image.fromarray(255 - pixels)]
    animated = encoded(pixels, save_all=True, append_images=others, default_image=bool(rng.integers(2)))
    odd = (
        with_part(whole, b"gAMA", bytes(rng.integers(0, 2, 4).tolist())),
        with_part(whole, b"sBIT", b"\5\5\5"),
        with_part(whole, b"tRNS", bytes(6)),
        with_part(whole, b"FOOB", b"libpng refuses what it should know, to go by the name"),
        with_part(whole, b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<a tiff:Orientation="6"/>'),
        whole + b"garbage",
        files.interlaced(pixels),
        animated,
    )
    return pick(rng, odd), pixels, True


def _damaged_image(rng: Rng, pixels: np.ndarray):
    return damaged(rng, encoded(pixels, mode=pick(rng, ("RGB", "L", "P")))), None, True


# Labels


class Ids(NamedTuple):
    """What label files hold: a key of `labels.TABLES`; whether they may be read by their colours; or only by them."""

    table: str
    colors: bool = True
    numbers: bool = True


def truth(rng: Rng, size: tuple[int, int]) -> np.ndarray:
    """Train ids of four classes, sky always, and ignored pixels."""
    values = np.array([10, 255, *rng.choice([k for k in range(19) if k != 10], 3, replace=False)], np.uint8)
    ids = values[rng.integers(0, len(values), size)]
    ids.flat[: len(values)] = values
    return ids


def label(rng: Rng, ids: Ids, train_ids: np.ndarray) -> File:
    """A label file of these train ids."""
    stored = raw_ids(train_ids, ids.table, 255 if ids.table == "train" else 0)
    makers = (
        _plain,
        _plain,
        _channels,
        _palette,
        _renumbered,
        _renumbered,
        _colors,
        _turned_label,
        _numbers,
        _no_label,
    )
    content, right = pick(rng, makers)(rng, ids, train_ids, stored)
    return File(content, train_ids if right else None)


def _plain(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    options = pick(rng, ({}, {"mode": "LA"}, {"exif": pick(rng, list(ODD_EXIF.values()))}))
    content = encoded(stored, **options) if rng.random() < 0.7 else encoded(stored.astype(np.uint16))
    return content, ids.numbers


def _channels(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    if rng.random() < 0.5:
        return encoded(stored, mode=pick(rng, ("RGB", "RGBA"))), ids.numbers
    others = rng.integers(0, 250, (*stored.shape, int(rng.integers(1, 4)))).astype(np.uint16)
    return tf.io.encode_png(np.dstack([stored, others])).numpy(), ids.numbers


def _colors_of(ids: Ids) -> np.ndarray:
    """RGB by id."""
    colors = np.zeros((256, 3), np.uint8)
    for row in labels.TABLES[ids.table]:
        if row.id >= 0 and not row.ignore:
            colors[row.id] = row.color
    return colors


def _as_palette(indices: np.ndarray, colors: np.ndarray) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(indices)
    picture.putpalette(colors.ravel().tolist())
    picture.save(stream, "PNG")
    return stream.getvalue()


def _palette(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    if rng.random() < 0.4:
        return _as_palette(stored, _colors_of(ids)), True
    anything = rng.integers(1, 250, (256, 3)).astype(np.uint8)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return _as_palette(stored, anything if rng.random() < 0.5 else ramp), ids.numbers


def _renumbered(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    """As optimisers and quantisers leave it; the first and the last id change places at least."""
    kept = np.unique(stored)[::-1]
    table = np.zeros(256, np.uint8)
    table[kept] = np.arange(len(kept))
    return _as_palette(table[stored], _colors_of(ids)[kept]), ids.colors


def _colors(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    colors = labels.palette()[train_ids]
    form = pick(rng, ("RGB", "RGBA", "adaptive"))
    if form == "adaptive":
        stream = io.BytesIO()
        Image.fromarray(colors).convert("P", palette=Image.Palette.ADAPTIVE).save(stream, "PNG")
        return stream.getvalue(), ids.colors
    return encoded(colors, mode=form), ids.colors


def _turned_label(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    lying, block = turned(rng, stored)
    return encoded(lying, exif=block), ids.numbers


def _numbers(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    """Under a PNG's name: whole numbers in 32 bits are ids, fractions are not."""
    kind, more = pick(rng, ((np.float32, 0), (np.int32, 0), (np.float32, 0.5)))
    return encoded((stored + more).astype(kind), "TIFF"), not more and ids.numbers


def _no_label(rng: Rng, ids: Ids, train_ids: np.ndarray, stored: np.ndarray) -> tuple[bytes, bool]:
    strange = stored.copy()
    strange.flat[0] = 77
    lossy = encoded(stored, pick(rng, ("JPEG", "MPO", "WEBP")))
    return pick(
        rng, (encoded(strange), lossy, b"", damaged(rng, encoded(stored)), damaged(rng, encoded(stored)))
    ), False


# Trees

OWN = {
    "both": Ids("cityscapes"),
    "colours": Ids("cityscapes", numbers=False),
}


def draw(rng: Rng, root: Path) -> Tree:
    """Writes a tree of one split: three scenes of any kind and a plain one."""
    kind = pick(rng, ("folders", "folders", "gta5", "cityscapes"))
    return {"folders": _folders, "gta5": _gta5, "cityscapes": _cityscapes}[kind](rng, root)


def _scenes(rng: Rng, ids: Ids, paths: Callable[[str, str], tuple[Path, Path]], names: list[str]) -> dict[str, Scene]:
    scenes = {}
    for name in names:
        size = int(rng.integers(4, 20)), int(rng.integers(5, 24))
        train_ids = truth(rng, size)
        suffix, picture = image(rng, size)
        found = label(rng, ids, train_ids)
        if name == names[-1]:
            suffix, picture = ".png", File(*_converted(rng, rng.integers(0, 256, (*size, 3)).astype(np.uint8)))
            found = File(encoded(labels.palette()[train_ids]) if ids.colors else encoded(train_ids), train_ids)
        image_path, label_path = paths(name, suffix)
        scenes[name] = Scene(image_path, picture, label_path, found)
        for path, content in ((image_path, picture.content), (label_path, found.content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return scenes


def _clutter(rng: Rng, root: Path, folder: Path) -> list[Path]:
    """Lays things about that are no pictures; returns links to nowhere, which must be named."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Thumbs.db", ".hidden.png", "._a.png", "notes.txt", ".ipynb_checkpoints/a-checkpoint.png"):
        if rng.random() < 0.3:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"not a picture")
    if rng.random() < 0.15:
        (folder / "lost.png").symlink_to(root / "nowhere.png")
        return [folder / "lost.png"]
    return []


def _linked(rng: Rng, root: Path, part: str) -> None:
    """Moves the subfolder "f" of images and labels elsewhere and leaves links."""
    for kind in ("images", "labels"):
        if (root / kind / part).is_dir():
            (root / f"far {kind}").mkdir()
            (root / kind / part).rename(root / f"far {kind}" / part)
            (root / kind / part).symlink_to(root / f"far {kind}" / part)


def _folders(rng: Rng, root: Path) -> Tree:
    maps = {"": Ids("train", colors=False), **{name: Ids(name) for name in ("train", "cityscapes", "gta5")}, **OWN}
    chosen = pick(rng, list(maps))
    arguments = [f"--split=train={root}"]
    if chosen in OWN:
        (root / "map.yaml").write_text(_own(OWN[chosen]))
    if chosen:
        arguments.append(f"--label_map={root / 'map.yaml' if chosen in OWN else chosen}")
    names = [str(name) for name in rng.permutation(NAMES)[:3]]
    scenes = _scenes(
        rng, maps[chosen], lambda n, s: (root / "images" / f"{n}{s}", root / "labels" / f"{n}.png"), [*names, "zz"]
    )
    if rng.random() < 0.3:
        _linked(rng, root, "f")
    return Tree(["--dataset=folders", *arguments], "folders/x", scenes, _clutter(rng, root, root / "images"))


def _own(ids: Ids) -> str:
    numbers = [f"  {row.id}: {row.train_id}" for row in labels.CITYSCAPES]
    colors = [f'  "{"%d, %d, %d" % c.color}": {c.train_id}' for c in labels.CLASSES] + ['  "#000000": ignore']  # noqa: UP031
    return "\n".join([f"classes: [{', '.join(labels.NAMES)}]", "colors:", *colors] + ["ids:", *numbers] * ids.numbers)


def _gta5(rng: Rng, root: Path) -> Tree:
    names = [f"{k:05}{pick(rng, ('', ' x', '%', 'ü'))}" for k in range(1, 5)]
    scenes = _scenes(rng, Ids("gta5"), lambda n, s: (root / "images" / f"{n}{s}", root / "labels" / f"{n}.png"), names)
    lost = _clutter(rng, root, root / "images")
    return Tree(["--dataset=gta5", f"--raw={root}"], "gta5", scenes, lost)


def _cityscapes(rng: Rng, root: Path) -> Tree:
    cities = itertools.cycle(("aachen", "bad ems"))

    def paths(name: str, suffix: str) -> tuple[Path, Path]:
        city = next(cities)
        image_path = root / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit{suffix}"
        return image_path, root / "gtFine" / "train" / city / f"{name}_gtFine_labelIds.png"

    scenes = _scenes(rng, Ids("cityscapes"), paths, [f"c_{k:06}_000019" for k in range(4)])
    for scene in scenes.values():
        beside = scene.label_path.name.replace("labelIds", pick(rng, ("color", "instanceIds", "labelTrainIds")))
        scene.label_path.with_name(beside).write_bytes(b"not looked at")
    lost = _clutter(rng, root, root / "leftImg8bit" / "train" / "aachen")
    return Tree(["--dataset=cityscapes", f"--raw={root}"], "cityscapes", scenes, lost)
