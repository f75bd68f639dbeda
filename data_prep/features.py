"""What every prepared dataset stores, defined once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep.prepare import Prepared
from uda_jax.data import labels


def features() -> tfds.features.FeaturesDict:
    """The features of one example.

    image: uint8 [H, W, 3] RGB, as PNG or JPEG;
    label: uint8 [h, w, 1] train ids, 255 = ignore (all 255 where the split has no labels), as PNG; of the image's
      size, or of the raw label's where the split is for scoring;
    id: unique name of the image in its split; original_size: int32 [2], (height, width) before resizing.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), dtype=np.uint8, doc="RGB"),
            "label": tfds.features.Image(
                shape=(None, None, 1), dtype=np.uint8, encoding_format="png", doc="train ids, 255 = ignore"
            ),
            "id": tfds.features.Text(doc="name of the image, unique in its split"),
            "original_size": tfds.features.Tensor(
                shape=(2,), dtype=np.int32, doc="(height, width) of the raw image, before resizing"
            ),
        }
    )


def metadata(
    labelled: Mapping[str, bool], classes: Sequence[str] = labels.NAMES, ids: Mapping[str, int] | None = None
) -> tfds.core.MetadataDict:
    """What the builder's info records besides the features: which splits have labels, the classes by train id, and the
    ids that stood for them in the label files, where that is known."""
    return tfds.core.MetadataDict(labelled=dict(labelled), classes=list(classes), ids=dict(ids or {}))


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


def encoded_example(scene: Prepared) -> dict[str, Any]:
    """The example of a scene whose pictures are encoded already."""
    return {
        "image": scene.image,
        "label": scene.label,
        "id": scene.name,
        "original_size": np.array(scene.original_size, np.int32),
    }
