"""The map from a state to names and back, and files of weights read into a state."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import shrink
from uda_jax.config import default_config
from uda_jax.errors import UserError
from uda_jax.models.networks import build_networks
from uda_jax.training.state import TrainState, create_state
from uda_jax.weights import trees
from uda_jax.weights.arrays import write_arrays
from uda_jax.weights.trees import (
    flatten,
    from_torch,
    load_pretrained,
    match,
    names,
    shapes,
    to_arrays,
    torch_name,
    torch_shape,
    unflatten,
)

BACKBONES = ("resnet18", "resnet50", "resnet101", "vgg16")


def tiny(backbone: str = "resnet50", **model: Any) -> ConfigDict:
    config = shrink(default_config())
    config.model.update(backbone=backbone, **model)
    return config


def abstract_state(config: ConfigDict) -> TrainState:
    return jax.eval_shape(partial(create_state, config, build_networks(config)))


def random_state(config: ConfigDict, seed: int = 0) -> TrainState:
    """A state of random numbers, variances positive; nothing is compiled for it."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, x: jax.ShapeDtypeStruct) -> jax.Array:
        value = 0.1 * rng.standard_normal(x.shape)
        kind = getattr(path[-1], "key", "")
        value = 1 + np.abs(value) if kind in ("var", "scale") else value
        return jnp.asarray(value, x.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_state(config))


def quiet(text: str) -> None:
    del text


def assert_same_weights(a: TrainState, b: TrainState, but: str = "nothing") -> None:
    """Bit for bit, except for names that begin with `but`, all of which differ."""
    theirs, ours = to_arrays(a), to_arrays(b)
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        if name.startswith(but):
            assert not np.array_equal(array, ours[name]), name
        else:
            np.testing.assert_array_equal(array, ours[name], strict=True, err_msg=name)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_map_goes_both_ways(backbone: str) -> None:
    """No two weights share a name; by name and layout alone the state is rebuilt bit for bit."""
    config = tiny(backbone)
    state = random_state(config)
    there = names(state)
    back = {name: path for path, name in there.items()}
    assert (
        len(back) == len(there) == len(jax.tree.leaves((state.params, state.batch_stats, state.discriminator_params)))
    )
    arrays = to_arrays(state)
    rebuilt = unflatten(random_state(config, seed=1), {back[name]: from_torch(x) for name, x in arrays.items()})
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), flatten(rebuilt), flatten(state))
    assert shapes(abstract_state(config)) == {name: x.shape for name, x in arrays.items()}


def test_names_are_those_of_torchvision() -> None:
    known = {
        "resnet50": {
            "conv1.weight": (64, 3, 7, 7),
            "bn1.running_var": (64,),
            "layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "layer1.0.downsample.1.bias": (256,),
            "layer4.2.conv3.weight": (2048, 512, 1, 1),
        },
        "vgg16": {
            "features.0.weight": (64, 3, 3, 3),
            "features.24.weight": (512, 512, 3, 3),
            "features.28.bias": (512,),
            "fc6.weight": (1024, 512, 3, 3),
            "fc7.bias": (1024,),
        },
    }
    rest = {"head.0.weight": (19, 2048, 3, 3), "aux_head.1.bias": (19,)}
    rest |= {"discriminator.main.0.weight": (64, 19, 4, 4), "discriminator.aux.4.bias": (1,)}
    for backbone, expected in known.items():
        config = tiny(backbone, width=64, stem_width=64)
        config.discriminator.width = 64
        expected |= rest if backbone == "resnet50" else {}
        found = shapes(abstract_state(config))
        assert {name: found.get(name) for name in expected} == expected
    vgg = [int(name.split(".")[1]) for name in found if name.startswith("features") and name.endswith("weight")]
    assert sorted(vgg) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # torchvision counts ReLUs and pools
    assert torch_name(("backbone", "layer1_0", "downsample_bn", "mean")) == "layer1.0.downsample.1.running_mean"


def test_layouts() -> None:
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # H, W, I, O
    arrays = to_arrays(TrainState(0, {"backbone": {"conv1": {"kernel": kernel}}}, {}, {}, None, None))
    assert arrays["conv1.weight"].shape == torch_shape(kernel.shape) == (5, 4, 2, 3)
    assert arrays["conv1.weight"][4, 3, 1, 2] == kernel[1, 2, 3, 4]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_whole_file_is_loaded_whole(suffix: str, tmp_path: Path) -> None:
    config, said = tiny(), []
    theirs, ours = random_state(config), random_state(config, seed=1)
    write_arrays(tmp_path / f"w{suffix}", to_arrays(theirs), {})
    loaded = load_pretrained(ours, str(tmp_path / f"w{suffix}"), config.model, said.append)
    assert_same_weights(loaded, theirs)
    jax.tree.map(np.testing.assert_array_equal, loaded.optimizer, ours.optimizer)
    parts = r"backbone 265, head 4, aux_head 4, discriminator.aux 10, discriminator.main 10"
    assert re.search(rf"w{suffix}: loaded 293 arrays: {parts}$", said[0]), said


