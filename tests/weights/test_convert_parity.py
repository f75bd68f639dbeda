"""Weights from elsewhere compute here what they compute there."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from tests.weights.weight_files import CLASSES, DATA, config_file, configured, loaded, unpack
from uda_jax.config import default_config
from uda_jax.models.networks import build_networks
from uda_jax.training.state import TrainState
from uda_jax.weights import keras as keras_weights
from uda_jax.weights import names
from uda_jax.weights.arrays import read_arrays, write_arrays
from uda_jax.weights.convert import convert
from uda_jax.weights.torch_file import read_torch


def outputs(config: ConfigDict, state: TrainState, images: np.ndarray) -> dict[str, np.ndarray]:
    """Low-resolution output of every module of the segmenter by its path, [B, H, W, C]."""
    segmenter = build_networks(config).segmenter

    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        return segmenter.apply(variables, images, train=False, capture_intermediates=True)[1]["intermediates"]

    variables = {"params": state.params, "batch_stats": state.batch_stats}
    found = traverse_util.flatten_dict(run(variables, jnp.asarray(images)))
    return {".".join(path[:-1]): value[0] for path, value in found.items() if not isinstance(value[0], tuple)}


def assert_close(ours: Any, theirs: Any) -> None:
    """To 1e-5 relative in float32: the whole, and each number relative to the largest."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.float32
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def randomised(name: str, seed: int = 0) -> Any:
    """A model of keras.applications whose every number is drawn anew, batch norm's too."""
    model = keras_weights.build(name)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = {v.name: rng.standard_normal(v.shape, np.float32) for v in layer.weights}
        for kind, n in values.items():
            if kind == "kernel":
                n *= np.sqrt(2 / np.prod(n.shape[:3]))
            elif kind == "moving_variance":
                np.add(1, 0.2 * np.abs(n), out=n)
            elif kind == "gamma":
                np.multiply(0.5 if layer.name.endswith("3_bn") else 1, 1 + 0.1 * n, out=n)
            else:
                n *= 0.2
        layer.set_weights(list(values.values()))
    return model


def keras_outputs(model: Any, images: np.ndarray, layers: list[str]) -> list[np.ndarray]:
    import keras

    part = keras.Model(model.input, [model.get_layer(name).output for name in layers])
    x = keras.applications.resnet.preprocess_input(images.astype(np.float32))  # VGG16's is the same
    return [np.asarray(x) for x in part(x, training=False)]


# Keras itself calls NumPy in a way that NumPy deprecates when it writes or reads files.
of_keras = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def images(*size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, *size, 3)).astype(np.uint8)


def test_keras_resnet50(tmp_path: Path) -> None:
    """All four stages. Ours keep the resolution of stage 2 and dilate instead: every 2nd, then every 4th pixel of ours
    is one of theirs. Stages of odd size have no last row that only our pooling in ceil mode would see.
    """
    model = randomised("ResNet50")
    write_arrays(tmp_path / "w.npz", keras_weights.to_torchvision(model), {})
    config = default_config()
    config.model.update(backbone="resnet50", two_levels=False, **names.KERAS)
    picture = images(65, 98)
    ours = outputs(config, loaded(config, str(tmp_path / "w.npz")), picture)
    stages = [f"conv{i}_block{n}_out" for i, n in ((2, 3), (3, 4), (4, 6), (5, 3))]
    theirs = keras_outputs(model, picture, stages)
    assert [x.shape[1:3] for x in theirs] == [(17, 25), (9, 13), (5, 7), (3, 4)]
    for name, step, expected in zip(
        ("layer1_2", "layer2_3", "layer3_5", "layer4_2"), (1, 1, 2, 4), theirs, strict=True
    ):
        assert_close(np.asarray(ours[f"backbone.{name}"][:, ::step, ::step]), expected)


@pytest.mark.slow
@of_keras
def test_keras_vgg16(tmp_path: Path) -> None:
    """Blocks 1 to 4 before the fourth pool, which our network leaves out; of block 5 the numbers alone."""
    model = randomised("VGG16")
    model.save(tmp_path / "v.keras")
    report = convert(str(tmp_path / "v.keras"), str(tmp_path / "w.safetensors"))
    assert """--config.model.pretrained_skip="('fc6', 'fc7')\"""" in report
    config = configured(str(tmp_path / "w.safetensors"))
    state = loaded(config, str(tmp_path / "w.safetensors"))
    picture = images(32, 48)
    names = [f"conv{i}_{n}" for i, count in ((1, 2), (2, 2), (3, 3), (4, 3)) for n in range(1, count + 1)]
    ours = outputs(config, state, picture)
    theirs = keras_outputs(model, picture, [f"block{n[4]}_conv{n[6]}" for n in names])
    for name, expected in zip(names, theirs, strict=True):
        assert_close(np.asarray(nn.relu(ours[f"backbone.{name}"])), expected)
    for n in (1, 2, 3):
        kernel, bias = model.get_layer(f"block5_conv{n}").get_weights()
        np.testing.assert_array_equal(state.params["backbone"][f"conv5_{n}"]["kernel"], kernel)
        np.testing.assert_array_equal(state.params["backbone"][f"conv5_{n}"]["bias"], bias)


