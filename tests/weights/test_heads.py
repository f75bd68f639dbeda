"""Files with a head: which one it is, and what of it is said, converted and compared."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.weights.test_convert_weights import refused
from tests.weights.test_weights import abstract_state, assert_same_weights, quiet, random_state, tiny
from tests.weights.weight_files import config_file, configured
from uda_jax.config import check_config
from uda_jax.errors import UserError
from uda_jax.weights.arrays import read_arrays, write_arrays
from uda_jax.weights.convert import convert
from uda_jax.weights.trees import backbone_of, head_of, load_pretrained, shapes, to_arrays


def daformer(backbone: str = "resnet18", **model: Any) -> ConfigDict:
    settings = {"head": "daformer", "head_width": 6, "two_levels": False, "num_classes": 5, "align_corners": False}
    return tiny(backbone, **(settings | model))


def written(config: ConfigDict, path: Path, **metadata: Any) -> str:
    """A file of random weights of this model, which it describes as an export does."""
    model = {key: list(x) if isinstance(x, tuple) else x for key, x in config.model.to_dict().items()}
    write_arrays(path, to_arrays(random_state(config)), {"model": model | metadata})
    return str(path)


def test_names_of_daformers_head_are_those_of_mmsegmentation() -> None:
    found = shapes(abstract_state(daformer(num_classes=19, head_width=256)))
    expected = {
        "head.embed_layers.0.proj.weight": (256, 4, 1, 1),
        "head.embed_layers.3.proj.bias": (256,),
        "head.fuse_layer.aspp_modules.0.conv.weight": (256, 1024, 1, 1),
        "head.fuse_layer.aspp_modules.0.bn.running_var": (256,),
        "head.fuse_layer.aspp_modules.3.depthwise_conv.conv.weight": (1024, 1, 3, 3),
        "head.fuse_layer.aspp_modules.3.depthwise_conv.bn.weight": (1024,),
        "head.fuse_layer.aspp_modules.3.pointwise_conv.bn.running_mean": (256,),
        "head.fuse_layer.bottleneck.conv.weight": (256, 1024, 3, 3),
        "head.conv_seg.weight": (19, 256, 1, 1),
        "head.conv_seg.bias": (19,),
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("config", "part", "settings"),
    [
        (daformer(), "head", {"head": "daformer", "head_width": 6, "num_classes": 5}),
        (daformer(), "aux_head", {}),
        (tiny("resnet18"), "head", {"head": "deeplab_v2", "num_classes": 19}),
        (tiny("vgg16", num_classes=7), "aux_head", {"head": "deeplab_v2", "num_classes": 7}),
    ],
)
def test_shapes_tell_which_head_it_is(config: ConfigDict, part: str, settings: dict[str, Any]) -> None:
    found = shapes(abstract_state(config))
    assert head_of(found, part) == settings
    assert head_of({f"{part}.gate.weight": (3,)}, part) == head_of({}, part) == {}
    without = {name: shape for name, shape in found.items() if "conv_seg" not in name}
    assert "num_classes" not in head_of(without, part) or config.model.head == "deeplab_v2"
    assert backbone_of(found)["backbone"] == config.model.backbone


@pytest.mark.slow
def test_a_file_with_daformers_head_is_converted_with_its_settings(tmp_path: Path) -> None:
    config = daformer("efficientnet_lite0", output_stride=32, bgr=False)
    source = written(config, tmp_path / "a.npz")
    report = convert(source, str(tmp_path / "b.npz"))
    settings = dict(re.findall(r"--config\.model\.(\w+)=(.*)", report))
    assert settings == {
        "backbone": "efficientnet_lite0",
        "head": "daformer",
        "head_width": "6",
        "two_levels": "False",
        "num_classes": "5",
        "output_stride": "32",
        "align_corners": "False",
        "bgr": "False",
        "pretrained": f"{tmp_path}/b.npz",
    }
    assert "fresh" not in report
    ours = configured(str(tmp_path / "b.npz"), width=64, stem_width=64)
    check_config(ours)
    ours.discriminator.width = 4
    state = load_pretrained(random_state(ours, seed=1), str(tmp_path / "b.npz"), ours.model, quiet)
    assert_same_weights(state, random_state(config))
    without = convert(source, str(tmp_path / "c.npz"), skip=("head",))
    assert re.findall(r"--config\.model\.(\w+)=", without) == ["backbone", "bgr", "pretrained"]


def test_the_classifier_alone_can_be_left_out(tmp_path: Path) -> None:
    """What DAFormer's head learned besides is of use to other classes."""
    skip = ("head.conv_seg", "discriminator")
    report = convert(written(daformer(), tmp_path / "a.npz"), str(tmp_path / "b.npz"), skip=skip)
    assert """--config.model.pretrained_skip="('head.conv_seg',)\"""" in report
    assert "--config.model.head_width=6" in report and "num_classes" not in report
    ours = daformer(num_classes=11, pretrained_skip=("head.conv_seg",))
    state = load_pretrained(random_state(ours, seed=1), str(tmp_path / "b.npz"), ours.model, quiet)
    kept, _ = read_arrays(tmp_path / "b.npz")
    assert "head.fuse_layer.bottleneck.conv.weight" in kept and "head.conv_seg.bias" not in kept
    assert all(np.array_equal(to_arrays(state)[name], array) for name, array in kept.items())


