"""What a segmenter says of a picture of any size: whole or by windows, mirrored, at several scales.

A picture is first brought to the scale that the model was scored at, as objects of another size are not recognised; the
scores that come out are brought to the picture's own size and only then made classes, as in the published evaluation.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from uda_jax.api import Segmenter
from uda_jax.errors import UserError
from uda_jax.models.layers import interpolation_matrix
from uda_jax.models.networks import Networks

MAX_SCORES = 2**31  # bytes of one picture's scores, at the scale it is looked at
STRIP = 2**24  # scores that are upsampled at a time: memory does not grow with the picture

Size = tuple[int, int]  # height, width


class Settings(NamedTuple):
    """How a picture is looked at.

    Attributes:
      scale: of the picture; None for the scale that the model was scored at, by the longer side.
      size: (height, width) that pictures are brought to instead, whatever their shape.
      window: (height, width) of sliding windows at that scale; None for the whole picture at once.
      overlap: share of a window that the next one covers, too.
      flip: whether the mirrored picture has a say.
      scales: factors on the scale, whose softmax outputs are averaged.
      batch_size: pictures of one size, or windows, a forward pass.
    """

    scale: float | None = None
    size: Size | None = None
    window: Size | None = None
    overlap: float = 1 / 3
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = 1


USUAL = Settings()


class Prediction(NamedTuple):
    """At the picture's size [H, W].

    Attributes:
      train_ids: uint8.
      confidence: softmax of the class chosen, float32; None if not asked for.
      entropy: of the softmax, of log(classes), float32; None if not asked for.
    """

    train_ids: np.ndarray
    confidence: np.ndarray | None = None
    entropy: np.ndarray | None = None


def looked_at(size: Size, trained: Size, settings: Settings) -> Size:
    """The (height, width) at which a picture of `size` is looked at, by a model that was scored at `trained`.

    It is the longer side that is brought to the trained one's length, so that a turned camera changes nothing.
    """
    return settings.size or _times(size, settings.scale or max(trained) / max(size))


def check_settings(settings: Settings) -> None:
    """Raises UserError for the first setting that cannot work."""
    scales = (*settings.scales, *([] if settings.scale is None else [settings.scale]))
    if not settings.scales or not all(0 < scale < math.inf for scale in scales):
        raise UserError(f"scales {settings.scales} and scale {settings.scale}: expected numbers above 0")
    if settings.window is not None and min(settings.window) < 1:
        raise UserError(f"window {settings.window}: expected (height, width) in pixels")
    if settings.batch_size < 1:
        raise UserError(f"--batch={settings.batch_size} must be 1 or more")
    if not 0 <= settings.overlap < 1:
        raise UserError(f"overlap {settings.overlap} must be 0 or more and below 1")


def predict(
    segmenter: Segmenter,
    images: Sequence[np.ndarray],
    settings: Settings = USUAL,
    *,
    sizes: Sequence[Size] = (),
    confidence: bool = False,
    entropy: bool = False,
) -> Iterator[Prediction]:
    """Yields what the segmenter says of each picture, RGB uint8 [H, W, 3]; all are of one size.

    Args:
      sizes: (height, width) of each result, by default those of the pictures.
      confidence, entropy: what to say besides the classes.

    Raises:
      UserError: settings that cannot work, or pictures whose scores would take more than `MAX_SCORES`.
    """
    check_settings(settings)
    for start in range(0, len(images), settings.batch_size):
        batch = images[start : start + settings.batch_size]
        for i, scores in enumerate(_scores(segmenter, batch, settings)):
            size = sizes[start + i] if sizes else batch[i].shape[:2]
            yield _finish(scores, size, segmenter, confidence, entropy)


def _scores(segmenter: Segmenter, pictures: Sequence[np.ndarray], settings: Settings) -> Any:
    """What classes are chosen by, [B, h, w, classes] in a size of its own: logits, or logs of averaged softmaxes."""
    height, width = pictures[0].shape[:2]
    size = looked_at((height, width), segmenter.size, settings)
    needed = math.prod(size) * len(segmenter.classes) * 4
    averaged = settings.window or settings.flip or settings.scales != (1.0,)
    if (needed > MAX_SCORES and averaged) or math.prod(size) > MAX_SCORES // 64:
        raise UserError(
            f"{width}x{height} would be looked at as {size[1]}x{size[0]} pixels, "
            "more than memory is meant to hold; choose a smaller --scale"
        )
    images = np.stack([resize(picture, size) for picture in pictures])
    if not averaged:
        return _logits(segmenter.networks, segmenter.params, segmenter.batch_stats, images)
    if settings.window is None:
        return _log(_softmax(segmenter, images, settings))
    return [_log(_by_windows(segmenter, image, settings)) for image in images]


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-30))  # a score of -inf would leave nothing to interpolate


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """RGB uint8 [*size, 3], bicubic and antialiased, as pictures are resized for training."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


