"""A contact sheet: images beside their labels laid over them in class colours, to see that both fit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from uda_jax.data import labels
from uda_jax.errors import UserError

WIDTH = 320  # of a picture, pixels
COLUMNS = 2  # scenes side by side
TEXT = 16  # height of a line
OPACITY = 0.6  # of the colours; ignored pixels show the image
PAPER, INK = (255, 255, 255), (40, 40, 40)

Scene = tuple[str, np.ndarray, np.ndarray | None]  # name, RGB uint8 [H, W, 3], train ids uint8 [h, w]


def evenly(items: Sequence, count: int) -> list:
    """`count` of the items (all, if there are fewer), evenly spaced, the first and the last among them."""
    if count >= len(items):
        return list(items)
    return [items[round(k * (len(items) - 1) / max(count - 1, 1))] for k in range(count)]


def overlay(image: np.ndarray, train_ids: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The image uint8 [H, W, 3] with its train ids [h, w] in class colours over it; ignored pixels stay as they are."""
    height, width = image.shape[:2]
    ids = np.asarray(Image.fromarray(train_ids).resize((width, height), Image.Resampling.NEAREST))
    weight = np.where(ids == labels.IGNORE, 0.0, OPACITY)[..., None]
    return ((1 - weight) * image + weight * labels.palette(names)[ids]).round().astype(np.uint8)


def draw(scenes: Sequence[Scene], names: Sequence[str]) -> Image.Image:
    """The sheet as RGB: rows of (image, overlay) with their names, and the colours of the classes that occur."""
    cells = [_cell(scene, names) for scene in scenes]
    rows = [cells[k : k + COLUMNS] for k in range(0, len(cells), COLUMNS)]
    legend = _legend(_present(scenes, len(names)), names)
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (legend.width, sum(heights) + legend.height), PAPER)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (2 * WIDTH * column, top))
        top += height
    sheet.paste(legend, (0, top))
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Writes a PNG."""
    with whole(path) as scratch:
        sheet.save(scratch, "PNG")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A scratch file to write to, which then becomes `path`: that is there as a whole or not at all.

    What exists and is no file, such as /dev/stdout, is written to itself.

    Raises:
      UserError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def _cell(scene: Scene, names: Sequence[str]) -> Image.Image:
    name, image, train_ids = scene
    small = _shrink(image)
    cell = Image.new("RGB", (2 * WIDTH, small.height + TEXT), PAPER)
    cell.paste(small, (0, TEXT))
    if train_ids is not None:
        cell.paste(Image.fromarray(overlay(np.asarray(small), train_ids, names)), (WIDTH, TEXT))
    _write(cell, (2, 2), name)
    return cell


def _shrink(image: np.ndarray) -> Image.Image:
    height, width = image.shape[:2]
    return Image.fromarray(image).resize((WIDTH, max(round(height * WIDTH / width), 1)))


def _present(scenes: Sequence[Scene], count: int) -> list[int]:
    found = {int(value) for _, _, train_ids in scenes if train_ids is not None for value in np.unique(train_ids)}
    return sorted(value for value in found if value < count)


def _legend(present: Sequence[int], names: Sequence[str]) -> Image.Image:
    across = 6
    width = 2 * WIDTH * COLUMNS
    legend = Image.new("RGB", (width, TEXT * -(-len(present) // across) + 4), PAPER)
    colors = labels.palette(names)
    for k, train_id in enumerate(present):
        left, top = k % across * (width // across), k // across * TEXT + 2
        ImageDraw.Draw(legend).rectangle((left + 2, top + 2, left + 12, top + 12), tuple(colors[train_id].tolist()))
        _write(legend, (left + 16, top), names[train_id])
    return legend


def _write(picture: Image.Image, place: tuple[int, int], text: str) -> None:
    """The built-in font knows Latin letters only."""
    ImageDraw.Draw(picture).text(place, text.encode("latin-1", "replace").decode("latin-1"), INK)
