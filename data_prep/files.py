"""Folders of pictures: which files are scenes, by id, and what else lies there. Links to folders are followed."""

import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data_prep import left_out, masks
from data_prep.left_out import Left, first
from uda_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = (".png",)
OTHER_SUFFIXES = (
    *(".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".jp2", ".j2k", ".jpx", ".jpe", ".jfif", ".jxl", ".avif"),
    *(".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw"),
)
PICTURES = (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
# Folders that an operating system hides although no dot says so: recycle bins, thumbnails.
BINS = ("@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found")

Scene = tuple[str, Path, Path | None]  # id, image file, label file
Identity = tuple[int, int]  # of a folder, whatever path leads there


class Found(NamedTuple):
    """Id -> file, sorted, and what was not taken; `named`: of that, what is left out for its name alone, by id."""

    files: dict[str, Path]
    left: tuple[Left, ...] = ()
    named: Mapping[str, Path] = {}


class Files(NamedTuple):
    """The files of one split by id; `labels` is None where the split has none to expect. `left`: what was not taken."""

    images: dict[str, Path]
    labels: dict[str, Path] | None
    left: tuple[Left, ...] = ()


def files_of(images: Found, labels: Found | None, left: Iterable[Left] = ()) -> Files:
    """Both in one, with what else was left out.

    Where an image and a label have one name they are a scene, even if it is a name such as street_mask.
    """
    if labels is not None:
        images, labels = _with_partners(images, labels), _with_partners(labels, images)
    return Files(images.files, labels and labels.files, (*images.left, *(labels.left if labels else ()), *left))


def _with_partners(found: Found, others: Found) -> Found:
    both = {name: path for name, path in found.named.items() if name in others.files or name in others.named}
    files = dict(sorted({**found.files, **both}.items()))
    sure = {*both.values(), *(path for name, path in files.items() if name in others.files)}
    kinds = (left_out.MASK, left_out.COMPANION, left_out.DOUBTFUL)
    left = tuple(one for one in found.left if one.kind not in kinds or one.path not in sure)
    return Found(files, left, {name: path for name, path in found.named.items() if name not in both})


def pair(files: Files) -> list[Scene]:
    """Images with their labels, sorted by id.

    Raises:
      UserError: an image has no label, or a label no image.
    """
    if files.labels is None:
        return [(name, path, None) for name, path in sorted(files.images.items())]
    bare = [str(path) for name, path in files.images.items() if name not in files.labels]
    if bare:
        raise UserError(
            f"{len(bare)} of {len(files.images)} images have no label map:\n{first(bare)}\n"
            "Complete the download (the archives of labels as well as those of images), or remove the images."
        )
    spare = [str(path) for name, path in files.labels.items() if name not in files.images]
    if spare:
        raise UserError(
            f"{len(spare)} of {len(files.labels)} label maps have no image:\n{first(spare)}\n"
            "Complete the download (the archives of images as well as those of labels), or remove the labels."
        )
    return [(name, path, files.labels[name]) for name, path in sorted(files.images.items())]


def folder_files(images: str | Path, label_maps: str | Path | None = None, given: Path | None = None) -> Files:
    """The files of a split of the user's own.

    Args:
      given: the folder that was named, where `images` and `label_maps` were found in it.
    Raises:
      UserError: a directory is missing or empty, or two files have one id.
    """
    images, label_maps = Path(images), Path(label_maps) if label_maps is not None else None
    found = _not_empty(
        by_id(images, suffixes=IMAGE_SUFFIXES, but=[label_maps] if label_maps else []), images, IMAGE_SUFFIXES
    )
    if label_maps is None:
        return files_of(found, None, _beside(given, [images]))
    truth = _not_empty(by_id(label_maps, suffixes=LABEL_SUFFIXES, but=[images]), label_maps, LABEL_SUFFIXES)
    return files_of(found, truth, _beside(given, [images, label_maps]))


def _not_empty(found: Found, directory: Path, suffixes: tuple[str, ...]) -> Found:
    if not found.files:
        raise none_in(directory, suffixes, found.left)
    return found


def none_in(directory: Path, suffixes: tuple[str, ...], left: Iterable[Left]) -> UserError:
    """The error of a directory without a picture, which says what is there instead."""
    text = f"no images found in {directory} (looked for {', '.join(suffixes)}, subdirectories too)"
    return UserError("\n".join(filter(None, [text, left_out.say(left)])))


def by_id(
    *directories: Path,
    suffixes: tuple[str, ...],
    ending: str = "",
    nested: bool = True,
    expected: str = "",
    but: Collection[Path] = (),
) -> Found:
    """The pictures of directories and their subdirectories, and what else lies there.

    Ids are in Unicode's composed form (NFC); bytes of names that are no UTF-8 are written as \\xe9. Hidden files, and
    label maps among images, are left out.

    Args:
      suffixes: the extensions to take, in any case.
      ending: what file names end in before the extension; it is not part of the id.
      nested: ids are paths relative to the directory; else they are file names alone.
      expected: a regular expression of file names that the set is known to hold besides.
      but: folders below the directories that are not looked into.
    Raises:
      UserError: a directory is missing, or two files have one id.
    """
    found: dict[str, Path] = {}
    left: list[Left] = []
    for directory in directories:
        if not is_folder(directory):
            raise UserError(f"no such directory: {directory}")
        for path, problem in walk(directory, but):
            inner = path.relative_to(directory)
            kind = _kind(inner, problem, suffixes, ending, expected)
            if kind is not None:
                left += [Left(kind, path)] if kind else []
                continue
            name = normal(inner.with_suffix("").as_posix() if nested else inner.stem).removesuffix(ending)
            if name in found:
                raise _same_name(found[name], path)
            found[name] = path
    images = suffixes != LABEL_SUFFIXES
    certain = masks.certain(found) if images else set()
    others = masks.among(found) | certain
    left += [Left(left_out.MASK if images else left_out.COMPANION, found[name]) for name in sorted(others)]
    files = {name: path for name, path in sorted(found.items()) if name not in others}
    if images:
        left += [Left(left_out.DOUBTFUL, files[name]) for name in sorted(masks.doubtful(files))]
    return Found(files, tuple(left), {name: found[name] for name in others - certain})


def walk(folder: Path, but: Collection[Path] = ()) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, links followed, sorted by name: (path, "" or the kind of what is wrong with it).

    Args:
      but: folders below it that are not looked into.
    """
    yield from _walk(folder, (), {_identity(path) for path in but if path.is_dir()}, set())


def _walk(
    folder: Path, above: tuple[Identity, ...], but: Collection[Identity], seen: set[Identity]
) -> Iterator[tuple[Path, str]]:
    try:
        here = _identity(folder)
        names = sorted(os.listdir(folder))
    except OSError:
        yield folder, left_out.UNLISTABLE
        return
    if above and here in but:
        return
    if here in above:
        yield folder, left_out.LOOP
        return
    if here in seen:
        yield folder, left_out.TWICE
    seen.add(here)
    for path in (folder / name for name in names):
        try:
            mode = path.stat().st_mode
        except OSError:
            mode = 0
        if stat.S_ISDIR(mode):
            yield from _walk(path, (*above, here), but, seen)
        else:
            yield path, "" if stat.S_ISREG(mode) else left_out.NOWHERE


def _identity(folder: Path) -> Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _kind(inner: Path, problem: str, suffixes: tuple[str, ...], ending: str, expected: str) -> str | None:
    """Why a file is not taken; "" where nothing needs to be said of that, None for a file to take.

    Args:
      inner: its path in the folder that was given.
      problem: from `walk`.
    """
    suffix = inner.suffix.lower()
    if any(map(is_hidden, inner.parts)):
        return left_out.HIDDEN if suffix in PICTURES or problem == left_out.UNLISTABLE else ""
    if suffix in suffixes and normal(inner.stem).endswith(ending):
        return problem or None
    if expected and re.fullmatch(expected, inner.name):
        return ""
    if problem != left_out.NOWHERE and problem:
        return problem
    if problem and (suffix in PICTURES or may_be_folder(inner)):
        return problem
    if suffix in suffixes:
        return left_out.NAME
    if suffix in PICTURES:
        return left_out.FORMAT if suffixes == IMAGE_SUFFIXES else left_out.LABEL_FORMAT
    return left_out.OTHER


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in BINS


def may_be_folder(path: Path) -> bool:
    """Whether a link to nowhere may have led to a folder: its name has no extension of a file."""
    return re.fullmatch(r"\.[A-Za-z]\w{0,4}", path.suffix) is None


def is_folder(path: Path) -> bool:
    """Whether there is a directory; raises UserError for a link to one that is not there, or that may not be read."""
    try:
        if not path.is_symlink() or path.exists():
            return path.is_dir()
    except OSError as error:
        raise UserError(f"{path} cannot be looked into: {error.strerror}") from error
    raise UserError(
        f"{path} is a link to {os.readlink(path)}, which is not there. Mount the disk that it leads to, or fetch "
        "what it stands for."
    )


def normal(name: str) -> str:
    """A file's name as an id: composed, and bytes that are no UTF-8 as \\xe9."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _same_name(one: Path, two: Path) -> UserError:
    forms = one.stem != two.stem and normal(one.stem) == normal(two.stem)
    hint = " (the same in two forms of Unicode, composed and not)" if forms else ""
    return UserError(f"two files of one name: {one} and {two}{hint}. Remove or rename one.")


def unknown(folder: Path, known: str, but: Iterable[Path] = ()) -> list[Left]:
    """The pictures in a folder, and the folders that hold some, of which a set knows nothing.

    Args:
      known: a regular expression of names that the set has there.
      but: what is spoken of elsewhere, with the folders above it.
    """
    spoken = {one for path in but for one in (path, *path.parents)}
    left = []
    for path in sorted(folder.iterdir()):
        if re.fullmatch(known, path.name) or path in spoken or is_hidden(path.name):
            continue
        if path.is_dir():
            holds = any(inner.suffix.lower() in PICTURES for inner, _ in walk(path))
            left += [Left(left_out.UNUSED, path)] if holds else []
        elif path.suffix.lower() in PICTURES:
            left.append(Left(left_out.BESIDE, path))
    return left


def _beside(given: Path | None, taken: list[Path]) -> list[Left]:
    """The pictures below a folder that lie in none of the folders taken from it."""
    if given is None:
        return []
    return [
        Left(left_out.BESIDE, path)
        for path, _ in walk(given, taken)
        if path.suffix.lower() in PICTURES and not any(map(is_hidden, path.relative_to(given).parts))
    ]
