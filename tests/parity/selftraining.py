"""Reads the vectors of the self-training codes (DAFormer, MIC, ...), whose weights follow a rule of their own."""

import functools
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.parity.reference import BESIDE, COPIES, Vectors, check, read, samples, truth
from uda_jax.weights.trees import from_torch, to_torch, torch_shape

SEED = 20171


def directory() -> Path:
    """$UDA_REFERENCE_SELFTRAINING_DIR, or the full set beside the repository, or the copies."""
    chosen, beside = os.environ.get("UDA_REFERENCE_SELFTRAINING_DIR"), BESIDE.with_name("reference_selftraining")
    return Path(chosen) if chosen else beside if beside.is_dir() else COPIES / "selftraining"


@functools.cache
def load(name: str) -> Vectors:
    """All arrays of `<name>.npz`; skips the test if this set has no such file."""
    return read(directory() / f"{name}.npz", "UDA_REFERENCE_SELFTRAINING_DIR")


def rule(tag: str, name: str, shape: tuple[int, ...], seed: int = SEED) -> np.ndarray:
    """The tensor of that published name, float32: linear, convolution and norm weights, biases, statistics."""
    n = np.random.default_rng([seed, zlib.crc32(f"{tag}/{name}".encode())]).standard_normal(shape)
    if name.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif name.endswith((".bias", "running_mean")):
        n = 0.1 * n
    elif len(shape) == 1:
        n = 1 + 0.1 * n
    elif "conv_seg" in name or "decode_head.aspp_modules" in name:
        n = n * 8 / np.sqrt(np.prod(shape[1:]))
    else:
        n = n * np.sqrt((2 if len(shape) == 4 else 1) / np.prod(shape[1:]))
    return n.astype(np.float32)


def drawn(name: str, shape: tuple[int, ...], seed: int = SEED) -> np.ndarray:
    """A feature, "feat/<key>", or a cotangent, "cot/<key>", float32."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)


def fill(tree: Any, name: Callable[[tuple[str, ...]], str], tag: str) -> Any:
    """The rule's weights in float64 in the structure of one of our trees, whose leaves have published names."""
    filled = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        filled[path] = jnp.asarray(from_torch(tensor(tag, name(path), torch_shape(leaf.shape))), jnp.float64)
    return traverse_util.unflatten_dict(filled)


def compare_gradients(
    file: str, group: str, prefix: str, gradients: Any, name: Callable[[tuple[str, ...]], str]
) -> None:
    """Those of all parameters, against `<prefix>/param_grad_s64` and their norms."""
    v = load(file)
    ours = {name(path): to_torch(np.asarray(x)) for path, x in traverse_util.flatten_dict(gradients).items()}
    names, norms = v[f"{prefix}/param_names"].tolist(), truth(v, f"{prefix}/param_grad_norm")
    assert sorted(names) == sorted(ours)
    for i, found in enumerate(names):
        if norms[i] > 1e-9 * norms.max():  # of a bias before a norm it is rounding alone
            check(file, group, samples(ours[found]), truth(v, f"{prefix}/param_grad_s64")[i])
        assert np.linalg.norm(ours[found]) == pytest.approx(norms[i], rel=1e-9, abs=1e-9 * norms.max())


def tensor(tag: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The rule's, where a shape of ours is not the one that it was drawn by."""
    linear = "embed_layers" in name and len(shape) == 4
    return rule(tag, name, shape[:2] if linear else shape).reshape(shape)
