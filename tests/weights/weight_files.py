"""Shared by the tests of weights from elsewhere: stored PyTorch files, configs for them, and states that took them."""

import gzip
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from uda_jax.config import default_config
from uda_jax.models.networks import build_networks
from uda_jax.training.state import TrainState, create_state
from uda_jax.weights.arrays import read_arrays
from uda_jax.weights.trees import load_pretrained

DATA = Path(__file__).parent / "data"
CLASSES = 3  # of the files in tests/weights/data


def unpack(name: str, directory: Path) -> str:
    """A file of tests/weights/data as PyTorch wrote it (see make_torch_files.py there)."""
    path = directory / name
    path.write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
    return str(path)


def config_file(directory: Path, **model: Any) -> str:
    """A config of these model settings, as --config takes it."""
    path = directory / "config.py"
    path.write_text(
        "from uda_jax.config import default_config\n\n\ndef get_config():\n    config = default_config()\n"
        f"    config.model.update(**{model!r})\n    return config\n"
    )
    return str(path)


def configured(file: str, **changes: Any) -> ConfigDict:
    """The default config with the settings that a converted file asks for."""
    config = default_config()
    known = {k: v for k, v in read_arrays(file)[1]["model"].items() if k in config.model}
    config.model.update({k: tuple(v) if isinstance(v, list) else v for k, v in known.items()} | changes)
    return config


def loaded(config: ConfigDict, file: str) -> TrainState:
    """A state of zeros into which the file was loaded."""
    abstract = jax.eval_shape(partial(create_state, config, build_networks(config)))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    return load_pretrained(state, file, config.model)


def write_torch(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """What torch.save writes of a state dict, as a zip: float32, or int64 for counters."""
    program = "ccollections\nOrderedDict\n(tR("
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, array) in enumerate(arrays.items()):
            kind, dtype = ("Long", "<i8") if array.dtype.kind == "i" else ("Float", "<f4")
            steps = np.empty(array.shape, np.int8).strides  # of elements of one byte: in elements
            size, stride = ("".join(f"I{n}\n" for n in numbers) for numbers in (array.shape, steps))
            storage = f"(Vstorage\nctorch\n{kind}Storage\nV{key}\nVcpu\nI{array.size}\ntQ"
            numbers = f"{storage}I0\n({size}t({stride}tI00\nccollections\nOrderedDict\n(tR"
            program += f"V{name}\nctorch._utils\n_rebuild_tensor_v2\n({numbers}tR"
            archive.writestr(f"{path.stem}/data/{key}", np.ascontiguousarray(array, dtype).tobytes())
        archive.writestr(f"{path.stem}/data.pkl", f"{program}u.".encode())
    return str(path)
