"""Reads the reference vectors, rebuilds the weights that they were made with, and compares.

The vectors are arrays that the published PyTorch code computed. Weights are not stored: every tensor follows
from a seed and its PyTorch name by `rule`. Arrays are in PyTorch's layout: [B, C, H, W] and [O, I, h, w].
"""

import functools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import traverse_util

from uda_jax.config import default_config
from uda_jax.models.networks import Networks, build_networks
from uda_jax.models.vgg import LAYERS as VGG_LAYERS
from uda_jax.training.state import TrainState, create_state
from uda_jax.weights.trees import torch_name

COPIES = Path(__file__).parent / "data"
BESIDE = Path(__file__).parents[3] / "shared" / "reference"
SEGMENTER_TAGS = {"vgg16": "VGG"}  # all ResNets: G
DISCRIMINATOR_TAGS = {"aux": "D1", "main": "D2"}
FORWARD, TRAJECTORY = 1e-9, 1e-7  # relative tolerances in float64

Vectors = dict[str, np.ndarray]
WORST: dict[tuple[str, str], tuple[float, float]] = {}  # (file, group) -> worst error seen, tolerance


def directory() -> Path:
    """Where the vectors are: $UDA_REFERENCE_DIR, or the full set beside the repository, or the copies."""
    chosen = os.environ.get("UDA_REFERENCE_DIR")
    return Path(chosen) if chosen else BESIDE if BESIDE.is_dir() else COPIES


@functools.cache
def load(name: str) -> Vectors:
    """All arrays of `<name>.npz`; skips the test if this set has no such file."""
    return read(directory() / f"{name}.npz", "UDA_REFERENCE_DIR")


def read(path: Path, variable: str) -> Vectors:
    """All arrays of a file; skips the test if it is not there, and names the variable that says where it may be."""
    if not path.exists():
        pytest.skip(f"{path} is not there; set {variable} to a directory that has it")
    with np.load(path) as archive:
        return {k: archive[k] for k in archive.files}


def keys(name: str) -> list[str]:
    """Names of the arrays in `<name>.npz`, [] if this set has no such file."""
    path = directory() / f"{name}.npz"
    if not path.exists():
        return []
    with np.load(path) as archive:
        return archive.files


def truth(vectors: Vectors, key: str) -> np.ndarray:
    """The float64 result where there is one, else the array as it is."""
    return vectors[f"{key}__f64"] if f"{key}__f64" in vectors else vectors[key]


def matching(vectors: Vectors, before: str, after: str) -> dict[str, np.ndarray]:
    """name -> truth of all arrays called `<before><name><after>`."""
    found = {k.removesuffix("__f64") for k in vectors}
    found = {k for k in found if k.startswith(before) and k.endswith(after)}
    return {k[len(before) : len(k) - len(after)]: truth(vectors, k) for k in sorted(found)}


def error(ours: Any, theirs: Any) -> float:
    """Relative L2 distance; absolute where the truth is zero."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"shape {ours.shape}, expected {theirs.shape}"
    return float(np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) or 1.0))


def check(file: str, group: str, ours: Any, theirs: Any, tolerance: float = FORWARD) -> None:
    """Asserts that the relative error is within the tolerance, and notes it for the table."""
    found = error(ours, theirs)
    worst, _ = WORST.get((file, group), (0.0, 0.0))
    WORST[file, group] = (max(worst, found), tolerance)
    assert found <= tolerance, f"{file} {group}: relative error {found:.2e} is above {tolerance:.0e}"


def samples(x: np.ndarray) -> np.ndarray:
    """64 values of an array in PyTorch's layout: what the vectors store of a large one."""
    return x.ravel()[(np.arange(64) * 1000003 + 17) % x.size]


def nchw(x: jax.Array) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def rgb(bgr: np.ndarray) -> np.ndarray:
    """Images uint8 [B, 3 (BGR), H, W] -> what our segmenter takes, uint8 [B, H, W, 3 (RGB)]."""
    return np.ascontiguousarray(nhwc(bgr)[..., ::-1])