def test_keras_epsilon_is_folded_exactly() -> None:
    """Where variances are small the difference of the epsilons shows; in float64 the fold is exact."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((1, 1, 2), dtype="float64"),
            keras.layers.Conv2D(2, 1, name="conv1_conv", dtype="float64"),
            keras.layers.BatchNormalization(epsilon=1.001e-5, name="conv1_bn", dtype="float64"),
        ]
    )
    model.layers[0].set_weights([np.eye(2)[None, None], np.array([0.3, -0.2])])
    model.layers[1].set_weights([np.array([2.0, 3]), np.array([0.5, 0.25]), np.array([0.1, 0.2]), np.array([1e-6, 0])])
    arrays = keras_weights.to_torchvision(model)
    x = np.array([0.7, 0.4])
    got = (x - arrays["bn1.running_mean"]) / np.sqrt(arrays["bn1.running_var"] + 1e-5)
    got = got * arrays["bn1.weight"] + arrays["bn1.bias"]
    np.testing.assert_allclose(got, np.asarray(model(x[None, None, None]))[0, 0, 0], rtol=1e-12)


@of_keras
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix"), [("ResNet50", ".h5"), ("ResNet101", ".weights.h5"), ("ResNet152", ".keras"), ("VGG16", ".h5")]
)
def test_every_file_format_and_network_of_keras(name: str, suffix: str, tmp_path: Path) -> None:
    """With a classifier; what was written is what the model had."""

    model = keras_weights.build(name, classes=10)
    (model.save_weights if "weights" in suffix else model.save)(tmp_path / f"k{suffix}")
    report = convert(str(tmp_path / f"k{suffix}"), str(tmp_path / "w.npz"))
    expected, (found, metadata) = keras_weights.to_torchvision(model), read_arrays(tmp_path / "w.npz")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], array) for name, array in expected.items())
    assert f"loaded: {len(found)} (backbone {len(found)})" in report and "unused" not in report
    assert metadata["model"]["backbone"] == name.lower() and metadata["model"]["bgr"]


def test_torchvision_resnet50(tmp_path: Path) -> None:
    """A ResNet-50 under torchvision's names, RGB scaled, stride in the 3x3, as PyTorch wrote and ran it."""
    report = convert(f"torchvision:{unpack('torchvision_resnet50.pth', tmp_path)}", str(tmp_path / "w.npz"))
    assert "unused: 2 (fc.weight, fc.bias)" in report
    check_stages("torchvision_resnet50", configured(str(tmp_path / "w.npz"), two_levels=False), tmp_path / "w.npz")


def test_adaptsegnet_multi(tmp_path: Path) -> None:
    """A published segmenter's names and format; of its four branches two are summed."""
    source = f"adaptsegnet:{unpack('adaptsegnet_multi.pth', tmp_path)}"
    model = config_file(tmp_path, num_classes=CLASSES, backbone="resnet50", width=2, stem_width=2)
    report = convert(source, str(tmp_path / "w.npz"), model)
    assert "loaded: 273 (backbone 265, head 4, aux_head 4)" in report
    assert "unused: 8" in report
    config = configured(str(tmp_path / "w.npz"), num_classes=CLASSES)
    ours = check_stages("adaptsegnet_multi", config, tmp_path / "w.npz")
    with np.load(DATA / "adaptsegnet_multi.npz") as expected:
        assert_close(np.asarray(ours["head"]), nhwc(expected["main"]))
        assert_close(np.asarray(ours["aux_head"]), nhwc(expected["aux"]))


def check_stages(name: str, config: ConfigDict, file: Path) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as expected:
        ours = outputs(config, loaded(config, str(file)), expected["image"])
        for stage, last in (("layer1", 2), ("layer2", 3), ("layer3", 5), ("layer4", 2)):
            assert_close(np.asarray(ours[f"backbone.{stage}_{last}"]), nhwc(expected[stage]))
    return ours


def test_discriminators_are_merged(tmp_path: Path) -> None:
    """ADVENT's, a Sequential, for one level, and AdaptSegNet's names for the other."""
    advent = unpack("advent_discriminator.pth", tmp_path)
    named = dict(zip(("0", "2", "4", "6", "8"), ("conv1", "conv2", "conv3", "conv4", "classifier"), strict=True))
    theirs = read_torch(advent)
    write_arrays(
        tmp_path / "aux.npz",
        {f"module.{named[k.split('.')[0]]}.{k.split('.')[1]}": 2 * v for k, v in theirs.items()},
        {},
    )
    source = f"caffe:{unpack('adaptsegnet_multi.pth', tmp_path)}"
    settings = {"num_classes": CLASSES, "backbone": "resnet50", "width": 2, "stem_width": 2}
    model = config_file(tmp_path, **settings)
    text = Path(model).read_text().replace("    return", "    config.discriminator.width = 2\n    return")
    Path(model).write_text(text)
    report = convert(source, str(tmp_path / "w.npz"), model, advent, str(tmp_path / "aux.npz"))
    assert "discriminator.main 10" in report and "discriminator.aux 10" in report
    rewritten = convert(str(tmp_path / "w.npz"), str(tmp_path / "v.npz"))
    assert f"--config.model.num_classes={CLASSES}" in rewritten and "--config.discriminator.width=2" in rewritten
    config = default_config()
    config.model.update(settings)
    config.discriminator.width = 2
    state = loaded(config, str(tmp_path / "w.npz"))
    with np.load(DATA / "advent_discriminator.npz") as expected:
        out = build_networks(config).discriminate(state.discriminator_params["main"], nhwc(expected["maps"]))
        assert_close(np.asarray(out), nhwc(expected["out"]))
    kernel = state.discriminator_params["aux"]["classifier"]["kernel"]
    np.testing.assert_array_equal(kernel, 2 * theirs["8.weight"].transpose(2, 3, 1, 0))
