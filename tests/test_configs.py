"""Every shipped config is built and checked; shrunk, each is traced, and some take a finite step."""

import importlib
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.conftest import random_batch, shrink
from uda_jax.config import check_config
from uda_jax.models.networks import build_networks
from uda_jax.runs import batch_of
from uda_jax.training.state import create_state, make_constants
from uda_jax.training.step import build_step

NAMES = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py") if p.stem != "__init__")
SHORT = ("demo", *(f"gta5_to_cityscapes_{method}" for method in ("adaptsegnet", "minent")))
LONG = ("laptop", *(f"gta5_to_cityscapes_{method}" for method in ("source_only", "advent", "apoda", "mic")))


def test_there_are_configs() -> None:
    assert {"demo", "rendered_to_photos", "gta5_to_cityscapes_adaptsegnet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_valid_and_says_how_to_run_it(name: str) -> None:
    module = importlib.import_module(f"configs.{name}")
    for word in ("Command:", "Hardware:", "Expect:"):
        assert word in module.__doc__.replace("Data and hardware:", "Hardware:").replace(
            "Data, hardware and time:", "Hardware:"
        )
    check_config(module.get_config())


@pytest.mark.parametrize("name", [*SHORT, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_a_step_of_a_config(name: str) -> None:
    config = shrink(importlib.import_module(f"configs.{name}").get_config())
    config.apoda.attack_steps = 1  # the rounds are alike, and unrolled
    networks = build_networks(config)
    state = jax.jit(lambda: create_state(config, networks))()
    constants = make_constants(config, networks, state.params, state.batch_stats)
    new, metrics = jax.jit(build_step(config, networks))(state, random_batch(config), constants)
    assert int(new.step) == 1
    assert all(np.isfinite(v).all() for v in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*NAMES} - {*SHORT, *LONG}))
def test_a_step_of_a_config_is_traced(name: str) -> None:
    """Names, shapes and types fit. That it compiles and computes numbers, tests of its method show."""
    config = shrink(importlib.import_module(f"configs.{name}").get_config())
    networks = build_networks(config)
    state = jax.eval_shape(partial(create_state, config, networks))
    constants = jax.eval_shape(partial(make_constants, config, networks), state.params, state.batch_stats)
    new, metrics = jax.eval_shape(build_step(config, networks), state, batch_of(config), constants)
    assert new == state and "loss" in metrics


def test_synthia_is_scored_on_its_sixteen_classes() -> None:
    for method, steps in (("adaptsegnet", 150_000), ("minent", 90_000), ("advent", 90_000)):
        config = importlib.import_module(f"configs.synthia_to_cityscapes_{method}").get_config()
        assert (config.method, config.train.steps, config.data.source.size) == (method, steps, (760, 1280))
        assert config.eval.classes == (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
        assert (config.data.source.dataset, config.data.target.dataset) == ("synthia", "cityscapes")


def test_visda17_is_the_published_recipe_on_other_photographs() -> None:
    names = ("gta5_to_cityscapes", "gta5_to_visda17")
    for method in ("source_only", "adaptsegnet"):
        recipe, config = (importlib.import_module(f"configs.{name}_{method}").get_config() for name in names)
        assert config.method == method
        for name in ("target", "oracle", "eval"):
            assert (config.data[name].dataset, config.data[name].split) == ("visda17", "test")
        assert (config.data.eval.size, config.data.eval.label_size) == ((512, 1024), (720, 1280))  # scored at full size
        for name in ("target", "oracle", "eval"):
            config.data[name] = recipe.data[name]
        assert config == recipe


def test_a_hundred_labels_from_all_over_cityscapes() -> None:
    split = importlib.import_module("configs.gta5_to_cityscapes_daformer_100_labels").get_config().few_labels.split
    slices = [tuple(map(int, part.removeprefix("train[").rstrip("]").split(":"))) for part in split.split("+")]
    chosen = {i for first, last in slices for i in range(first, last)}
    assert len(chosen) == 100 and min(chosen) == 0 and 2800 < max(chosen) < 2975


def test_two_games_are_drawn_from_alike() -> None:
    config = importlib.import_module("configs.gta5_and_synthia_to_cityscapes_dacs").get_config()
    assert (config.data.source.dataset, config.data.source.weights) == ("gta5+synthia", (1.0, 1.0))


def test_the_published_recipe() -> None:
    """The constants that make the number, spelled out once more and independently."""
    config = importlib.import_module("configs.gta5_to_cityscapes_adaptsegnet").get_config()
    c, d = config.optimizer, config.data
    assert (c.learning_rate, c.momentum, c.weight_decay, c.head_multiplier) == (2.5e-4, 0.9, 5e-4, 10)
    assert (c.discriminator_learning_rate, c.discriminator_b1, c.discriminator_b2) == (1e-4, 0.9, 0.99)
    assert (c.schedule_steps, c.power, config.train.steps, config.train.batch_size) == (
        250_000,
        0.9,
        150_000,
        1,
    )
    assert c.variant == "legacy"
    assert (d.source.size, d.target.size, d.eval.size) == ((720, 1280), (512, 1024), (512, 1024))
    assert d.eval.label_size == (1024, 2048)
    assert not any(stream.flip or stream.crop for stream in (d.source, d.target))
    assert (config.model.backbone, config.model.dilations, config.model.norm) == (
        "resnet101",
        (6, 12),
        "batch",
    )
    a = config.adaptsegnet
    assert (a.lambda_seg_aux, a.lambda_adv_aux, a.lambda_adv_main) == (0.1, 0.0002, 0.001)
    single = importlib.import_module("configs.gta5_to_cityscapes_adaptsegnet_single").get_config().adaptsegnet
    assert (single.lambda_seg_aux, single.lambda_adv_aux, single.lambda_adv_main) == (0.0, 0.0, 0.001)
