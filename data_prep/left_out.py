"""What lies in a folder of pictures and is not taken: the kinds there are, and how a build says them.

A build stops at a *fault*, and prints warnings and notes; data_prep.verify lists all three, with every file.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from uda_jax.errors import UserError

FAULT, WARNING, NOTE = "fault", "warning", "note"


class Left(NamedTuple):
    """A file or folder that was left out (or is doubtful), and the key of `KINDS` that says why."""

    kind: str
    path: Path


class Kind(NamedTuple):
    """How a kind is judged and said; `what` follows a count. `listed`: files by name; else their suffixes alone."""

    severity: str
    what: str
    advice: str
    listed: bool = True


NOWHERE, UNLISTABLE, LOOP, TWICE = "not-there", "unlistable-folder", "link-loop", "linked-twice"
HIDDEN, MASK, DOUBTFUL, COMPANION = "hidden", "mask-among-images", "named-like-label", "companion"
FORMAT, LABEL_FORMAT, NAME, BESIDE = "other-format", "label-format", "other-name", "beside-images"
UNUSED, EMPTY, OTHER = "unused-folder", "empty-folder", "other-file"

KINDS: Mapping[str, Kind] = {
    NOWHERE: Kind(
        FAULT,
        "files or links cannot be reached, or lead nowhere, so what they stand for would be missing",
        "Fetch it (git annex get, dvc pull), mount the disk that the links lead to, or remove them.",
    ),
    UNLISTABLE: Kind(
        FAULT, "folders cannot be listed", "Get the permission to read them (chmod, chown), or move them away."
    ),
    LOOP: Kind(WARNING, "links lead back to a folder that they lie in, not followed", "Remove them."),
    TWICE: Kind(
        WARNING, "folders are reached twice, through links: their pictures are taken twice", "Remove the links."
    ),
    HIDDEN: Kind(
        NOTE, "hidden pictures or folders left out (names with a dot, recycle bins)", "Rename what should be taken."
    ),
    MASK: Kind(
        WARNING,
        "pictures left out, for by their names they are label maps",
        "Move them to a folder of labels (--split NAME=IMAGES,LABELS), or rename them if they are photographs.",
    ),
    DOUBTFUL: Kind(
        WARNING,
        "pictures are named like label maps, or lie in folders that are, and are taken as images",
        "Move them to a folder of labels, unless they are photographs.",
    ),
    COMPANION: Kind(
        NOTE,
        "label files left out, for by their names they were made from the label beside them",
        "Nothing to do, if it is the file without the addition that is meant.",
    ),
    FORMAT: Kind(
        WARNING,
        "pictures left out, for only .jpg and .png are read",
        "Convert them: mogrify -format png FILES (ImageMagick).",
    ),
    LABEL_FORMAT: Kind(
        WARNING,
        "label pictures left out, for only .png is read",
        "Take the original PNG files; .tif, .bmp or .webp without loss can be converted (JPEG has changed the ids).",
    ),
    NAME: Kind(WARNING, "pictures left out, for they are not named as those of this set", "Look at their names."),
    BESIDE: Kind(
        WARNING,
        "pictures left out, for they lie beside the folder images, and not in it (nor in labels)",
        "Move them there; of your own folders, both can be named: --split NAME=IMAGES,LABELS.",
    ),
    UNUSED: Kind(WARNING, "further folders of images or labels left out", "Move what they hold to the others."),
    EMPTY: Kind(WARNING, "folders hold no picture, so there is no such split", "Complete the download, if it should."),
    OTHER: Kind(NOTE, "other files left out", "Nothing to do, if they are no pictures.", listed=False),
}


def what(kind: str, paths: list[Path]) -> str:
    """The line that says how many files of a kind there are, by suffix where that is what matters."""
    text = f"{len(paths):,} {KINDS[kind].what}"
    if kind not in (FORMAT, LABEL_FORMAT, OTHER):
        return text
    suffixes = Counter(path.suffix.lower() or path.name for path in paths)
    shown = [f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5)]
    return f"{text}: {', '.join(shown)}{', ...' if len(suffixes) > 5 else ''}"


def by_kind(left: Iterable[Left]) -> dict[str, list[Path]]:
    """Kind -> its different paths, the worst kinds first."""
    left = list(dict.fromkeys(left))
    found = {kind: [path for its, path in left if its == kind] for kind in KINDS}
    return {kind: paths for kind, paths in found.items() if paths}


def say(left: Iterable[Left]) -> str:
    """A paragraph for each kind."""
    paragraphs = []
    for kind, paths in by_kind(left).items():
        head = f"{KINDS[kind].severity}: {what(kind, paths)}"
        body = [f"{head}:", first([str(path) for path in paths]), KINDS[kind].advice]
        paragraphs.append("\n".join(body) if KINDS[kind].listed else head)
    return "\n".join(paragraphs)


def tell(left: Iterable[Left]) -> None:
    """Prints what was left out.

    Raises:
      UserError: there are faults among it; names them.
    """
    left = list(left)
    faults = [one for one in left if KINDS[one.kind].severity == FAULT]
    if faults:
        raise UserError(say(faults).removeprefix(f"{FAULT}: "))
    if left:
        print(say(left), file=sys.stderr)


def first(names: list[str], count: int = 5) -> str:
    """The first names, one an indented line, and how many more there are."""
    more = [f"  ... and {len(names) - count} more"] if len(names) > count else []
    return "\n".join([f"  {name}" for name in names[:count]] + more)
