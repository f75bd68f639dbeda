"""What the values of label files mean: ids or colours -> train ids, for any classes.

A label map is a YAML (or JSON) file; docs/data.md explains it:

    classes: [road, building, car]   # train ids 0, 1, 2
    ids: {7: road, 11: building, 26: car, 0: ignore}
    colors: {"#804080": road, "70, 70, 70": building}
    other: ignore                    # values that are not listed; without this line they are an error
"""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from data_prep import palettes, strict_yaml
from data_prep.palettes import Meaning
from data_prep.pictures import Values, grey_ids, pack, read_values, unpack
from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.paths import local, read_text

KEYS = ("classes", "ids", "colors", "other")
MAX_CLASSES = labels.IGNORE
LOWEST, HIGHEST = -(2**31), 2**31 - 1  # of ids: label files are read as int32


class LabelMap(NamedTuple):
    """Classes by train id, and the train id (255: ignored) of every id and of every packed colour.

    `other` is 255 where values that are not listed are ignored, and None where they are an error.
    """

    name: str
    classes: tuple[str, ...]
    ids: Mapping[int, int]
    colors: Mapping[int, int]
    other: int | None = None
    first_channel: bool = False


def _published(name: str) -> LabelMap:
    known = palettes.published(name)
    return LabelMap(name, labels.NAMES, known.ids, known.colors, first_channel=name == "synthia")


TRAIN_IDS = _published("train")._replace(colors={})  # what label files hold where no label map is given


def meaning(label_map: LabelMap) -> Meaning:
    """What ids and colours stand for. The default map knows its colours, but reads no label by them."""
    if label_map.name in labels.TABLES:
        return palettes.published(label_map.name)._replace(by_color=bool(label_map.colors))
    return Meaning(label_map.ids, label_map.colors, label_map.classes, other=label_map.other)


