"""Terms in turn: the same loss and gradient, and the memory of the largest term instead of all."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import random_batch
from uda_jax.methods import game
from uda_jax.methods.terms import Term, after, in_turn
from uda_jax.models.networks import build_networks
from uda_jax.training.state import create_state
from uda_jax.training.step import build_step


def features(params: jax.Array, images: jax.Array) -> jax.Array:
    for kernel in params:
        images = jnp.sin(images @ kernel)
    return images


@pytest.fixture
def given() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(3, 4, 4))), jnp.asarray(rng.normal(size=(5, 4)))


@pytest.mark.parametrize("weight", [1, 3])
def test_loss_gradient_and_integers_are_those_of_the_sum(weight: int, given: tuple[jax.Array, jax.Array]) -> None:
    params, images = given

    def first(params: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = features(params, images)
        return (found**2).mean(), {"shift": found.mean(0), "largest": found.argmax(-1)}

    def two_terms(params: jax.Array, of_first: Term) -> tuple[jax.Array, jax.Array]:
        loss, aux = of_first(params)
        second = jnp.abs(features(params, after(loss, images) + aux["shift"])).mean()
        return weight * loss + second, aux["largest"]

    def without_gradient(params: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, aux = first(params)
        return loss, jax.lax.stop_gradient(aux)

    together = jax.value_and_grad(partial(two_terms, of_first=without_gradient), has_aux=True)(params)
    turn = jax.value_and_grad(partial(two_terms, of_first=in_turn(first)), has_aux=True)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), turn, together)


def test_aux_carries_no_gradient(given: tuple[jax.Array, jax.Array]) -> None:
    params, images = given
    term = in_turn(lambda params: (jnp.zeros(()), features(params, images)))
    assert not jax.grad(lambda params: term(params)[1].sum())(params).any()


def test_of_two_terms_the_activations_of_one_are_kept_at_a_time() -> None:
    params, images = jnp.zeros((4, 8, 8)), jnp.zeros((2, 4096, 8))

    def mean(params: jax.Array, images: jax.Array) -> tuple[jax.Array, None]:
        return features(params, images).mean(), None

    def temporaries(in_turn: Callable[[Term], Term], after: Callable[[jax.Array, jax.Array], jax.Array]) -> int:
        def loss(params: jax.Array, images: jax.Array) -> jax.Array:
            first, _ = in_turn(partial(mean, images=images[0]))(params)
            return first + mean(params, after(first, images[1]))[0]

        return jax.jit(jax.grad(loss)).lower(params, images).compile().memory_analysis().temp_size_in_bytes

    turn, together = temporaries(in_turn, after), temporaries(lambda term: term, lambda number, x: x)
    assert turn < 0.8 * together, (turn, together)


@pytest.mark.slow
def test_of_a_step_one_domains_activations_are_kept_at_a_time(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, batch = build_networks(config), random_batch(config)
    state = jax.eval_shape(lambda: create_state(config, networks))

    def compiled() -> tuple[int, int]:
        """(bytes of temporaries, lines of the program)"""
        found = jax.jit(build_step(config, networks), donate_argnums=0).lower(state, batch).compile()
        return found.memory_analysis().temp_size_in_bytes, found.as_text().count("\n")

    turn, lines = compiled()
    monkeypatch.setattr(game, "in_turn", lambda term: term)
    monkeypatch.setattr(game, "after", lambda number, x: x)
    together, lines_together = compiled()
    assert turn < 0.8 * together, (turn, together)
    assert lines < 1.2 * lines_together, (lines, lines_together)  # what is waited for is not fused into all that waits


def test_after_changes_nothing() -> None:
    for x in (jnp.arange(256, dtype=jnp.uint8), jnp.asarray([-1.5, 0.0, 3e38]), jnp.arange(-3, 3)):
        np.testing.assert_array_equal(after(jnp.asarray(-2.5), x), x)
        assert after(jnp.asarray(-2.5), x).dtype == x.dtype
