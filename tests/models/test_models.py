from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.config import default_config
from uda_jax.models.discriminator import Discriminator
from uda_jax.models.layers import resize_bilinear
from uda_jax.models.networks import build_networks


def shapes(size: tuple[int, int], **model: object) -> tuple:
    config = default_config()
    config.model.update(**model)
    networks = build_networks(config)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    variables = jax.eval_shape(lambda x: networks.segmenter.init(jax.random.key(0), x, train=False), images)

    def outputs(variables: Any, images: jax.Array) -> dict:
        found = networks.predict(variables["params"], variables.get("batch_stats", {}), images)
        return {"main": found.main, "aux": found.aux, "features": found.features}

    return variables["params"], SimpleNamespace(**jax.eval_shape(outputs, variables, images))


def count(params: dict) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("size", "feature_size"), [((720, 1280), (91, 161)), ((512, 1024), (65, 129)), ((256, 512), (33, 65))]
)
def test_published_sizes(size: tuple[int, int], feature_size: tuple[int, int]) -> None:
    _, outputs = shapes(size)
    assert outputs.features.shape == (1, *feature_size, 2048)
    assert outputs.main.shape == outputs.aux.shape == (1, *size, 19)


def test_published_parameter_counts() -> None:
    all_branches = {"dilations": (6, 12, 18, 24)}
    assert count(shapes((64, 96), **all_branches)[0]) == 44_601_560
    maps = jnp.zeros((1, 720, 1280, 19))
    variables, out = jax.eval_shape(lambda x: Discriminator().init_with_output(jax.random.key(0), x)[::-1], maps)
    assert count(variables["params"]) == 2_781_121
    assert out.shape == (1, 22, 40, 1)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "vgg16"])
@pytest.mark.parametrize("two_levels", [False, True])
def test_every_backbone_has_stride_8_and_one_or_two_levels(backbone: str, two_levels: bool) -> None:
    _, outputs = shapes((64, 128), backbone=backbone, two_levels=two_levels)
    stride_8 = (8, 16) if backbone == "vgg16" else (9, 17)
    assert outputs.features.shape[1:3] == stride_8
    assert outputs.main.shape == (1, 64, 128, 19)
    assert (outputs.aux is not None) == two_levels


@pytest.mark.slow
def test_stride_in_the_3x3_changes_no_parameter_but_the_function() -> None:
    tiny = {"backbone": "resnet50", "width": 4, "stem_width": 4, "two_levels": False, "init": "he"}
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 33, 65, 3)), jnp.uint8)
    outputs = []
    for stride_in_1x1 in (True, False):
        config = default_config()
        config.model.update(stride_in_1x1=stride_in_1x1, **tiny)
        networks = build_networks(config)
        variables = networks.segmenter.init(jax.random.key(0), images, train=False)
        outputs.append(networks.predict(variables["params"], variables["batch_stats"], images).features)
    assert outputs[0].shape == outputs[1].shape
    assert not np.allclose(outputs[0], outputs[1])


def test_preprocessing_is_bgr_minus_the_mean() -> None:
    networks = build_networks(default_config())
    image = jnp.asarray([[[[10, 20, 30]]]], jnp.uint8)
    got = networks.segmenter.apply({}, image, method="preprocess")
    np.testing.assert_allclose(got[0, 0, 0], [30 - 104.00698793, 20 - 116.66876762, 10 - 122.67891434], rtol=1e-6)


def test_classify_of_features_is_the_main_output() -> None:
    config = default_config()
    config.model.update(backbone="resnet18", width=4, stem_width=4)
    networks = build_networks(config)
    images = jnp.full((1, 32, 64, 3), 100, jnp.uint8)
    variables = networks.segmenter.init(jax.random.key(0), images, train=False)
    outputs = networks.predict(variables["params"], variables["batch_stats"], images)
    logits = networks.segmenter.apply(variables, outputs.features, method="classify")
    np.testing.assert_allclose(outputs.main[0, 0, 0], logits[0, 0, 0], rtol=1e-5, atol=1e-6)


def test_logits_are_upsampled_once_to_the_size_asked_for() -> None:
    """Via the size of the image they were others."""
    config = default_config()
    config.model.update(backbone="resnet18", width=4, stem_width=4, init="he", two_levels=False)
    networks = build_networks(config)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3)), jnp.uint8)
    variables = jax.jit(lambda x: networks.segmenter.init(jax.random.key(0), x, train=False))(images)
    params, stats = variables["params"], variables["batch_stats"]
    at_once = networks.predict(params, stats, images, (61, 97))
    expected = resize_bilinear(networks.classify(params, at_once.features), (61, 97))
    np.testing.assert_allclose(at_once.main, expected, rtol=0, atol=1e-6 * float(jnp.abs(expected).max()))
    twice = resize_bilinear(networks.predict(params, stats, images).main, (61, 97))
    assert jnp.abs(twice - expected).max() > 0.01 * jnp.abs(expected).max()
