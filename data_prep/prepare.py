"""Files -> what is stored of them: one scene at a time, in as many processes as wanted.

TensorFlow is imported only where a file is stored byte for byte, to prove that training can decode it.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from data_prep import mask_content
from data_prep.decoding import disagreement
from data_prep.pictures import encode_image, read_image, resize_image, resize_label
from data_prep.raw import Scene
from uda_jax.data import labels
from uda_jax.errors import UserError

AHEAD = 4  # scenes a worker may be ahead of the writer

In = TypeVar("In")
Out = TypeVar("Out")


class Recipe(NamedTuple):
    """How the scenes of a split are stored; it can be pickled, so that other processes follow it too.

    read_label: label file -> train ids, uint8 [H, W].
    size: (height, width) to store; None: every image as it is.
    encoding: "png" or "jpeg", of images that are not stored byte for byte.
    full_labels: labels keep their size although images are resized.
    mixed_sizes: a label of another size than its image is resized, not refused.
    """

    read_label: Callable[[Path], np.ndarray]
    size: tuple[int, int] | None = None
    encoding: str = "png"
    full_labels: bool = False
    mixed_sizes: bool = False


class Prepared(NamedTuple):
    """A scene as it is stored: encoded image and label (PNG of train ids).

    masklike: the image file, if it looks like a label map.
    """

    name: str
    image: bytes
    label: bytes
    original_size: tuple[int, int]
    warning: str = ""
    masklike: str = ""


def prepare(scene: Scene, recipe: Recipe) -> Prepared:
    """Reads, checks, resizes and encodes one scene.

    Images are resized bicubically, labels to the nearest pixel, each from its own size. An image that need not be
    changed is stored byte for byte, if TensorFlow decodes it as it was read here.

    Raises:
      UserError: a file is unreadable, or image and label are of different sizes.
    """
    name, image_file, label_file = scene
    encoded, image = read_image(image_file)
    original: tuple[int, int] = image.shape[:2]
    masklike = str(image_file) if mask_content.masklike(image) else ""
    size = recipe.size or original
    if original != tuple(size):
        encoded, image = None, resize_image(image, size)
    if encoded is None or disagreement(encoded, image):
        encoded = encode_image(image, recipe.encoding)
    if label_file is None:
        blank = np.full(size, labels.IGNORE, np.uint8)
        return Prepared(name, encoded, encode_image(blank, "png"), original, masklike=masklike)
    label = recipe.read_label(label_file)
    warning = "" if label.shape == original else _sizes(image_file, original, label_file, label.shape)
    if warning and not recipe.mixed_sizes:
        raise UserError(f"{warning} (width x height): they must be of one size.")
    if warning or not recipe.full_labels:
        label = resize_label(label, size)
    return Prepared(name, encoded, encode_image(label, "png"), original, warning, masklike)


def _sizes(image_file: Path, image: tuple[int, ...], label_file: Path, label: tuple[int, ...]) -> str:
    return f"{image_file} is {image[1]}x{image[0]} and its label {label_file} is {label[1]}x{label[0]}"


def in_parallel(function: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """Yields `function(item)` in order, from `workers` processes that are never far ahead.

    Raises:
      UserError: a process died.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    # "spawn": a forked child would inherit TensorFlow's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        pending: deque[Future[Out]] = deque()
        try:
            for item in items:
                with _ctrl_c_later():  # this may start a worker
                    pending.append(pool.submit(function, item))
                if len(pending) > AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory. Nothing was written; use fewer --workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Holds Ctrl-C back; processes started meanwhile never get it and leave it to their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Makes a worker end when its parent is gone, however that ended; by itself it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