CLASSES = "Its head has 5 classes, the model {} (config.model.num_classes)."
SETTING = "Its head wants config.model.{}={}, the model has {}."
ONE_LEVEL = tiny("resnet18", two_levels=False)


@pytest.mark.parametrize(
    ("theirs", "ours", "lines", "parts"),
    [
        (daformer(), daformer(num_classes=7), [CLASSES.format(7)], "('head','discriminator')"),
        (daformer(), daformer(head_width=8), [SETTING.format("head_width", 6, 8)], "('head',)"),
        (
            daformer(),
            ONE_LEVEL,
            [CLASSES.format(19), SETTING.format("head", "daformer", "deeplab_v2")],
            "('head','discriminator')",
        ),
        (
            tiny("resnet18", num_classes=5),
            daformer(),
            [SETTING.format("head", "deeplab_v2", "daformer")],
            "('head',)",
        ),
    ],
)
def test_another_head_than_the_models(
    theirs: ConfigDict, ours: ConfigDict, lines: list[str], parts: str, tmp_path: Path
) -> None:
    """Batch norms are as wide as the head; none of them is taken for the classifier."""
    file = written(theirs, tmp_path / "w.npz")
    with pytest.raises(UserError) as error:
        load_pretrained(random_state(ours), file, ours.model, quiet)
    assert re.findall("^Its .*", str(error.value), re.MULTILINE) == lines
    assert f'--config.model.pretrained_skip="{parts}"' in str(error.value)
    assert "By their shapes" not in str(error.value)
    settings = {key: ours.model[key] for key in ("backbone", "head", "head_width", "num_classes", "two_levels")}
    model = config_file(tmp_path, **settings, width=4, stem_width=4)
    message = refused(file, tmp_path, model)
    assert re.findall("^Its .*", message, re.MULTILINE) == lines
    assert "Heads of other settings need a --config." in message


def test_skipped_heads_are_not_compared(tmp_path: Path) -> None:
    arrays = to_arrays(random_state(daformer()))
    del arrays["bn1.bias"]
    write_arrays(tmp_path / "w.npz", arrays, {})
    ours = daformer(num_classes=7, pretrained_skip=("head", "discriminator"))
    with pytest.raises(UserError, match=r"missing: 1 \(bn1.bias\)") as error:
        load_pretrained(random_state(ours), str(tmp_path / "w.npz"), ours.model, quiet)
    assert "Its head" not in str(error.value)


@pytest.mark.parametrize(
    ("backbone", "head", "notes"),
    [
        ("efficientnet_lite0", True, ["output_stride=32, this run has 16", "align_corners=False, this run has True"]),
        ("efficientnet_lite0", False, []),  # a backbone alone fits them all
        ("resnet18", True, ["align_corners=False, this run has True"]),
    ],
)
def test_what_a_head_is_used_to_is_compared(backbone: str, head: bool, notes: list[str], tmp_path: Path) -> None:
    """Dilations are another head's, and the place of the stride other backbones'."""
    metadata = {"dilations": [1], "stride_in_1x1": False, "output_stride": 32}
    file, said = written(daformer(backbone), tmp_path / "w.npz", **metadata), []
    ours = daformer(backbone, align_corners=True, pretrained_skip=() if head else ("head",))
    load_pretrained(random_state(ours), file, ours.model, said.append)
    assert [line.split("with model.")[1] for line in said[0].splitlines()[1:]] == notes


@pytest.mark.parametrize(
    ("theirs", "ours", "line"),
    [
        ("resnet34", {}, "By their shapes the weights want --config.model.backbone=resnet34"),
        ("resnet18", {"width": 8}, "By their shapes the weights want --config.model.width=4"),
        ("vgg16", {}, "By their shapes the weights want --config.model.backbone=vgg16"),
    ],
)
def test_another_backbone_than_the_models(theirs: str, ours: dict[str, Any], line: str, tmp_path: Path) -> None:
    config = tiny("resnet18", two_levels=False, **ours)
    file = written(tiny(theirs, two_levels=False), tmp_path / "w.npz")
    with pytest.raises(UserError) as error:
        load_pretrained(random_state(config), file, config.model, quiet)
    assert line in str(error.value).splitlines()


def test_a_backbone_of_no_known_size(tmp_path: Path) -> None:
    arrays = to_arrays(random_state(tiny("resnet18", two_levels=False)))
    write_arrays(tmp_path / "w.npz", {k: x for k, x in arrays.items() if not k.startswith("layer2.1")}, {})
    config = tiny("resnet18", two_levels=False)
    with pytest.raises(UserError, match=r"\nThe file is a ResNet of \(2, 1, 2, 2\) blocks, which is unknown here"):
        load_pretrained(random_state(config), str(tmp_path / "w.npz"), config.model, quiet)
