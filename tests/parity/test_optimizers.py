"""The learning-rate schedule, which parameters are listed how often, and both optimizers on a toy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.parity import reference as ref
from uda_jax.models.networks import build_networks
from uda_jax.training.optimizers import build_optimizers, listed_sgd, poly_schedule, segmenter_groups
from uda_jax.training.state import create_state

POLY, TOY = "07_poly_lr", "10_optim"
# a parameter of ours that the published list holds so many times
LISTED = {
    1: ("backbone", "conv1", "kernel"),
    3: ("backbone", "layer1_0", "conv1", "kernel"),
    4: ("backbone", "layer1_0", "downsample_conv", "kernel"),
}


def test_poly_schedule() -> None:
    v = ref.load(POLY)
    steps, power = int(v["max_iter"]), float(v["power"])
    rate = poly_schedule(float(v["base_lr_G"]), steps, power)(v["iters"])
    ref.check(POLY, "rates", rate, v["lr_G_1x"])
    ref.check(POLY, "rates", rate, v["advent_lr_poly"])
    ref.check(POLY, "rates", 10 * rate, v["lr_G_10x"])
    ref.check(POLY, "rates", poly_schedule(float(v["base_lr_D"]), steps, power)(v["iters"]), v["lr_D"])


def test_groups_and_listings_are_the_published_ones() -> None:
    v = ref.load(TOY)
    config = ref.parity_config(dilations=(6, 12, 18, 24))
    params = jax.eval_shape(partial(create_state, config, build_networks(config))).params
    groups = segmenter_groups(params, 10.0, "frozen")
    ours = {ref.published_name(path, config): group for path, group in groups.items() if group.multiplier}
    assert ours == {
        str(name): (multiplier, times)
        for multiplier, group in ((1.0, "group_1x"), (10.0, "group_10x"))
        for name, times in zip(v[f"{group}_names"], v[f"{group}_mult"].tolist(), strict=True)
    }


def run(optimizer: optax.GradientTransformation, wrap: object, vectors: ref.Vectors) -> np.ndarray:
    """The toy's parameter after each of its gradients."""
    params = wrap(jnp.asarray(vectors["p0"]))
    state, path = optimizer.init(params), []
    for grad in vectors["grads"]:
        updates, state = optimizer.update(wrap(jnp.asarray(grad)), state, params)
        params = optax.apply_updates(params, updates)
        path.append(jax.tree.leaves(params)[0])
    return np.stack(path)


@pytest.mark.parametrize("listings", LISTED)
@pytest.mark.parametrize("variant", ["dedup", "torch2", "legacy"])
def test_sgd(variant: str, listings: int) -> None:
    v = ref.load(TOY)
    rates = jnp.asarray(v["sgd_lr"])

    def wrap(p: jax.Array) -> dict:
        for name in reversed(LISTED[listings]):
            p = {name: p}
        return p

    groups = segmenter_groups(wrap(jnp.asarray(v["p0"])), 10.0, "frozen")
    optimizer = listed_sgd(lambda step: rates[step], groups, momentum=0.9, weight_decay=5e-4, variant=variant)
    truth = v["sgd_torch2_x1" if variant == "dedup" else f"sgd_{variant}_x{listings}"]
    ref.check(TOY, f"SGD, {variant}", run(optimizer, wrap, v), truth)


def test_adam() -> None:
    v = ref.load(TOY)
    rates = v["adam_lr"]
    config = ref.parity_config()
    o = config.optimizer
    o.discriminator_learning_rate = float(rates[0])
    o.schedule_steps = round(1 / (1 - (rates[1] / rates[0]) ** (1 / o.power)))
    ours = poly_schedule(o.discriminator_learning_rate, o.schedule_steps, o.power)
    np.testing.assert_allclose(ours(jnp.arange(rates.size)), rates, rtol=1e-9)
    params = {"main": jnp.asarray(v["p0"])}
    optimizer = build_optimizers({"head": params}, config).discriminator
    ref.check(TOY, "Adam", run(optimizer, lambda p: {"main": p}, v), v["adam"])
