"""Pretrained backbones: a NumPy archive with torchvision's names -> the segmenter's parameters."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from uda_jax.errors import UserError

Path_ = tuple[str, ...]


def torch_name(path: Path_) -> str:
    """The torchvision name of a backbone parameter or statistic.

    >>> torch_name(("backbone", "layer1_0", "downsample_bn", "mean"))
    'layer1.0.downsample.1.running_mean'
    """
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    modules = [p.replace("_", ".", 1) if p.startswith("layer") else p for p in path[1:-1]]
    modules = [{"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(m, m) for m in modules]
    return ".".join([*modules, names.get(path[-1], path[-1])])


def load_pretrained(state: Any, file: str) -> Any:
    """Replaces the backbone of a TrainState by the arrays of an .npz; heads keep their fresh values.

    Args:
      file: .npz with torchvision's names and layouts (OIHW kernels).

    Raises:
      UserError: the file is missing or not a plain .npz, or any backbone array is missing or of another shape.
    """
    arrays = read_npz(Path(file))
    missing: list[str] = []
    trees = {}
    for name, tree in (("params", state.params), ("batch_stats", state.batch_stats)):
        flat = traverse_util.flatten_dict(tree)
        for path, ours in flat.items():
            if path[0] == "backbone":
                flat[path] = _take(arrays, torch_name(path), path[-1], ours, missing)
        trees[name] = traverse_util.unflatten_dict(flat)
    if missing:
        shown = "\n  ".join(missing[:8])
        raise UserError(
            f"{file} does not fit the backbone in config.model; {len(missing)} arrays are missing or of another "
            f"shape:\n  {shown}\nSet model.backbone, stem, stem_width and width to those of the weights."
        )
    return state.replace(**trees)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Plain arrays of an .npz; pickled objects are refused.

    Raises:
      UserError: no such file, or not a readable .npz of plain arrays.
    """
    try:
        # Our own handle: numpy leaves its open where the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {k: archive[k] for k in archive.files}
    except FileNotFoundError as e:
        raise UserError(f"no weights at {path}; set --config.model.pretrained to an .npz, or to '' for none") from e
    except Exception as e:  # numpy and zipfile raise many kinds for a damaged or pickled file
        raise UserError(f"{path} is not a readable .npz of plain arrays: {e}") from e


def _take(arrays: dict[str, np.ndarray], name: str, kind: str, ours: jax.Array, missing: list[str]) -> jax.Array:
    """The array `name` in our layout, dtype and placement; notes a misfit in `missing` and returns ours."""
    theirs = arrays.get(name)
    if theirs is not None and kind == "kernel" and theirs.ndim == 4:
        theirs = theirs.transpose(2, 3, 1, 0)
    if theirs is None or theirs.shape != ours.shape:
        missing.append(f"{name}: {'not there' if theirs is None else theirs.shape}, expected {ours.shape}")
        return ours
    return jax.device_put(jnp.asarray(theirs, ours.dtype), ours.sharding)
