"""The networks of keras.applications, by download or from a file of their weights, under torchvision's names."""

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from uda_jax.errors import UserError
from uda_jax.models.batch_norm import BatchNorm
from uda_jax.weights.arrays import Arrays
from uda_jax.weights.trees import PUBLISHED

NETWORKS = {"ResNet50": 53, "ResNet101": 104, "ResNet152": 155, "VGG16": 13}  # name -> convolutions
HOST = "storage.googleapis.com"
KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def read_keras(name: str) -> Arrays:
    """Downloads (or takes from Keras' cache) the ImageNet weights of one of `NETWORKS`.

    Raises:
      UserError: the download failed.
    """
    try:
        model = build(name, weights="imagenet")
    except Exception as e:  # Keras raises a plain Exception for a failed download
        raise UserError(
            f"the weights of {name} could not be fetched from {HOST}: {e}\nFetch that file on a machine that can and "
            "give --from=FILE.h5 (any .h5, .weights.h5 or .keras of this network's weights)."
        ) from e
    return to_torchvision(model)


def read_keras_file(path: Path) -> Arrays:
    """The weights of a .h5, .weights.h5 or .keras file of one of `NETWORKS`, with or without its classifier.

    Only weights are read: a .keras file's own description of its model, which may hold code, is not looked at.

    Raises:
      UserError: damaged, or of another network.
    """
    try:
        kernels = _kernels(path)
    except Exception as e:  # h5py and zipfile raise many kinds for a damaged file
        raise UserError(f"{path} is damaged, or no Keras weights: {e}. Fetch it again.") from e
    count = sum(len(shape) == 4 for shape in kernels)
    names = [name for name, expected in NETWORKS.items() if expected == count]
    if not names:
        known = ", ".join(f"{name} ({expected})" for name, expected in NETWORKS.items())
        raise UserError(f"{path} has {count} convolutions; known networks are {known}")
    classes = min((shape[1] for shape in kernels if len(shape) == 2), default=0)
    model = build(names[0], classes=classes)
    try:
        model.load_weights(str(path))
    except Exception as e:  # Keras, too
        raise UserError(f"{path} does not fit {names[0]} of keras.applications: {e}") from e
    return to_torchvision(model)


def build(name: str, weights: str | None = None, classes: int = 0) -> Any:
    """The model, with a classifier if there are classes; `weights` None fills it with random numbers."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras  # takes seconds

    top = {"include_top": True, "classes": classes} if classes else {"include_top": False}
    return getattr(keras.applications, name)(weights=weights, **top)


def to_torchvision(model: Any) -> Arrays:
    """The weights of a model of keras.applications under torchvision's names, classifier left out, kernels OIHW.

    Keras' convolutions before a batch norm have biases of their own and its batch norm has another epsilon. Both go
    into the running statistics, without a change to what the network computes: with our epsilon e,
    (y + b - m) / sqrt(v + e') = (y - (m - b)) / sqrt((v + e' - e) + e).
    """
    arrays: Arrays = {}
    biases: dict[str, np.ndarray] = {}
    for layer in model.layers:
        if not layer.weights or len(layer.weights[0].shape) == 2:
            continue  # no weights, or the classifier
        module = _module(layer.name)
        values = {v.name: np.asarray(v, np.float64) for v in layer.weights}
        if "kernel" in values:
            arrays[f"{module}.weight"] = values["kernel"].transpose(3, 2, 0, 1)
            biases[module] = values["bias"]
        else:
            before = re.sub(r"bn(\d)$", r"conv\1", module).replace("downsample.1", "downsample.0")
            values["moving_mean"] -= biases.pop(before)
            values["moving_variance"] += layer.epsilon - BatchNorm.epsilon
            arrays |= {f"{module}.{KINDS[kind]}": value for kind, value in values.items()}
    arrays |= {f"{module}.bias": bias for module, bias in biases.items()}
    dtype = np.dtype(model.weights[0].dtype)
    return {name: np.ascontiguousarray(array, dtype) for name, array in arrays.items()}


def _module(layer: str) -> str:
    """torchvision's name of a Keras layer.

    >>> _module("conv3_block1_0_bn"), _module("conv1_bn"), _module("block5_conv3")
    ('layer2.0.downsample.1', 'bn1', 'features.28')
    """
    if match := re.fullmatch(r"block(\d)_conv(\d)", layer):
        return PUBLISHED[f"conv{match[1]}_{match[2]}"]
    if match := re.fullmatch(r"conv1_(conv|bn)", layer):
        return f"{match[1]}1"
    stage, block, place, kind = re.findall(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer)[0]
    module = f"{kind}{place}" if place != "0" else f"downsample.{('conv', 'bn').index(kind)}"
    return f"layer{int(stage) - 1}.{int(block) - 1}.{module}"


def _kernels(path: Path) -> list[tuple[int, ...]]:
    """The shapes of the file's convolution kernels and dense matrices, an optimizer's copies left out."""
    import h5py  # comes with Keras

    source: Any = path
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    shapes: list[tuple[int, ...]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 4) and "optimizer" not in name:
            shapes.append(item.shape)

    with h5py.File(source, "r") as file:
        file.visititems(visit)
    return shapes