def oihw(path: tuple[str, ...], value: Any) -> np.ndarray:
    """A parameter of ours in PyTorch's layout."""
    value = np.asarray(value)
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value


@functools.cache
def rule(seed: int, tag: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that PyTorch name, float32, by the rule of the vectors."""
    n = np.random.default_rng([seed, zlib.crc32(f"{tag}/{name}".encode())]).standard_normal(shape)
    stem = tag == "G" and name.startswith("bn1.")
    if name.endswith("running_mean"):
        n = 0.1 * n * (100 if stem else 1)
    elif name.endswith("running_var"):
        n = (1 + 0.1 * np.abs(n)) * (10000 if stem else 1)
    elif name.endswith("bias"):
        n = 0.1 * n
    elif len(shape) == 1:
        n = (1 + 0.1 * n) * (0.25 if name.endswith("bn3.weight") else 1)
    elif "conv2d_list" in name:
        n = 0.01 * n
    else:
        n = n * np.sqrt(2 / np.prod(shape[1:])) / (64 if (tag, name) == ("VGG", "features.0.weight") else 1)
    return n.astype(np.float32)


def published_name(path: tuple[str, ...], config: ml_collections.ConfigDict) -> str:
    """The published name of a segmenter's or discriminator's parameter or statistic.

    >>> published_name(("aux_head", "kernel_1"), default_config())
    'layer5.conv2d_list.1.weight'
    """
    vgg = config.model.backbone == "vgg16"
    if path[0] in ("head", "aux_head"):
        head = "classifier" if vgg else "layer6" if path[0] == "head" and config.model.two_levels else "layer5"
        kind, branch = path[1].split("_")
        return f"{head}.conv2d_list.{branch}.{'weight' if kind == 'kernel' else 'bias'}"
    if vgg and path[0] == "backbone":
        return f"features.{vgg_index(path[1])}.{'weight' if path[2] == 'kernel' else 'bias'}"
    return torch_name(path if path[0] == "backbone" else ("", *path))


def vgg_index(name: str) -> int:
    """Place of our layer in the published list: a ReLU follows every convolution, pools are of their own."""
    before = VGG_LAYERS[: [layer[0] for layer in VGG_LAYERS].index(name)]
    return sum(1 if layer == "pool" else 2 for layer in before)


def fill(tree: Any, seed: int, tag: str, config: ml_collections.ConfigDict) -> Any:
    """The rule's weights in the structure (and dtypes) of one of our trees."""
    filled = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        shape = leaf.shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], shape[0], shape[1])
        value = rule(seed, tag, published_name(path, config), shape)
        filled[path] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value, leaf.dtype)
    return traverse_util.unflatten_dict(filled)


def parity_config(dtype: str = "float64", **model: Any) -> ml_collections.ConfigDict:
    """The published networks and optimizers in `dtype`, with changes to `config.model`."""
    config = default_config()
    config.model.update(dtype=dtype, param_dtype=dtype, **model)
    config.data.source.size = (33, 33)  # for shapes of parameters only
    return config


def rule_state(config: ml_collections.ConfigDict, seed: int) -> tuple[TrainState, Networks]:
    """A fresh train state with the rule's weights, and the networks."""
    networks = build_networks(config)
    shapes = jax.eval_shape(functools.partial(create_state, config, networks))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    tag = SEGMENTER_TAGS.get(config.model.backbone, "G")
    return state.replace(
        params=fill(shapes.params, seed, tag, config),
        batch_stats=fill(shapes.batch_stats, seed, tag, config),
        discriminator_params={
            level: fill(tree, seed, DISCRIMINATOR_TAGS[level], config)
            for level, tree in shapes.discriminator_params.items()
        },
    ), networks


def named(tree: Any, config: ml_collections.ConfigDict) -> Iterator[tuple[str, np.ndarray]]:
    """(published name, array in PyTorch's layout) of every leaf."""
    for path, leaf in traverse_util.flatten_dict(tree).items():
        yield published_name(path, config), oihw(path, leaf)