def test_a_backbone_alone_just_works(tmp_path: Path) -> None:
    config, said = tiny(), []
    theirs, ours = random_state(config), random_state(config, seed=1)
    arrays = {k: v for k, v in to_arrays(theirs).items() if not k.startswith(("head", "aux", "discriminator"))}
    np.savez(tmp_path / "w.npz", **arrays, **{"fc.weight": np.zeros(3), "bn1.num_batches_tracked": np.asarray(5)})
    loaded = load_pretrained(ours, str(tmp_path / "w.npz"), config.model, said.append)
    jax.tree.map(np.testing.assert_array_equal, loaded.params["backbone"], theirs.params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, loaded.batch_stats, theirs.batch_stats)
    for tree in ("head", "aux_head"):
        jax.tree.map(np.testing.assert_array_equal, loaded.params[tree], ours.params[tree])
    fresh = "fresh: head 4, aux_head 4, discriminator.aux 10, discriminator.main 10"
    assert said[0].endswith(f"loaded 265 arrays: backbone 265; {fresh}; unused: fc.weight, bn1.num_batches_tracked")


def test_half_precision_is_cast_and_said(tmp_path: Path) -> None:
    config, said = tiny(), []
    arrays = {k: v.astype(np.float16) for k, v in to_arrays(random_state(config)).items()}
    write_arrays(tmp_path / "w.safetensors", arrays, {})
    loaded = load_pretrained(random_state(config, 1), str(tmp_path / "w.safetensors"), config.model, said.append)
    assert {x.dtype for x in flatten(loaded).values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(to_arrays(loaded)["conv1.weight"], arrays["conv1.weight"].astype(np.float32))
    assert said[0].endswith("; 293 of them cast from float16")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    config = tiny()
    state = random_state(config)
    arrays = to_arrays(state)
    del arrays["layer3.1.bn2.bias"]
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :, :3, :3]
    arrays["bn1.weight"] = np.full(4, np.nan, np.float32)
    arrays["bn1.bias"] = np.zeros(4, int)
    arrays["fc.bias"] = np.zeros(1000)
    write_arrays(tmp_path / "w.npz", arrays, {})
    with pytest.raises(UserError) as e:
        load_pretrained(state, str(tmp_path / "w.npz"), config.model, quiet)
    for words in (
        "loaded: 289 (backbone 261,",
        "missing: 1 (layer3.1.bn2.bias)",
        "wrong: 3 (",
        "conv1.weight: (4, 3, 3, 3), expected (4, 3, 7, 7)",
        "bn1.weight: holds values that are not finite",
        "bn1.bias: int64, expected floating point",
        "unused: 1 (fc.bias)",
        "--config.model.pretrained_skip=\"('layer3','bn1','conv1')\"",
    ):
        assert words in str(e.value), (words, str(e.value))


def test_skipped_parts_stay_fresh(tmp_path: Path) -> None:
    """VGG-16 as ImageNet gives it has no fc6 and fc7 of DeepLab's shape."""
    config = tiny("vgg16", two_levels=False)
    theirs, ours = random_state(config), random_state(config, 1)
    arrays = {k: v for k, v in to_arrays(theirs).items() if not k.startswith("fc")}
    write_arrays(tmp_path / "w.npz", arrays, {})
    with pytest.raises(UserError, match=r"missing: 4 .*fc6.weight(?s:.*)pretrained_skip=\"\('fc6','fc7'\)\""):
        load_pretrained(ours, str(tmp_path / "w.npz"), config.model, quiet)
    config.model.pretrained_skip = ("fc6", "fc7")
    loaded = load_pretrained(ours, str(tmp_path / "w.npz"), config.model, quiet)
    assert_same_weights(loaded, theirs, but="fc")
    config.model.pretrained_skip = ("fc8",)
    with pytest.raises(UserError, match=r"pretrained_skip names 'fc8'.*known: .*fc6"):
        load_pretrained(ours, str(tmp_path / "w.npz"), config.model, quiet)


