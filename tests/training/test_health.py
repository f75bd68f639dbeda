"""uda_jax.training.health: what goes wrong is said in words, once, and what is well is not."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from uda_jax import runs
from uda_jax.methods import METHODS
from uda_jax.methods.health import predicted
from uda_jax.models.networks import build_networks
from uda_jax.training import health
from uda_jax.training.state import create_state, make_constants
from uda_jax.training.step import build_step
from uda_jax.training.writer import Writer

WELL = {
    "step": 500, "loss": 1.0, "grad_norm": 1.0, "entropy_target": 0.2,
    "acc_d_main": 0.7, "acc_d_main_source": 0.75, "acc_d_main_target": 0.65,
    "share_source/road": 0.5, "share_source/car": 0.4, "share_source/bus": 0.1,
    "share_target/road": 0.6, "share_target/car": 0.39, "share_target/bus": 0.01,
}  # fmt: skip
ILL = {
    "one class": ({"share_target/road": 0.97, "share_target/car": 0.02}, "97% of the target's pixels .* as road"),
    "lost classes": ({"share_target/bus": 0.0, "share_target/car": 0.4}, "nowhere on the target: bus"),
    "certain": ({"entropy_target": 0.001}, "certain nearly everywhere"),
    "strong main": ({"acc_d_main": 0.99}, "is right on 99% of the places"),
    "one-sided main": ({"acc_d_main_source": 0.99, "acc_d_main_target": 0.02}, "says source wherever it looks"),
    "steep": ({"grad_norm": 80.0}, "the gradient's norm is 80"),
}


def lines(**last: float) -> list[dict]:
    before = [WELL | {"step": 50 * i} for i in range(1, health.BEFORE + 1)]
    return [*before, WELL | {"step": 2000} | last]


@pytest.mark.parametrize("kind", ILL)
def test_each_kind_of_illness_is_found_alone(kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    change, words = ILL[kind]
    assert health.warnings(lines()) == {}
    assert list(health.warnings(lines(**change))) == [kind]
    assert health.warnings([*lines()[:-1], WELL | change | {"step": health.SETTLED - 1}]) == {}
    with Writer(tmp_path, 0, 3000, "test") as writer:
        for line in (*lines(), *([WELL | change] * 3), WELL, WELL | change):
            writer.judge(2000, line)
    said = [text for text in capsys.readouterr().out.splitlines() if "warning at step 2000" in text]
    assert len(said) == 2, said  # when it begins, each time
    assert re.search(words, said[0])


def test_the_history_of_a_log_and_numbers_that_were_not_finite() -> None:
    log = [*lines(acc_d_main=0.99), WELL | {"step": 2050, "acc_d_main": 0.98}, WELL | {"step": 2100, "grad_norm": None}]
    [(first, last, text)] = health.history(log)
    assert (first, last) == (2000, 2050)
    assert "right on 99%" in text


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_logs_what_is_judged(method: str, config: ConfigDict) -> None:
    config.method = method
    networks = build_networks(config)
    state = jax.eval_shape(partial(create_state, config, networks))
    constants = jax.eval_shape(partial(make_constants, config, networks), state.params, state.batch_stats)
    _, metrics = jax.eval_shape(build_step(config, networks), state, runs.batch_of(config), constants)
    for domain in runs.streams_of(config):
        assert metrics[f"share_{domain}"].shape == (config.model.num_classes,)
        assert metrics[f"entropy_{domain}"].shape == ()
    if METHODS[method].default_config().get("gan"):
        assert {"acc_d_main", "acc_d_main_source", "acc_d_main_target"} <= metrics.keys()


def test_shares_and_entropy_of_predictions() -> None:
    logits = np.full((2, 8, 8, 3), -1e3, np.float32)
    logits[0, ..., 1] = logits[1, ..., 2] = 0.0  # certain of one class an image
    found = predicted(jnp.asarray(logits), "target")
    np.testing.assert_array_equal(found["share_target"], [0.0, 0.5, 0.5])
    assert found["entropy_target"] == 0
    even = predicted(jnp.zeros((1, 8, 8, 3)), "source")
    np.testing.assert_allclose(even["entropy_source"], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(even["share_source"], [1.0, 0.0, 0.0])
