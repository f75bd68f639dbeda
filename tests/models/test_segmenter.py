"""A backbone and a head of one's own: what the next ones need, from the config to the names of their weights."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import shrink
from uda_jax.config import CHOICES, check_config, default_config, differences
from uda_jax.errors import UserError
from uda_jax.models import segmenter
from uda_jax.models.contract import Backbone, Head, dtypes
from uda_jax.models.layers import Conv, resize_bilinear
from uda_jax.models.networks import build_networks
from uda_jax.training.state import create_state
from uda_jax.weights.trees import names, shapes


class Pyramid(nn.Module):
    """Three strided convolutions: maps of strides 4, 8 and 16."""

    width: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        maps = []
        for i, stride in enumerate((4, 2, 2)):
            x = nn.relu(Conv(self.width * 2**i, 3, stride, dtype=self.dtype, name=f"stage{i}")(x))
            maps.append(x)
        return tuple(maps)


class Fusion(nn.Module):
    """Everything at the size of the largest map that it reads, then a 1x1 convolution."""

    num_classes: int
    stages: tuple[int, ...]

    def setup(self) -> None:
        self.embed = [Conv(5, 1) for _ in self.stages]
        self.classifier = Conv(self.num_classes, 1, use_bias=True)

    def features(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        size = maps[self.stages[0]].shape[1:3]
        read = [embed(maps[i]) for embed, i in zip(self.embed, self.stages, strict=True)]
        return jnp.concatenate([resize_bilinear(x, size) for x in read], -1)

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.classifier(features)


def build_fusion(model: ConfigDict, strides: tuple[int, ...], level: str) -> Fusion:
    if level == "aux" or not {4, 16} <= set(strides):
        raise UserError(f"config.model.head='fusion' reads strides 4 and 16 and has no {level} of {strides}")
    return Fusion(model.num_classes, (strides.index(4), strides.index(16)))


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    def build(model: ConfigDict) -> Pyramid:
        return Pyramid(model.width, **dtypes(model))

    pyramid = Backbone(build, lambda model: (4, 8, 16), ("width",), {}, lambda shapes: None)
    monkeypatch.setattr(segmenter, "BACKBONES", {**segmenter.BACKBONES, "pyramid": pyramid})
    monkeypatch.setattr(segmenter, "HEADS", {**segmenter.HEADS, "fusion": Head(build_fusion, ())})
    for part, known in (("backbone", segmenter.BACKBONES), ("head", segmenter.HEADS)):
        monkeypatch.setitem(CHOICES, f"model.{part}", tuple(known))
    config = shrink(default_config())
    config.model.update(backbone="pyramid", head="fusion", two_levels=False)
    config.model.stem_width = default_config().model.stem_width
    return config


def test_a_head_reads_the_strides_it_wants(config: ConfigDict) -> None:
    networks = build_networks(config)
    params, stats = networks.init(jax.random.key(0), (32, 64))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3)), jnp.uint8)
    outputs = networks.predict(params, stats, images)
    assert outputs.features.shape == (2, 8, 16, 10)
    assert outputs.main.shape == (2, 32, 64, 19)
    logits = networks.classify(params, outputs.features)
    np.testing.assert_allclose(outputs.main, resize_bilinear(logits, (32, 64)), rtol=1e-5, atol=1e-5)
    config.model.backbone = "vgg16"
    with pytest.raises(UserError, match=r"strides 4 and 16 and has no main of \(1, 2, 4, 8, 8, 8\)"):
        build_networks(config)


def test_its_weights_have_names_of_their_own(config: ConfigDict) -> None:
    state = jax.eval_shape(partial(create_state, config, build_networks(config)))
    assert len(set(names(state).values())) == len(names(state))
    found = {name: shape for name, shape in shapes(state).items() if not name.startswith("discriminator")}
    assert found == {
        "stage0.weight": (4, 3, 3, 3),
        "stage1.weight": (8, 4, 3, 3),
        "stage2.weight": (16, 8, 3, 3),
        "head.embed_0.weight": (5, 4, 1, 1),
        "head.embed_1.weight": (5, 16, 1, 1),
        "head.classifier.weight": (19, 10, 1, 1),
        "head.classifier.bias": (19,),
    }


@pytest.mark.parametrize(
    ("setting", "value", "part"),
    [
        ("stem", "small", "backbone='pyramid'"),
        ("norm", "frozen", "backbone='pyramid'"),
        ("dilations", (1,), "head='fusion'"),
    ],
)
def test_settings_of_other_parts_do_nothing(setting: str, value: Any, part: str, config: ConfigDict) -> None:
    check_config(config)
    stored = config.to_dict()
    config.model[setting] = value
    assert differences(stored, config) == ""
    with pytest.raises(UserError, match=rf"config\.model\.{setting}=.* does nothing with config\.model\.{part}"):
        check_config(config)


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("resnet18", (4, 8, 16, 32)),
        ("resnet50", (16, 32, 64, 128)),
        ("vgg16", (4, 8, 16, 32, 32, 64)),
        ("efficientnet_lite2", (24, 48, 120, 352)),
    ],
)
def test_maps_of_all_stages_have_the_strides_that_are_said(backbone: str, channels: tuple[int, ...]) -> None:
    model = default_config().model
    model.update(backbone=backbone, width=4, stem_width=4)
    known = segmenter.BACKBONES[backbone]
    images = jax.ShapeDtypeStruct((1, 64, 128, 3), jnp.float32)
    maps, _ = jax.eval_shape(partial(known.build(model).init_with_output, train=False), jax.random.key(0), images)
    assert tuple(x.shape[-1] for x in maps) == channels
    for x, stride in zip(maps, known.strides(model), strict=True):
        assert all(0 <= ours - size // stride <= 1 for ours, size in zip(x.shape[1:3], (64, 128), strict=True))