def test_heads_of_another_class_count(tmp_path: Path) -> None:
    theirs, config = random_state(tiny()), tiny(num_classes=11)
    ours = random_state(config, 1)
    write_arrays(tmp_path / "w.npz", to_arrays(theirs), {})
    with pytest.raises(UserError) as e:
        load_pretrained(ours, str(tmp_path / "w.npz"), config.model, quiet)
    assert "Its head has 19 classes, the model 11 (config.model.num_classes)." in str(e.value)
    advice = re.search(r'--config.model.pretrained_skip="(.*)"', str(e.value))
    assert advice and advice[1] == "('head','aux_head','discriminator')"
    assert "model.backbone" not in str(e.value)
    config.model.pretrained_skip = ("head", "aux_head", "discriminator")  # what the message said
    loaded = load_pretrained(ours, str(tmp_path / "w.npz"), config.model, quiet)
    jax.tree.map(np.testing.assert_array_equal, loaded.params["backbone"], theirs.params["backbone"])
    jax.tree.map(np.testing.assert_array_equal, loaded.discriminator_params, ours.discriminator_params)


def test_an_incomplete_head_is_no_head(tmp_path: Path) -> None:
    config = tiny()
    arrays = to_arrays(random_state(config))
    del arrays["head.1.weight"]
    write_arrays(tmp_path / "w.npz", arrays, {})
    with pytest.raises(UserError, match=r"missing: 1 \(head.1.weight\)(?s:.*)pretrained_skip=\"\('head',\)\""):
        load_pretrained(random_state(config, 1), str(tmp_path / "w.npz"), config.model, quiet)


def test_a_deeper_networks_file_is_not_taken_for_ours() -> None:
    """ResNet-34 has every name of ResNet-18."""
    deep, shallow = shapes(abstract_state(tiny("resnet34"))), shapes(abstract_state(tiny("resnet18")))
    assert shallow.keys() <= deep.keys()
    found = match({name: np.zeros(shape, np.float32) for name, shape in deep.items()}, shallow)
    assert not found.missing
    assert found.wrong["layer3.5.conv1.weight"] == "the model has no such block"


def test_a_file_of_another_network_is_not_advised_to_be_skipped(tmp_path: Path) -> None:
    write_arrays(tmp_path / "w.npz", {"fc.weight": np.zeros((2, 2))}, {})
    with pytest.raises(UserError, match=r"loaded: 0 \(none\)(?s:.*)missing: 265 \(.*257 more") as e:
        load_pretrained(random_state(tiny()), str(tmp_path / "w.npz"), tiny().model, quiet)
    assert "pretrained_skip" not in str(e.value)


def test_settings_that_the_weights_want_are_compared(tmp_path: Path) -> None:
    config, said = tiny(), []
    wants = {"stride_in_1x1": False, "bgr": True, "mean": list(config.model.mean), "dilations": [6, 12, 18, 24]}
    write_arrays(tmp_path / "w.npz", to_arrays(random_state(config)), {"model": wants})
    load_pretrained(random_state(config, 1), str(tmp_path / "w.npz"), config.model, said.append)
    notes = said[0].splitlines()[1:]
    assert [note.split("with ")[1] for note in notes] == [
        "model.stride_in_1x1=False, this run has True",
        "model.dilations=[6, 12, 18, 24], this run has [6, 12]",
    ]
    config.model.pretrained_skip = ("head", "layer1")  # then neither means anything
    load_pretrained(random_state(config, 1), str(tmp_path / "w.npz"), config.model, said.append)
    assert "\n" not in said[1]


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "unknown"])
def test_files_that_are_no_weights(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("w.pth" if kind == "unknown" else "w.npz")
    path.write_text("hello")
    words = "not a readable .npz"
    if kind == "missing":
        path.unlink()
        words = "no weights at .*set --config.model.pretrained"
    elif kind == "truncated":
        write_arrays(path, {"conv1.weight": np.zeros((64, 3, 7, 7))}, {})
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "unknown":
        words = "format .pth is unknown; expected .npz or .safetensors"
    with pytest.raises(UserError, match=words):
        load_pretrained(random_state(tiny("resnet18")), str(path))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3), (3, 3, 2, 4), (1, 2, 1, 3, 2)])
def test_layouts_of_any_number_of_axes_come_back(shape: tuple[int, ...]) -> None:
    """A file may hold arrays that are no layer's of ours: a position table, a volume's kernel."""
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    there = trees.to_torch(x)
    assert there.shape == trees.torch_shape(shape)
    np.testing.assert_array_equal(trees.from_torch(there), x)
    if len(shape) in (0, 1, 3, 5):
        np.testing.assert_array_equal(there, x)