def _times(size: Size, factor: float) -> Size:
    height, width = (max(round(side * factor), 1) for side in size)
    return height, width


def _softmax(segmenter: Segmenter, images: np.ndarray, settings: Settings) -> np.ndarray:
    """Mean softmax [B, h, w, classes] over scales and mirror images, at the images' own size."""
    size = images.shape[1:3]
    total = np.zeros((len(images), *size, len(segmenter.classes)), np.float32)
    for scale in settings.scales:
        scaled = np.stack([resize(image, _times(size, scale)) for image in images])
        views = [scaled, scaled[:, :, ::-1]] if settings.flip else [scaled]
        for mirrored, view in enumerate(views):
            found = np.asarray(segmenter.probabilities(view, size))
            total += found[:, :, ::-1] if mirrored else found
    return total / (len(settings.scales) * (1 + settings.flip))


def _by_windows(segmenter: Segmenter, image: np.ndarray, settings: Settings) -> np.ndarray:
    """Mean softmax [h, w, classes] over all windows that see a pixel; the last ones end at the picture's borders."""
    assert settings.window is not None
    size = image.shape[:2]
    window = min(settings.window[0], size[0]), min(settings.window[1], size[1])
    tops, lefts = (starts(size[axis], window[axis], settings.overlap) for axis in (0, 1))
    corners = [(y, x) for y in tops for x in lefts]
    total, count = np.zeros((*size, len(segmenter.classes)), np.float32), np.zeros((*size, 1), np.float32)
    for first in range(0, len(corners), settings.batch_size):
        places = [np.s_[y : y + window[0], x : x + window[1]] for y, x in corners[first : first + settings.batch_size]]
        missing = settings.batch_size - len(places)  # one shape compiles once
        seen = np.stack([image[place] for place in [*places, *places[:1] * missing]])
        for place, found in zip(places, _softmax(segmenter, seen, settings), strict=False):
            total[place] += found
            count[place] += 1
    return total / count


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along a side: the least number of them that overlap by `overlap` or more, evenly spread."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / max(round(window * (1 - overlap)), 1)) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


@partial(jax.jit, static_argnums=0)
def _logits(networks: Networks, params: Any, stats: Any, images: jax.Array) -> jax.Array:
    """Float32 [B, h, w, classes] as the head has them, not resized."""
    features = networks.predict(params, stats, images).features
    return networks.classify(params, features).astype(jnp.float32)


def _finish(scores: Any, size: Size, segmenter: Segmenter, confidence: bool, entropy: bool) -> Prediction:
    """Resizes scores [h, w, classes] to `size` and chooses, a strip of rows at a time."""
    (height, width), (h, w, classes) = size, scores.shape
    align = segmenter.networks.segmenter.align_corners
    rows = interpolation_matrix(h, height, align).astype(np.float32)
    columns = jnp.asarray(interpolation_matrix(w, width, align), jnp.float32)
    count = min(max(STRIP // (width * classes), 1), height)
    found: list[tuple[np.ndarray, ...]] = []
    for top in range(0, height, count):
        strip = rows[top : top + count]
        used = _used(strip, h)
        padded = np.zeros((count, used.stop - used.start), np.float32)
        padded[: len(strip)] = strip[:, used]
        parts = _choose(jnp.asarray(scores[used]), padded, columns, confidence, entropy)
        found.append(tuple(np.asarray(part)[: len(strip)] for part in parts))
    parts = [np.concatenate(part) for part in zip(*found, strict=True)]
    extras = iter(parts[1:])
    return Prediction(parts[0], next(extras) if confidence else None, next(extras) if entropy else None)


def _used(strip: np.ndarray, h: int) -> slice:
    """The scores' rows that a strip is made of, of which equally long strips have equally many."""
    touched = np.flatnonzero(strip.any(0))
    length = min(2 ** math.ceil(math.log2(touched[-1] - touched[0] + 1)), h)
    start = min(int(touched[0]), h - length)
    return slice(start, start + length)


@partial(jax.jit, static_argnums=(3, 4))
def _choose(
    scores: jax.Array, rows: jax.Array, columns: jax.Array, confidence: bool, entropy: bool
) -> tuple[jax.Array, ...]:
    """(train ids uint8 [R, W], what else was asked for) of scores [h, w, classes] by weights [R, h] and [W, w]."""
    h, _, classes = scores.shape
    product = partial(jnp.matmul, precision="highest")
    wide = product(jnp.broadcast_to(columns, (h, *columns.shape)), scores).reshape(h, -1)
    resized = product(rows, wide).reshape(len(rows), -1, classes)
    found = [resized.argmax(-1).astype(jnp.uint8)]
    if confidence or entropy:
        log = jax.nn.log_softmax(resized)
        if confidence:
            found.append(jnp.exp(log.max(-1)))
        if entropy:
            found.append(-jnp.sum(jnp.exp(log) * log, -1) / math.log(max(classes, 2)))
    return tuple(found)
