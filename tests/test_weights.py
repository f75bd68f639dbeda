from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from uda_jax.errors import UserError
from uda_jax.networks import build_networks
from uda_jax.state import TrainState, create_state
from uda_jax.weights import load_pretrained, torch_name


@pytest.fixture
def state(config: ConfigDict) -> TrainState:
    config.model.update(backbone="resnet50")
    return jax.jit(lambda: create_state(config, build_networks(config)))()


def archive(state: TrainState) -> dict[str, np.ndarray]:
    """A torchvision-shaped file for the state's backbone: kernels OIHW, random."""
    rng, arrays = np.random.default_rng(0), {}
    for tree in (state.params, state.batch_stats):
        for path, x in traverse_util.flatten_dict(tree).items():
            if path[0] == "backbone":
                shape = x.shape if x.ndim < 4 else (x.shape[3], x.shape[2], x.shape[0], x.shape[1])
                arrays[torch_name(path)] = rng.standard_normal(shape).astype(np.float32)
    return arrays


def test_every_array_of_the_backbone_is_taken(state: TrainState, tmp_path: Path) -> None:
    arrays = archive(state)
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.1.bias",
        "layer4.2.conv3.weight",
    } <= arrays.keys()
    np.savez(tmp_path / "w.npz", **arrays, **{"fc.weight": np.zeros(3)})
    loaded = load_pretrained(state, str(tmp_path / "w.npz"))
    block = loaded.params["backbone"]["layer2_0"]
    np.testing.assert_array_equal(block["conv2"]["kernel"], arrays["layer2.0.conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(block["downsample_bn"]["scale"], arrays["layer2.0.downsample.1.weight"])
    mean = loaded.batch_stats["backbone"]["layer2_0"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, arrays["layer2.0.bn1.running_mean"])
    jax.tree.map(np.testing.assert_array_equal, loaded.params["head"], state.params["head"])


def test_what_does_not_fit_is_named(state: TrainState, tmp_path: Path) -> None:
    arrays = archive(state)
    del arrays["layer3.1.bn2.bias"]
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :, :3, :3]
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(UserError, match=r"2 arrays.*(?s:.*)layer3.1.bn2.bias: not there"):
        load_pretrained(state, str(tmp_path / "w.npz"))


@pytest.mark.parametrize("kind", ["missing", "truncated", "pickled", "text"])
def test_files_that_are_no_weights(kind: str, state: TrainState, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    if kind == "pickled":
        np.savez(path, x=np.array({"a": 1}, dtype=object))
    elif kind == "truncated":
        np.savez(path, **archive(state))
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "text":
        path.write_text("hello")
    with pytest.raises(UserError, match="no weights at" if kind == "missing" else "not a readable .npz"):
        load_pretrained(state, str(path))
