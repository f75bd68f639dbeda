"""The perturbation: its size, its direction, and what it raises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.apoda.conftest import World, key
from uda_jax.config import default_config
from uda_jax.methods import apoda
from uda_jax.methods.attack import direction, perturb


@pytest.mark.parametrize("domain", apoda.DOMAINS)
def test_every_round_raises_the_attacked_loss(world: World, domain: str) -> None:
    """Each loss on its own, which makes K rounds the same as one round K times."""
    cases = [(term, kind) for term in world.terms(domain) for kind in ("sign", "position")]

    @jax.jit
    def advance(points: list[jax.Array]) -> Any:
        losses = [term.loss(f) for (term, _), f in zip(cases, points, strict=True)]
        moves = [perturb(f, [term], 1, kind, key()) for (term, kind), f in zip(cases, points, strict=True)]
        return losses, jax.tree.map(jnp.add, points, moves)

    points, history = [world.features[domain]] * len(cases), []
    for _ in range(5):
        losses, points = advance(points)
        history.append(losses)
    assert (np.diff(history, axis=0) > 0).all()


@pytest.mark.parametrize("target_attack", ["l2", "kl"])
def test_a_divergence_grows_once_something_else_has_moved_the_features(world: World, target_attack: str) -> None:
    world = world.set(target_attack=target_attack, eps_target=0.05)
    apart = world.terms("target")[1].loss
    clean = world.features["target"]
    both, alone = world.attack("target"), world.set(eps_target=0.0).attack("target")
    assert apart(clean) == 0
    assert apart(clean + both) > apart(clean + alone) > 0


@pytest.mark.parametrize("target_attack", ["l2", "kl"])
def test_a_divergence_alone_never_starts(world: World, target_attack: str) -> None:
    """Its gradient is zero at the clean point: inert with K = 1, and with any K when nothing else moves."""
    world = world.set(target_attack=target_attack, attack_steps=1)
    game_alone = world.set(eps_target=0.0).attack("target")
    np.testing.assert_array_equal(world.attack("target"), game_alone)
    assert not world.set(eps_discriminator=0.0, attack_steps=3).attack("target").any()
    pseudo_label = world.set(target_attack="pseudo_label").attack("target")
    assert (pseudo_label != game_alone).all()


def test_rounding_errors_do_not_start_a_divergence() -> None:
    """In float32, where two ways of computing the same prediction differ in the last digit."""
    clean = jnp.ones((1, 2, 2, 3), jnp.float32)
    config = default_config()
    config.apoda.update(target_attack="l2", eps_discriminator=0.0)

    class Sloppy:
        calls = 0

        def classify(self, params: Any, features: jax.Array, size: Any) -> jax.Array:
            self.calls += 1
            return features * (1 + 1e-6 * self.calls)

    terms = apoda.attacked_losses("target", clean, None, (4, 4), None, None, config, Sloppy())
    assert not perturb(clean, terms, 2, "sign", key()).any()


@pytest.mark.slow
def test_in_sequence_the_second_attack_starts_where_the_first_ends(world: World) -> None:
    world = world.set(eps_source=0.05, attack_steps=2)
    f, (game, own) = world.features["source"], world.terms("source")
    first = perturb(f, [game], 2, "sign", key())
    then = perturb(f + first, [own], 2, "sign", key())
    np.testing.assert_allclose(perturb(f, [game, own], 2, "sign", key(), "sequential"), first + then, atol=1e-12)
    assert (perturb(f, [game, own], 2, "sign", key()) != first + then).any()
    _, together = world.loss(world.head, world.features)
    _, after = world.set(attack_order="sequential").loss(world.head, world.features)
    assert after["rms_source"] != together["rms_source"]


def test_a_sign_step_is_epsilon_in_every_element(world: World) -> None:
    one = world.set(attack_steps=1, eps_source=0.0).attack("source")
    np.testing.assert_allclose(abs(one), 0.01, rtol=1e-12)
    two = abs(world.set(attack_steps=1).attack("source"))
    assert (np.isclose(two, 0.012, rtol=1e-12) | np.isclose(two, 0.008, rtol=1e-12)).all()
    assert abs(world.attack("source")).max() <= 3 * 0.012 + 1e-12


def test_a_position_step_is_epsilon_in_l2_at_every_position(world: World) -> None:
    moved = world.set(attack="position", attack_steps=1, eps_source=0.0).attack("source")
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), 0.01, rtol=1e-12)
    assert np.unique(abs(moved).round(12)).size > 100  # along the gradient, not along signs


def test_the_controls_have_the_size_of_the_attack(world: World) -> None:
    """Noise moves every element by as much, the whole-map attack by as much in the mean but not everywhere."""
    world = world.set(eps_source=0.0)
    attack, noise, whole = (world.set(attack=kind).attack("source") for kind in ("sign", "noise", "map"))
    np.testing.assert_allclose(abs(noise), 0.03, rtol=1e-12)
    assert 0.4 < (np.sign(noise) == np.sign(attack)).mean() < 0.6
    once = world.set(attack="map", attack_steps=1).attack("source")
    np.testing.assert_allclose(np.sqrt((once**2).mean((1, 2, 3))), 0.01, rtol=1e-12)
    sizes = np.linalg.norm(whole, axis=-1)
    assert sizes.max() > 3 * sizes.min()


def test_directions_of_nothing_and_of_next_to_nothing() -> None:
    gradient = np.zeros((1, 2, 1, 3), np.float32)
    gradient[0, 1] = 1e-30  # its square is zero in float32
    for kind, size in (("sign", 1), ("position", 3**-0.5), ("map", 2**0.5)):
        there = direction(jnp.asarray(gradient), kind, key())
        np.testing.assert_allclose(there[0, :, 0], [[0] * 3, [size] * 3], rtol=1e-6)


def test_the_attack_follows_the_gradient_that_finite_differences_find(world: World) -> None:
    for domain in apoda.DOMAINS:
        for term in world.terms(domain):
            f = world.features[domain]
            loss = jax.jit(jax.value_and_grad(term.loss))
            for place in ((0, 0, 0, 0), (1, 2, 4, 3), (0, 4, 8, 5)):
                h = jnp.zeros_like(f).at[place].set(1e-5)
                by_differences = (loss(f + h)[0] - loss(f - h)[0]) / 2e-5
                np.testing.assert_allclose(loss(f)[1][place], by_differences, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("domain", "way"), [("source", 1), ("target", -1)])
def test_features_move_towards_the_other_domain(world: World, domain: str, way: int) -> None:
    """A positive domain logit says "target"."""
    clean, moved = world.features[domain], world.set(eps_source=0.0, eps_target=0.0).attack(domain)

    def score(f: jax.Array) -> jax.Array:
        return world.networks.discriminate(world.discriminator["main"], jax.nn.softmax(world.logits(f))).mean()

    assert way * (score(clean + moved) - score(clean)) > 1e-3


def test_relative_epsilon_is_in_units_of_each_image(world: World) -> None:
    world = world.set(relative_eps=True, eps_source=0.0, attack_steps=1)
    scale = jnp.asarray([1.0, 10.0])[:, None, None, None]
    features = {"source": world.features["source"] * scale}
    moved = world._replace(features=features).attack("source")
    rms = np.sqrt((features["source"] ** 2).mean((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(abs(moved), np.broadcast_to(0.01 * rms, moved.shape), rtol=1e-12)
