"""Whole steps, and the settings of the shipped configs."""

import importlib
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tests.conftest import random_batch
from tests.methods.apoda.conftest import CLASSES, World
from uda_jax.errors import UserError
from uda_jax.methods import apoda
from uda_jax.models.networks import build_networks
from uda_jax.training.state import create_state
from uda_jax.training.step import build_step


@pytest.fixture
def tiny(config: ConfigDict) -> ConfigDict:
    """VGG at a sixteenth of its width: no batch norm, and quick to compile."""
    config.method = "apoda"
    config.model.update(backbone="vgg16", two_levels=False, init="he")
    return config


def test_a_step_compiles_once_and_runs_one_backbone_a_domain(tiny: ConfigDict) -> None:
    """Both phases are one program. Counts its convolutions, as tests/training/test_step.py does without an attack.

    A round of the attack runs the discriminator once a domain, and no backbone; the loop's body is in the program once.
    The discriminator's first layer is a matrix product, as are its other layers' input gradients on CPU.
    """
    tiny.apoda.warmup_steps = 1
    tiny.discriminator.layers = 3
    networks = build_networks(tiny)
    state = jax.jit(partial(create_state, tiny, networks))()
    step = jax.jit(build_step(tiny, networks))
    text = step.lower(state, random_batch(tiny)).compile().as_text()
    backbone, layers = 15, tiny.discriminator.layers - 1
    game = 2 * layers + 2 * layers  # forward (the adversarial loss's is the target's), and gradients of kernels
    attack = 2 * layers
    judged = 2 * layers  # the perturbed maps, for the metrics
    assert len(re.findall(r" convolution\(", text)) == 2 * (3 * backbone - 1) + game + attack + judged
    for attacked in (False, True):
        state, metrics = step(state, random_batch(tiny))
        assert (metrics["rms_source"] > 0) == (metrics["rms_target"] > 0) == attacked
    assert step._cache_size() == 1


# Settings -------------------------------------------------------------------------------------------------------------


def test_a_discriminator_of_features_is_made_to_measure(tiny: ConfigDict) -> None:
    tiny.apoda.discriminator_input = "feature"
    state = jax.eval_shape(partial(create_state, tiny, build_networks(tiny)))
    assert state.discriminator_params["main"]["conv1"]["kernel"].shape == (4, 4, 64, 4)


def test_maps_too_small_for_the_discriminator_say_so(world: World) -> None:
    with pytest.raises(UserError, match=r"maps of 9x3.*config\.discriminator\.layers=3"):
        world.networks.discriminate(world.discriminator["main"], jnp.zeros((1, 3, 9, CLASSES)))


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [("gta5_to_cityscapes_apoda", 0, ("45.9", "38.0")), ("synthia_to_cityscapes_apoda", 13, ("53.1", "41.1"))],
)
def test_both_backbones_of_the_published_configs(name: str, classes: int, published: tuple[str, str]) -> None:
    module = importlib.import_module(f"configs.{name}")
    for backbone in ("resnet101", "vgg16"):
        config = module.get_config(backbone)
        assert (config.model.backbone, config.model.two_levels, config.method) == (backbone, False, "apoda")
    assert len(config.eval.classes) == classes
    assert all(re.search(rf"\b{number}\b", module.__doc__) for number in published)


def test_the_default_is_the_first_choice() -> None:
    c = apoda.default_config()
    strings = {name for name, value in c.items() if isinstance(value, str)}
    assert strings == set(apoda.CHOICES)
    assert all(c[name] == choices[0] for name, choices in apoda.CHOICES.items())
