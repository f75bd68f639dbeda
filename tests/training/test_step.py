import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import random_batch
from uda_jax.models.networks import build_networks
from uda_jax.runs import batch_of
from uda_jax.training.sharding import make_mesh
from uda_jax.training.state import INITIAL, MEMORY, STEPS, TrainState, abstract_state, create_state, run_key
from uda_jax.training.step import build_step, jit_step, steps_key


def make(config: ConfigDict) -> tuple[TrainState, object]:
    networks = build_networks(config)
    state = jax.jit(lambda: create_state(config, networks))()
    return state, jax.jit(build_step(config, networks))


def differs(a: object, b: object) -> list[bool]:
    return [bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]


def test_the_step_compiles_exactly_once(config: ConfigDict) -> None:
    state, step = make(config)
    for seed in range(3):
        state, _ = step(state, random_batch(config, seed))
    assert step._cache_size() == 1
    assert int(state.step) == 3


def test_both_players_move_and_frozen_parameters_do_not(config: ConfigDict) -> None:
    state, step = make(config)
    new, metrics = step(state, random_batch(config))
    assert all(differs(state.params["head"], new.params["head"]))
    assert all(differs(state.discriminator_params, new.discriminator_params))
    assert all(differs(state.batch_stats, new.batch_stats))
    block = new.params["backbone"]["layer1_0"]
    assert not any(differs(state.params["backbone"]["layer1_0"]["bn1"], block["bn1"]))
    assert all(differs(state.params["backbone"]["layer1_0"]["conv1"], block["conv1"]))
    assert {"loss_seg_main", "loss_adv_aux", "loss_d_main_source", "acc_d_aux"} <= metrics.keys()
    np.testing.assert_allclose(
        metrics["loss"],
        metrics["loss_seg_main"]
        + 0.1 * metrics["loss_seg_aux"]
        + 0.001 * metrics["loss_adv_main"]
        + 0.0002 * metrics["loss_adv_aux"],
        rtol=1e-5,
    )


def test_source_only_is_adaptsegnet_without_its_game(config: ConfigDict) -> None:
    """With every adversarial weight at zero and frozen statistics the two methods train the same segmenter."""
    config.model.norm = "frozen"
    config.adaptsegnet.update(lambda_adv_main=0.0, lambda_adv_aux=0.0)
    batch = random_batch(config)
    state, step = make(config)
    adapted, _ = step(state, batch)
    config.method = "source_only"
    state, step = make(config)
    assert state.discriminator_params == {}
    alone, metrics = step(state, {k: v for k, v in batch.items() if k.startswith("source")})
    assert "loss_adv_main" not in metrics
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), adapted.params, alone.params)


def test_the_adversarial_loss_pulls_the_target_towards_source(config: ConfigDict) -> None:
    """A step against the discriminator alone lowers its loss of calling the target "source"."""
    config.adaptsegnet.update(lambda_adv_main=1.0)
    config.optimizer.update(learning_rate=1e-4, weight_decay=0.0)  # larger steps saturate a softmax
    config.model.update(norm="frozen", init="he")
    batch = random_batch(config)
    batch["source_label"] = jnp.full_like(batch["source_label"], 255)  # no supervision
    state, step = make(config)
    new, before = step(state, batch)
    _, after = step(new.replace(discriminator_params=state.discriminator_params), batch)
    assert after["loss_adv_main"] < before["loss_adv_main"]


def test_each_network_runs_forward_once_a_domain(config: ConfigDict) -> None:
    """Counts convolutions of the compiled step: what the two losses write down twice must run once.

    A convolution of the segmenter takes part, a domain, in one forward, one filter-gradient and (but for the first
    layer) one input-gradient convolution. One of the discriminator takes part in two forwards, one a domain, and their
    two filter gradients; its first layer and the input gradients of the others are matrix products on CPU.
    """
    state, step = make(config)
    text = step.lower(state, random_batch(config)).compile().as_text()
    found = len(re.findall(r" convolution\(", text))
    kernels = [x for x in jax.tree.leaves(state.params["backbone"]) if x.ndim == 4 and x.shape[0] > 1]
    levels, layers = 2, 5 - 1
    assert found == 2 * (3 * len(kernels) - 1) + levels * (2 * layers + 2 * layers)


def test_keys_of_steps_are_none_of_those_of_initial_values(config: ConfigDict) -> None:
    """split(k)[i] is fold_in(k, i), so that a run's own key must serve one use alone."""
    keys = {use: run_key(config.seed, use) for use in (INITIAL, MEMORY, STEPS)}
    initial = [tuple(jax.random.key_data(key).tolist()) for key in jax.random.split(keys[INITIAL], 100)]
    steps = [tuple(jax.random.key_data(jax.random.fold_in(keys[STEPS], i)).tolist()) for i in range(100)]
    others = [tuple(jax.random.key_data(key).tolist()) for key in (jax.random.key(config.seed), *keys.values())]
    assert len({*initial, *steps, *others}) == 204


def test_randomness_follows_the_step(config: ConfigDict) -> None:
    """The same state and batch give the same update, bit for bit."""
    state, step = make(config)
    batch = random_batch(config)
    a, _ = step(state, batch)
    b, _ = step(state, batch)
    assert not any(differs(a, b))


def test_one_program_is_that_of_all_seeds(config: ConfigDict) -> None:
    mesh, programs, keys = make_mesh(), [], []
    for config.seed in (0, 1):
        networks = build_networks(config)
        state, keys = abstract_state(config, networks, mesh), [*keys, steps_key(config)]
        lowered = jit_step(config, networks, mesh).lower(state, batch_of(config), {}, keys[-1])
        programs.append(lowered.as_text())
    assert programs[0] == programs[1]
    assert not np.array_equal(*map(jax.random.key_data, keys))


@pytest.mark.slow
def test_remat_changes_nothing_but_memory(config: ConfigDict) -> None:
    batch = random_batch(config)
    losses = []
    for remat in (False, True):
        config.model.remat = remat
        state, step = make(config)
        new, _ = step(state, batch)
        losses.append(step(new, batch)[1]["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize("method", ["adaptsegnet", pytest.param("apoda", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "param_dtype"),
    [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float32"), ("float32", "float64")],
)
def test_a_step_keeps_the_types_of_the_state(config: ConfigDict, method: str, dtype: str, param_dtype: str) -> None:
    """It is compiled once, and a checkpoint is restored into a fresh state's types."""
    config.method = method
    config.model.update(dtype=dtype, param_dtype=param_dtype)
    with jax.enable_x64(True):
        networks = build_networks(config)
        state = jax.eval_shape(lambda: create_state(config, networks))
        new, _ = jax.eval_shape(build_step(config, networks), state, random_batch(config))
    types, kept = ({jax.tree_util.keystr(k): x.dtype for k, x in jax.tree.leaves_with_path(t)} for t in (state, new))
    assert {name: (types[name], kept[name]) for name in types if types[name] != kept[name]} == {}
