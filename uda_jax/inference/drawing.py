"""Predictions as pictures: colours over the photograph, a legend, and maps of confidence or entropy."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from uda_jax.data import labels

STRENGTH = 0.5  # of the colours over a photograph
LONGEST = 2048  # pixels of an overlay's longer side: it is there to be looked at
# Black through red and yellow to white, for maps of 0..1.
HEAT = np.stack([np.clip(3 * np.linspace(0, 1, 256) - i, 0, 1) for i in range(3)], -1)


def indexed(ids: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A palette picture: its values are the ids, uint8 [H, W], and it shows the colours, uint8 [256, 3]."""
    picture = Image.fromarray(ids)
    picture.putpalette(palette.astype(np.uint8).ravel().tolist())
    return picture


def overlay(image: np.ndarray, train_ids: np.ndarray, classes: Sequence[str], every_class: bool = False) -> Image.Image:
    """The classes' colours over the picture, with the names of those that occur, or of every one, below it.

    Args:
      image: RGB uint8 [H, W, 3].
      train_ids: uint8 [H, W].
    """
    height, width = train_ids.shape
    factor = min(LONGEST / max(height, width), 1.0)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    palette = labels.palette(classes)
    small = np.asarray(Image.fromarray(train_ids).resize(size, Image.Resampling.NEAREST))
    photograph = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    mixed = Image.blend(photograph, Image.fromarray(palette[small]), STRENGTH)
    counts = np.bincount(small.ravel(), minlength=256)[: len(classes)]
    occurring = sorted(np.flatnonzero(counts).tolist(), key=lambda i: -counts[i])
    shown = range(len(classes)) if every_class else occurring
    bar = legend([(classes[i], tuple(palette[i].tolist())) for i in shown], size[0])
    result = Image.new("RGB", (size[0], size[1] + bar.height))
    result.paste(mixed, (0, 0))
    result.paste(bar, (0, size[1]))
    return result


def legend(entries: Sequence[tuple[str, tuple[int, ...]]], width: int) -> Image.Image:
    """A bar as wide as the picture with the names of classes beside their colours, in as many rows as it takes."""
    text = max(min(width // 60, 20), 10)
    font, row, gap = ImageFont.load_default(text), text * 2, text // 2
    places, x, y = [], gap, 0
    for name, color in entries:
        length = text + gap + int(font.getlength(name)) + 2 * gap
        if x + length > width and x > gap:
            x, y = gap, y + row
        places.append((x, y, name, color))
        x += length
    bar = Image.new("RGB", (width, y + row), (24, 24, 27))
    draw = ImageDraw.Draw(bar)
    for x, y, name, color in places:
        top = y + (row - text) // 2
        draw.rectangle((x, top, x + text - 1, top + text - 1), fill=color)
        draw.text((x + text + gap, y + row // 2), name, fill=(236, 236, 240), font=font, anchor="lm")
    return bar


def heat(values: np.ndarray) -> Image.Image:
    """A map of 0..1, float [H, W], as a palette picture whose values are the map's, of 255, from black to white."""
    return indexed(np.round(np.clip(values, 0, 1) * 255).astype(np.uint8), np.round(HEAT * 255))
