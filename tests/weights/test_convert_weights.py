"""Weights from elsewhere: names, what the report says, and input that does not fit."""

import json
import sys
import zipfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from tests.weights.weight_files import CLASSES, config_file, configured, loaded, unpack
from uda_jax.config import default_config
from uda_jax.errors import UserError
from uda_jax.models.networks import build_networks
from uda_jax.training.state import create_state
from uda_jax.weights import names
from uda_jax.weights.arrays import read_arrays, write_arrays
from uda_jax.weights.convert import convert, main
from uda_jax.weights.trees import shapes


@cache
def tiny_shapes(backbone: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    config = default_config()
    config.model.update(backbone=backbone, num_classes=num_classes, width=4, stem_width=4, two_levels=False)
    config.method = "source_only"
    return shapes(jax.eval_shape(partial(create_state, config, build_networks(config))))


def tiny(backbone: str = "resnet18", num_classes: int = 19) -> dict[str, np.ndarray]:
    """Random arrays of a tiny model under our names."""
    rng = np.random.default_rng(0)
    shapes = tiny_shapes(backbone, num_classes)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def backbone_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if "head" not in name}


@pytest.mark.parametrize("prefix", ["", "module.", "Scale.", "module.Scale."])
@pytest.mark.parametrize("levels", [("layer5",), ("layer6",), ("layer6", "layer5")])
def test_names_of_published_segmenters(levels: tuple[str, ...], prefix: str) -> None:
    """layer6 is the main head and layer5 the auxiliary one, unless it is alone."""
    kinds = [f"{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]
    theirs = {f"{prefix}{level}.conv2d_list.{kind}": np.zeros(1) for level in levels for kind in kinds}
    theirs |= {f"{prefix}bn1.num_batches_tracked": np.zeros(()), f"{prefix}conv1.weight": np.ones(1)}
    heads = ("head", "aux_head")[: len(levels)]
    ours = names.our_names(theirs, "x.pth")
    assert ours.keys() == {f"{head}.{kind}" for head in heads for kind in kinds} | {"conv1.weight"}
    assert names.is_published(theirs)
    for level, head in zip(levels, heads, strict=True):
        assert ours[f"{head}.3.bias"] is theirs[f"{prefix}{level}.conv2d_list.3.bias"]


def test_names_of_the_published_vgg(tmp_path: Path) -> None:
    arrays = tiny("vgg16")
    places = {"features.24": "features.23", "features.26": "features.25", "features.28": "features.27",
              "fc6": "features.29", "fc7": "features.31"}  # fmt: skip
    theirs = {}
    for name, array in arrays.items():
        module, kind = name.rsplit(".", 1)
        if module.startswith("head"):
            module = f"classifier.conv2d_list.{module[5:]}"
        theirs[f"{places.get(module, module)}.{kind}"] = array
    assert len(theirs) == len(arrays) and "features.29.weight" in theirs
    ours = names.our_names(theirs, "x.pth")
    assert ours.keys() == arrays.keys()
    assert all(ours[name] is arrays[name] for name in arrays)


def test_a_classifying_vgg_has_no_fc6_of_ours(tmp_path: Path) -> None:
    """torchvision's: the dense layers of its classifier have no counterpart."""
    arrays = {name: array for name, array in tiny("vgg16").items() if name.startswith("features")}
    write_arrays(tmp_path / "a.safetensors", arrays | {"classifier.0.weight": np.zeros((4, 7))}, {})
    report = convert(f"timm:{tmp_path}/a.safetensors", str(tmp_path / "b.npz"))
    assert "unused: 1 (classifier.0.weight)" in report
    assert "fc6, fc7" in next(line for line in report.splitlines() if "fresh" in line)
    config = configured(str(tmp_path / "b.npz"))
    assert (config.model.bgr, config.model.pretrained_skip) == (False, ("fc6", "fc7"))
    state = loaded(config, str(tmp_path / "b.npz"))
    kernel = arrays["features.28.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(state.params["backbone"]["conv5_3"]["kernel"], kernel)


def test_one_name_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"x.pth has conv1.weight twice"):
        names.our_names({"conv1.weight": np.zeros(1), "module.conv1.weight": np.zeros(1)}, "x.pth")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_our_own_files_are_checked_and_rewritten(suffix: str, tmp_path: Path) -> None:
    arrays = tiny(num_classes=5)
    metadata = {
        "step": 7,
        "model": {"num_classes": 5, "mean": [1.0, 2.0, 3.0], "dilations": [6, 12], "dtype": "float32"},
    }
    write_arrays(tmp_path / f"a{suffix}", {**arrays, "extra": np.zeros(2)}, metadata)
    report = convert(str(tmp_path / f"a{suffix}"), str(tmp_path / "b.npz"))
    assert "unused: 1 (extra)" in report
    assert '--config.model.mean="(1.0, 2.0, 3.0)"' in report
    assert "--config.model.num_classes=5" in report
    found, kept = read_arrays(tmp_path / "b.npz")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert (kept["step"], kept["model"]["mean"]) == (7, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("kind", "prefix", "style"),
    [
        ("torchvision:", "", names.TORCH),
        ("", "module.", names.TORCH),
        ("caffe:", "", names.CAFFE),
        ("", "Scale.", names.CAFFE),
    ],
)
def test_the_file_and_the_report_say_which_input_the_weights_want(
    kind: str, prefix: str, style: dict, tmp_path: Path
) -> None:
    arrays = {prefix + name: array for name, array in backbone_of(tiny("resnet50")).items()}
    write_arrays(tmp_path / "a.safetensors", arrays, {})
    report = convert(f"{kind}{tmp_path}/a.safetensors", str(tmp_path / "b.npz"))
    _, metadata = read_arrays(tmp_path / "b.npz")
    for key, value in style.items():
        assert metadata["model"][key] == (list(value) if isinstance(value, tuple) else value)
        assert (f"--config.model.{key}=" in report) == (value != default_config().model[key])
    assert metadata["source"] == f"{kind}{tmp_path}/a.safetensors"


def test_the_settings_of_the_report_are_flags_that_training_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_arrays(tmp_path / "a.safetensors", backbone_of(tiny("resnet50")), {})
    report = convert(str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz"), skip=("layer4.2",))
    settings = [line.strip().replace('"', "") for line in report.splitlines() if "--config." in line]
    assert len(settings) == 9
    monkeypatch.setattr("sys.argv", ["train", *settings])  # where ml_collections looks for what to override
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict("config", default_config(), flag_values=values)
    values(sys.argv)
    assert config.value.model.backbone == "resnet50"
    assert config.value.model.std == names.TORCH["std"]
    assert config.value.model.pretrained_skip == ("layer4.2",)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float16) for name, array in backbone_of(tiny()).items()}
    write_arrays(tmp_path / "a.safetensors", arrays, {})
    report = convert(str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz"))
    assert f"cast: {len(arrays)} arrays from float16" in report
    found, _ = read_arrays(tmp_path / "b.npz")
    assert all(found[name].dtype == np.float32 and np.array_equal(found[name], arrays[name]) for name in arrays)


# What does not fit.


def refused(source: str, directory: Path, *args: Any, **kwargs: Any) -> str:
    """The message with which a conversion is refused; nothing is written."""
    with pytest.raises(UserError) as error:
        convert(source, str(directory / "out" / "w.npz"), *args, **kwargs)
    assert not (directory / "out").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("keras:ResNet5O", "did you mean ResNet50?"),
        ("ResNet101", "did you mean keras:ResNet101?"),
        ("adaptsegnt:x.pth", "'adaptsegnt' is unknown; .* did you mean adaptsegnet?"),
        ("torchvision:none.pth", "there is no file none.pth"),
        ("none.pth", "there is no file none.pth"),
    ],
)
def test_unknown_sources(source: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        convert(source, str(tmp_path / "w.npz"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.pth", b"\x89PNG\r\n\x1a\n...", "a PNG picture"),
        ("x.pth", b"<!DOCTYPE html>", "a web page"),
        ("x.pth", b"\x80\x04K\x01.", "a pickle, but not one of PyTorch's"),
        ("x.pth", b"", "nothing that is known"),
        ("model.ckpt.index", b"\0\0", "a TensorFlow checkpoint"),
        ("x.npz", b"hello", "not a readable .npz"),
        ("x.safetensors", b"\xff" * 20, "not a readable .safetensors"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", "damaged, or no Keras weights"),
        ("x.keras", b"PK\3\4", "damaged, or no Keras weights"),
        ("x.pth", b"PK\3\4", "damaged, or no PyTorch|file of another kind"),
    ],
)
def test_files_that_are_no_weights(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        convert(str(tmp_path / name), str(tmp_path / "w.npz"))


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.pth"])
def test_truncated_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "x.pth":
        unpack("adaptsegnet_multi.pth", tmp_path)
        path = tmp_path / "adaptsegnet_multi.pth"
    else:
        write_arrays(path, tiny(), {})
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in refused(f"caffe:{path}", tmp_path)


def test_pickled_objects_in_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array({"a": 1}, dtype=object))
    assert "not a readable .npz of plain arrays" in refused(str(tmp_path / "x.npz"), tmp_path)


def test_a_hostile_checkpoint(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", f"cos\nsystem\n(Vtouch {marker}\ntR.".encode())
    assert "asks for os.system" in refused(str(tmp_path / "x.pth"), tmp_path)
    assert not marker.exists()


def test_an_incomplete_backbone_is_refused_unless_told(tmp_path: Path) -> None:
    arrays = backbone_of(tiny())
    del arrays["layer3.1.bn2.bias"]
    arrays["layer2.0.conv1.weight"] = arrays["layer2.0.conv1.weight"][:, :3]
    write_arrays(tmp_path / "a.safetensors", arrays, {})
    message = refused(str(tmp_path / "a.safetensors"), tmp_path)
    assert "missing: 1 (layer3.1.bn2.bias)" in message
    assert "wrong: 1 (layer2.0.conv1.weight: (8, 3, 3, 3), expected (8, 4, 3, 3))" in message
    assert "--skip=layer3,layer2" in message
    report = convert(str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz"), skip=("layer3", "layer2.0"))
    assert """--config.model.pretrained_skip="('layer3', 'layer2.0')\"""" in report
    kept, metadata = read_arrays(tmp_path / "b.npz")
    assert not any(name.startswith(("layer3", "layer2.0")) for name in kept)
    assert metadata["model"]["pretrained_skip"] == ["layer3", "layer2.0"]
    config = configured(str(tmp_path / "b.npz"))
    state = loaded(config, str(tmp_path / "b.npz"))
    assert np.any(state.params["backbone"]["layer2_1"]["conv1"]["kernel"])


def test_a_head_of_other_classes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", tiny(num_classes=21), {})
    message = refused(str(tmp_path / "a.npz"), tmp_path)
    assert "Its head has 21 classes, the model 19" in message
    assert "--skip=head" in message
    report = convert(str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), skip=("head", "aux_head"))
    assert "fresh, not from this file: head" in report
    assert not any("head" in name for name in read_arrays(tmp_path / "b.npz")[0])


def test_a_discriminator_of_other_classes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", tiny(), {})
    file = unpack("advent_discriminator.pth", tmp_path)
    message = refused(str(tmp_path / "a.npz"), tmp_path, discriminator=file)
    assert "discriminator.main.0.weight: (2, 3, 4, 4), expected (2, 19, 4, 4)" in message
    assert "no published discriminator" in refused(
        str(tmp_path / "a.npz"), tmp_path, discriminator=str(tmp_path / "a.npz")
    )


def test_another_backbone_than_the_config_says(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.safetensors", backbone_of(tiny("resnet34")), {})
    model = config_file(tmp_path, backbone="resnet18", width=4, stem_width=4)
    message = refused(str(tmp_path / "a.safetensors"), tmp_path, model)
    assert "the weights want --config.model.backbone=resnet34" in message


def test_a_published_segmenter_must_be_called_by_its_name(tmp_path: Path) -> None:
    message = refused(unpack("adaptsegnet_multi.pth", tmp_path), tmp_path)
    assert "--from=adaptsegnet:" in message and "--from=advent:" in message


def test_heads_that_sum_other_branches(tmp_path: Path) -> None:
    model = config_file(tmp_path, num_classes=CLASSES, backbone="resnet50", width=2, stem_width=2)
    source = f"advent:{unpack('adaptsegnet_multi.pth', tmp_path)}"
    message = refused(source, tmp_path, model)
    assert "sum branches of dilations (6, 12, 18, 24), those of the --config (6, 12)" in message
    report = convert(source, str(tmp_path / "w.npz"), model, skip=("head", "aux_head"))
    assert "dilations" not in report


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"weight": np.zeros(3)}, "holds no backbone .* it has weight"),
        ({}, "it has nothing"),
        (
            {"conv1.weight": np.zeros(3), **{f"layer{i}.0.conv1.weight": np.zeros(3) for i in range(1, 5)}},
            r"of \(1, 1, 1, 1\) blocks, which is unknown here; known are resnet18 \(2, 2, 2, 2\)",
        ),
    ],
)
def test_files_without_a_known_backbone(arrays: dict, words: str, tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", arrays, {})
    with pytest.raises(UserError, match=words):
        convert(str(tmp_path / "a.npz"), str(tmp_path / "w.npz"))


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    arrays = backbone_of(tiny())
    arrays["bn1.bias"][0] = np.nan
    write_arrays(tmp_path / "a.npz", arrays, {})
    assert "bn1.bias: holds values that are not finite" in refused(str(tmp_path / "a.npz"), tmp_path)


@pytest.mark.parametrize(
    ("model", "words"), [("tiny", "expected settings by name"), ({"bgr": "yes"}, r"model.bgr='yes'; expected")]
)
def test_damaged_metadata(model: Any, words: str, tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", tiny(), {"model": model})
    with pytest.raises(UserError, match=words):
        convert(str(tmp_path / "a.npz"), str(tmp_path / "w.npz"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--to=x.pth"], "expected .npz or .safetensors"),
        (["--skip=heads"], "--skip names 'heads', which nothing begins with; known: bn1, conv1, layer1"),
        (["--config=none.py"], "there is no such Python file"),
        (["--config=configs/__init__.py"], "has no get_config"),
    ],
)
def test_mistakes_of_the_command_line(
    args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arrays(tmp_path / "a.npz", backbone_of(tiny()), {})
    assert main([f"--from={tmp_path}/a.npz", f"--to={tmp_path}/w.npz", *args]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "w.npz").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_arrays(tmp_path / "a.npz", backbone_of(tiny()), {})
    assert main([f"--from={tmp_path}/a.npz", f"--to={tmp_path}/w.npz"]) == 0
    assert f"--config.model.pretrained={tmp_path}/w.npz" in capsys.readouterr().out
    assert json.loads(json.dumps(read_arrays(tmp_path / "w.npz")[1]))["model"]["backbone"] == "resnet18"


def test_a_failed_download_says_where_from_and_what_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keras is sent through a proxy that is not there, with an empty cache."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    assert main(["--from=keras:vgg16", f"--to={tmp_path}/w.npz"]) == 2
    message = capsys.readouterr().err
    assert "could not be fetched from storage.googleapis.com" in message
    assert "--from=FILE.h5" in message
    assert not (tmp_path / "w.npz").exists()
