"""What every prepared dataset stores, defined once, and the resizing that keeps labels exact."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from uda_jax.data import labels


def features() -> tfds.features.FeaturesDict:
    """The features of one example.

    image: uint8 [H, W, 3] RGB (png, or jpeg where the builder passes encoded bytes);
    label: uint8 [H, W, 1] train ids, 255 = ignore (all 255 where the set has no labels);
    id: unique name of the image in its split; original_size: int32 [2], (height, width) before resizing.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), dtype=np.uint8),
            "label": tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png"),
            "id": tfds.features.Text(),
            "original_size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
    )


def metadata(labelled: Mapping[str, bool]) -> tfds.core.MetadataDict:
    """What the builder's info records besides the features: which splits have labels, and the classes."""
    return tfds.core.MetadataDict(labelled=dict(labelled), classes=list(labels.NAMES))


def example(
    name: str, image: np.ndarray, label: np.ndarray | None, original_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """One example in the form that `features` encodes.

    Args:
      name: the id, unique in its split.
      image: uint8 [H, W, 3] RGB.
      label: uint8 [H, W] train ids, or None where there are none (then all 255).
      original_size: (height, width) of the raw image; None where it was not resized.
    """
    if label is None:
        label = np.full(image.shape[:2], labels.IGNORE, np.uint8)
    height, width = original_size or image.shape[:2]
    return {
        "image": image,
        "label": label[..., None],
        "id": name,
        "original_size": np.array([height, width], np.int32),
    }


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes RGB uint8 [H, W, 3] to [*size, 3]; bicubic, low-pass filtered when it shrinks."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes train ids uint8 [H, W] to [*size] by the nearest pixel, so that no id is invented."""
    if label.shape == tuple(size):
        return label
    return np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