def load(text: str) -> LabelMap:
    """The label map of a file, or the published one of "cityscapes", "gta5", "synthia" or "train".

    Raises:
      UserError: no such file, or not a label map; names the entry and what was expected.
    """
    if text in labels.TABLES:
        return _published(text)
    path = local(text, "--label_map")
    if not path.is_file():
        names = ", ".join(labels.TABLES)
        raise UserError(f"--label_map={text}: no such file. Expected a YAML file, or one of {names}")
    try:
        content = strict_yaml.parse(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    return parse(content, str(path))


def parse(content: Any, name: str) -> LabelMap:
    """A label map from the parsed file `name`; raises UserError as `load`."""
    if not isinstance(content, dict) or "classes" not in content or not ({"ids", "colors"} & set(content)):
        raise UserError(f"{name}: expected 'classes', and 'ids' or 'colors' or both; see docs/data.md")
    strange = [key for key in content if key not in KEYS]
    if strange:
        near = difflib.get_close_matches(str(strange[0]), KEYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{name}: unknown entry {strange[0]!r}, expected {', '.join(KEYS)}{hint}")
    classes = _classes(content["classes"], name)
    other = content.get("other")
    if other not in (None, "ignore", labels.IGNORE) or isinstance(other, float):
        raise UserError(f"{name}: other: {other!r}, expected ignore, or no such entry")
    ids = _entries(content, "ids", _id, classes, name)
    colors = _entries(content, "colors", _color, classes, name)
    if not ids and not colors:
        raise UserError(f"{name}: has no entry, so that no pixel would have a class; expected entries such as 7: road")
    return LabelMap(name, classes, ids, colors, None if other is None else labels.IGNORE)


def first_ids(label_map: LabelMap) -> dict[str, int]:
    """Class -> the first id that stands for it; classes that are known by colours alone are left out."""
    found: dict[str, int] = {}
    for value, train_id in label_map.ids.items():
        if train_id < len(label_map.classes):  # 255 is ignored
            found.setdefault(label_map.classes[train_id], value)
    return found


def _classes(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value) or not value:
        raise UserError(f"{name}: classes: {value!r}, expected a list of names (in quotes where YAML sees no text)")
    if len(set(value)) < len(value) or "ignore" in value:
        raise UserError(f"{name}: classes: {value!r}, expected different names, none of them 'ignore'")
    if len(value) > MAX_CLASSES:
        raise UserError(f"{name}: {len(value)} classes, but train ids end at {MAX_CLASSES - 1}")
    return tuple(value)


def _entries(
    content: Mapping[str, Any], kind: str, read: Callable[[Any, str], int], classes: tuple[str, ...], name: str
) -> dict[int, int]:
    """The entries "ids" or "colors" of a label map: what `read` makes of each key -> the train id of its value."""
    found = {} if content.get(kind) is None else content[kind]
    if not isinstance(found, dict):
        raise UserError(f"{name}: {kind}: {found!r}, expected entries such as 7: road")
    first: dict[int, Any] = {}
    for key in found:
        number = read(key, name)
        if number in first:
            raise UserError(f"{name}: {kind}: {first[number]!r} and {key!r} are the same; remove one of them")
        first[number] = key
    return {number: _train_id(found[key], classes, f"{name}: {kind}: {key!r}") for number, key in first.items()}


def _id(key: Any, name: str) -> int:
    """An id, of which JSON has text."""
    if isinstance(key, bool | float) or not re.fullmatch(r"[+-]?\d{1,20}", str(key).strip(), re.ASCII):
        raise UserError(f"{name}: ids: {key!r} is no whole number")
    if not LOWEST <= int(key) <= HIGHEST:
        raise UserError(f"{name}: ids: {key!r} is beyond what label files hold ({LOWEST} to {HIGHEST})")
    return int(key)


def _color(key: Any, name: str) -> int:
    """The packed colour of "#804080" or "128, 64, 128"."""
    text = str(key).strip()
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    parts = re.fullmatch(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})", text, re.ASCII)
    if parts is None or max(map(int, parts.groups())) > 255:
        raise UserError(f'{name}: colors: {key!r}, expected "#804080" or "128, 64, 128" (with the quotes)')
    return pack((int(parts[1]), int(parts[2]), int(parts[3])))


def _train_id(value: Any, classes: tuple[str, ...], where: str) -> int:
    """The train id that a class name, a train id or "ignore" stands for."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if value == "ignore" or (number and value == labels.IGNORE):
        return labels.IGNORE
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    if number and 0 <= value < len(classes):
        return value
    near = difflib.get_close_matches(str(value), classes, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{where}: {value!r} is neither one of the classes {', '.join(classes)} nor ignore{hint}")


def read_train_ids(path: Path, label_map: LabelMap) -> np.ndarray:
    """The train ids of a label file, uint8 [H, W].

    Raises:
      UserError: as `convert`, and where values are not listed.
    """
    values, train_ids, unknown = convert(path, label_map)
    if unknown:
        raise UserError(_unknown(path, values, label_map, unknown))
    return train_ids


def convert(path: Path, label_map: LabelMap) -> tuple[Values, np.ndarray, list[int]]:
    """(what a label file holds, its train ids uint8 [H, W], the values or colours that should be listed).

    Raises:
      UserError: as `read`, and coloured where ids are expected or the reverse.
    """
    values = read(path, label_map)
    if not (label_map.colors if values.colored else label_map.ids):
        raise UserError(_wrong_kind(path, values, label_map))
    train_ids, unknown = to_train_ids(values, label_map)
    return values, train_ids, unknown if label_map.other is None else []


def read(path: Path, label_map: LabelMap) -> Values:
    """What a label file holds, as ids or as colours: here every label file begins to be read.

    Raises:
      UserError: not readable, or with a palette that contradicts its values.
    """
    values = palettes.settle(path, read_values(path, label_map.first_channel), meaning(label_map))
    if values.colored and label_map.ids:
        grey = grey_ids(values.values)
        if grey is not None and lookup(values.values, label_map.colors, 0)[1]:
            return Values(grey, False)
    return values


def to_train_ids(values: Values, label_map: LabelMap) -> tuple[np.ndarray, list[int]]:
    """(train ids uint8 [H, W], the values that are not listed, sorted); the latter are 255."""
    table = label_map.colors if values.colored else label_map.ids
    train_ids, unknown = lookup(values.values, table, labels.IGNORE)
    return train_ids.astype(np.uint8), unknown


def lookup(values: np.ndarray, table: Mapping[int, int], other: int) -> tuple[np.ndarray, list[int]]:
    """Replaces every value by its entry: (int32 of the same shape, values without an entry), those becoming `other`."""
    if not table:
        return np.full_like(values, other), np.unique(values).tolist()
    keys = np.array(sorted(table), np.int32)
    entries = np.array([table[key] for key in keys.tolist()], np.int32)
    at = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    known = keys[at] == values
    return np.where(known, entries[at], other), np.unique(values[~known]).tolist()


def _wrong_kind(path: Path, values: Values, label_map: LabelMap) -> str:
    if values.colored:
        return (
            f"{path} is a coloured label picture: expected an 8-bit single-channel PNG of {_expected(label_map)}, "
            "or --label_map=FILE with the class of each of its colours."
        )
    return f"{path} holds ids, but {label_map.name} lists colours alone: give it the class of each id."


def _unknown(path: Path, values: Values, label_map: LabelMap, unknown: list[int]) -> str:
    shown = [str(unpack(value)) if values.colored else str(value) for value in unknown]
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    what = "colours" if values.colored else "values"
    hint = ""
    if label_map.name == "train" and not values.colored:
        cityscapes = {label.id for label in labels.GTA5}
        if set(np.unique(values.values).tolist()) <= cityscapes:
            hint = " These look like Cityscapes labelIds, not train ids: give --label_map=cityscapes."
    elif label_map.name != "train":
        hint = f" List them in {label_map.name}, or add the line 'other: ignore'."
    return f"{path} has label {what} {', '.join(shown[:10])}{more}: expected {_expected(label_map)}.{hint}"


def _expected(label_map: LabelMap) -> str:
    if label_map.name == "train":
        return f"train ids 0..{labels.NUM_CLASSES - 1} or {labels.IGNORE} (ignore)"
    return f"what {label_map.name} lists"
