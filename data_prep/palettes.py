"""What a label picture with a palette means: its indices, its colours, or the grey levels that its palette shows.

Tools that shrink PNGs renumber and cut palettes and turn grey files into palette files: the picture looks the same, the
indices are others. Labelling tools paint ids in any colours at all. So the palette is compared with the colours of the
classes, and where that does not decide, the file is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.pictures import Values, pack, unpack
from uda_jax.data import labels
from uda_jax.errors import UserError

BLACK = 0
ANYWHERE = {red << 16 | green << 8 | blue for red in (0, 255) for green in (0, 255) for blue in (0, 255)}  # in palettes


class Meaning(NamedTuple):
    """What the ids and colours of a set's labels stand for.

    ids, colors: the train id (255: ignored) of every id and of every packed colour.
    names: the classes by train id.
    painted: (id, packed colour) as the set's own tools paint them; here one colour may stand for several ids.
    by_color: labels may be read by their colours.
    other: the train id of ids that are not listed; None: they are a mistake.
    """

    ids: Mapping[int, int]
    colors: Mapping[int, int]
    names: Sequence[str]
    painted: frozenset[tuple[int, int]] = frozenset()
    by_color: bool = True
    other: int | None = None


@cache
def published(table: str) -> Meaning:
    """The meaning of a key of `labels.TABLES`; a colour of a class and of an ignored id stands for the class."""
    rows = sorted(labels.PAINTED[table], key=lambda row: -row.train_id)
    ids = {row.id: row.train_id for row in labels.TABLES[table]}
    colors = {pack(row.color): row.train_id for row in rows}
    return Meaning(ids, colors, labels.NAMES, frozenset((row.id, pack(row.color)) for row in rows))


def settle(path: Path, found: Values, meaning: Meaning) -> Values:
    """A label file's values as ids, or, where its palette says so, as colours.

    Args:
      found: from `pictures.read_values`; without a palette it is returned as it is.
    Raises:
      UserError: the palette contradicts the indices, and neither is certain.
    """
    if found.colored or not found.palette:
        return found
    used = np.flatnonzero(np.bincount(found.values.ravel())).tolist()
    colors = {index: found.palette[index] for index in used if index < len(found.palette)}
    if found.stretched:
        levels = {index: color & 255 for index, color in colors.items()}
        shown = not _listed(used, meaning) and _listed(levels.values(), meaning)
        return _mapped(found, levels, colored=False) if shown else Values(found.values, False)
    if not meaning.ids and len(colors) == len(used):
        return _mapped(found, colors, colored=True)
    if len(colors) < len(used) or _plain(found.palette, used):
        return Values(found.values, False)
    grey = all(color % 0x010101 == 0 for color in colors.values())
    return (_of_greys if grey else _of_colors)(path, found, colors, meaning)


def _of_colors(path: Path, found: Values, colors: Mapping[int, int], meaning: Meaning) -> Values:
    """Indices where no colour contradicts them; else colours, if all of them are known."""
    known = {index: color for index, color in colors.items() if color in meaning.colors}
    clash = [index for index, color in known.items() if not _agree(index, color, meaning)]
    if not clash or _by_chance(known.values(), found.palette, meaning):
        return Values(found.values, False)
    other = _left_over(colors) or _behind(colors)
    certain = len(known) == len(colors) and not _ambiguous(colors, meaning) and not other
    if not certain or not meaning.by_color:
        raise UserError(_contradiction(path, clash, colors, meaning))
    return _mapped(found, colors, colored=True)


def _of_greys(path: Path, found: Values, colors: Mapping[int, int], meaning: Meaning) -> Values:
    """As `_of_colors`, of a palette that is grey but no plain ramp: its levels may be the ids.

    They are for certain if the palette was cut to them, they all are ids, and they are more than black and white.
    """
    levels = {index: color & 255 for index, color in colors.items()}
    by_index = tuple(meaning.ids.get(index) for index in levels)
    by_level = tuple(meaning.ids.get(level) for level in levels.values())
    by_color = tuple(meaning.colors.get(color) for color in colors.values())
    black = set(colors.values()) == {BLACK}
    if black and (None in by_index or _by_chance([BLACK], found.palette, meaning)):
        return Values(found.values, False)
    readings = {reading for reading in (by_index, by_level, by_color) if None not in reading}
    if readings <= {by_index} or (by_index == by_color and by_index in readings and not black):
        return Values(found.values, False)
    cut = len(found.palette) == len(colors) and None in by_color and not set(levels.values()) <= {0, 255}
    if readings == {by_level} or (by_level in readings and cut):
        return _mapped(found, levels, colored=False)
    if None in by_level and meaning.by_color and not _ambiguous(colors, meaning):
        return _mapped(found, colors, colored=True)
    every = zip(levels, by_index, by_level, by_color, strict=True)
    clash = [index for index, *train_ids in every if len({*train_ids} - {None}) > 1]
    raise UserError(_contradiction(path, clash or list(levels), colors, meaning))


def _plain(palette: Sequence[int], used: Sequence[int]) -> bool:
    """Whether colours are those of a grey ramp or of PASCAL VOC, which are laid over ids of any kind."""
    if used == [0] and len(palette) == 1:
        return False  # black says nothing
    looked = range(len(palette)) if used == [0] else used
    return any(all(palette[index] == color(index) for index in looked) for color in (_ramp, voc))


def _ramp(index: int) -> int:
    return 0x010101 * index


@cache
def voc(index: int) -> int:
    """The colour of an index in the palette of PASCAL VOC.

    Bits 0, 3, 6 of the index are the high bits of red, 1, 4, 7 of green, 2, 5, 8 of blue.
    """
    red, green, blue = (
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
    )
    return pack((red, green, blue))


def _by_chance(known: Iterable[int], palette: Sequence[int], meaning: Meaning) -> bool:
    """Whether the known colours that a picture uses are such as any palette has, and its palette is not of classes."""
    telling = (set(palette) & set(meaning.colors)) - ANYWHERE
    return set(known) <= ANYWHERE and not telling and not set(palette) <= set(meaning.colors)


def _agree(index: int, color: int, meaning: Meaning) -> bool:
    if color == BLACK and index not in meaning.ids:
        return True  # palettes are filled up with black: the index is wrong by itself
    return (index, color) in meaning.painted or meaning.ids.get(index, meaning.other) == meaning.colors[color]


def _left_over(colors: Mapping[int, int]) -> bool:
    """Whether all indices are painted as labelIds are: tools that change ids may leave the palette as it was."""
    return published("gta5").painted.issuperset(colors.items())


def _behind(colors: Mapping[int, int]) -> bool:
    """Whether a palette of train ids, which goes on in black, lies over other ids: several of them, or not just 19."""
    behind = {index for index in colors if labels.NUM_CLASSES <= index < labels.IGNORE}
    painted = published("train").painted | {(index, BLACK) for index in behind}
    return painted.issuperset(colors.items()) and not behind <= {labels.NUM_CLASSES}


def _ambiguous(colors: Mapping[int, int], meaning: Meaning) -> bool:
    """Whether two indices share a colour that stands for a class and for an ignored id."""
    several = {color for color in colors.values() if list(colors.values()).count(color) > 1}
    return any(
        color in several and meaning.ids.get(value) not in (None, meaning.colors[color])
        for value, color in meaning.painted
    )


def _listed(values: Iterable[int], meaning: Meaning) -> bool:
    return all(value in meaning.ids for value in values)


def _mapped(found: Values, entries: Mapping[int, int], colored: bool) -> Values:
    """The values, each replaced by its entry."""
    table = np.zeros(max(entries) + 1, np.int32)
    table[list(entries)] = list(entries.values())
    return Values(table[found.values], colored)


def _contradiction(path: Path, clash: Sequence[int], colors: Mapping[int, int], meaning: Meaning) -> str:
    index = max(clash, key=lambda index: colors[index] != BLACK)  # black tells least
    color, level = colors[index], colors[index] & 255
    stands = f"stands for {_name(meaning.colors.get(color), meaning)}"
    if color not in meaning.colors:
        stands = f"shows {level}, as an id {_name(meaning.ids.get(level), meaning)}"
    way = "as an RGB picture" if meaning.by_color else "as an RGB picture, to be built with a --label_map of colours"
    hint = " If they are Cityscapes labelIds, give --label_map=cityscapes." if _left_over(colors) else ""
    return (
        f"{path}: its palette contradicts its values: index {index} has the colour {unpack(color)}, which {stands}, "
        f"but as an id {index} is {_name(meaning.ids.get(index), meaning)}. If the colours are right, save it {way}; "
        f"if the indices are, save them as an 8-bit grey PNG without a palette.{hint}"
    )


def _name(train_id: int | None, meaning: Meaning) -> str:
    if train_id is None:
        return "unknown"
    return meaning.names[train_id] if train_id < len(meaning.names) else "ignored"
