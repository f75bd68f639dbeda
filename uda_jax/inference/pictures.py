"""Pictures to look at: found in a file or a folder, and read upright."""

import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from uda_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 2**29  # 1.5 GiB as RGB
READ_AHEAD = 4  # pictures
LIMIT = threading.Lock()


class Picture(NamedTuple):
    """A file, its name below the folder that was given, and what is in it: RGB uint8 [H, W, 3], or why nothing is."""

    path: Path
    name: Path
    image: np.ndarray | None
    error: str = ""


def find(given: Path) -> list[tuple[Path, Path]]:
    """(file, its name below `given`) of a picture or of all files in a folder that are named like one, by name.

    Raises:
      UserError: nothing there, or a folder without any.
    """
    if given.is_file():
        return [(given, Path(given.name))]
    if not given.is_dir():
        raise UserError(f"--input={given}: there is no such file or folder")
    found = sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"--input={given}: holds no picture; looked for {', '.join(SUFFIXES)} in it and below")
    return [(path, path.relative_to(given)) for path in found]


def read_all(found: Sequence[tuple[Path, Path]]) -> Iterator[Picture]:
    """Yields the pictures in order, read in the background; a file that is none, or too large, says so in `error`."""
    with ThreadPoolExecutor(2) as pool:
        files = iter(found)
        waiting = [pool.submit(_read, *file) for file in islice(files, READ_AHEAD)]
        while waiting:
            picture = waiting.pop(0).result()
            waiting += [pool.submit(_read, *file) for file in islice(files, 1)]
            yield picture


def _read(path: Path, name: Path) -> Picture:
    try:
        return Picture(path, name, read(path))
    except UserError as error:
        return Picture(path, name, None, str(error))


def read(path: Path) -> np.ndarray:
    """RGB uint8 [H, W, 3], turned as the camera says that it was held; an alpha channel is dropped.

    Raises:
      UserError: the file cannot be read, is no picture, is damaged, or has more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = _open(path)
        with file:
            if file.width * file.height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {file.width}x{file.height} has more than {MAX_PIXELS} pixels; cut it up first"
                )
            if file.mode in ("I", "F") or file.mode.startswith("I;16"):
                raise UserError(
                    f"{path}: stores {file.mode} values, expected 8 bits a channel; convert it to RGB first"
                )
            return np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{path}: cannot be read as a picture ({error})") from error


def _open(path: Path) -> Image.Image:
    """Pillow's own limit is lower than ours, and a setting of the whole process."""
    with LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
