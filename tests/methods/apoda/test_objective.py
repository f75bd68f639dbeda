"""What is minimised once the features are perturbed, and what is reported of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import SIZE
from tests.methods.apoda.conftest import CHANNELS, World, build_world, key
from uda_jax.methods import apoda
from uda_jax.methods.game import adversarial_loss
from uda_jax.methods.losses import cross_entropy, divergence, entropy_loss
from uda_jax.methods.supervised import supervised_loss
from uda_jax.models.segmenter import Outputs


def game_of(world: World, outputs: dict[str, Outputs]) -> Any:
    """(loss, metrics) of the discriminator."""
    method = apoda.build(world.config, world.networks)
    return method.discriminator_loss(world.discriminator, world.context(), outputs)


def test_without_steps_the_objective_is_cross_entropy_and_entropy(world: World) -> None:
    still = {"eps_discriminator": 0.0, "eps_source": 0.0, "eps_target": 0.0}
    weights = {"lambda_perturbed_source": 0.7, "lambda_consistency": 3.0, "lambda_ent_main": 0.1}
    ce = cross_entropy(world.logits(world.features["source"]), world.label)
    entropy = entropy_loss(jax.nn.softmax(world.logits(world.features["target"])))
    for off in (still, {"attack_steps": 0}):
        inert = world.set(**off, **weights, adversarial_after_warmup=False)
        loss, metrics = jax.jit(inert.loss)(world.head, world.features)
        np.testing.assert_allclose(loss, 1.7 * ce + 0.1 * entropy, rtol=1e-14)
        assert metrics["rms_source"] == metrics["flip_target"] == metrics["loss_consistency"] == 0


def invariance(world: World, moved: dict[str, jax.Array]) -> Any:
    """(head, features) -> the perturbed losses for a given perturbation."""

    def loss(head: Any, features: dict[str, jax.Array]) -> jax.Array:
        sizes = dict.fromkeys(apoda.DOMAINS, SIZE)
        return apoda.invariance_loss(head, features, moved, world.label, sizes, world.config, world.networks)[0]

    return loss


@pytest.mark.parametrize("who", ["classifier", "classifier+backbone"])
def test_whom_the_perturbed_losses_train(world: World, who: str) -> None:
    """The backbone's gradient is what comes through the features."""
    moved = jax.tree.map(lambda x: 0.1 * x, random_like(world.features))
    for weights in ({"lambda_consistency": 0.0}, {"lambda_perturbed_source": 0.0}):
        loss = invariance(world.set(perturbed_losses_train=who, **weights), moved)
        head, features = jax.jit(jax.grad(loss, (0, 1)))(world.head, world.features)
        assert (abs(head["head"]["kernel_0"]) > 1e-9).all()
        domain = "source" if "lambda_consistency" in weights else "target"
        if who == "classifier":
            assert not any(gradient.any() for gradient in features.values())
        else:
            assert (features[domain] != 0).all()


def slope(loss: Any, point: Any, way: Any) -> Any:
    """The derivative of `loss` at `point` along `way`, by central differences."""
    there, back = (jax.tree.map(lambda x, w, h=h: x + h * w, point, way) for h in (1e-7, -1e-7))
    return (loss(there) - loss(back)) / 2e-7


def random_like(tree: Any) -> Any:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), tree)


def dot(a: Any, b: Any) -> Any:
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: (x * y).sum(), a, b)))


def test_gradients_agree_with_finite_differences(world: World) -> None:
    """For head and features at once, with the whole attack in between: its signs are constant around a point."""
    world = world.set(perturbed_losses_train="classifier+backbone", lambda_consistency=0.0)
    world = world.set(lambda_adv_main=1.0)
    loss = jax.jit(jax.value_and_grad(lambda point: world.loss(*point)[0]))
    point = (world.head, world.features)
    way = random_like(point)
    np.testing.assert_allclose(slope(lambda x: loss(x)[0], point, way), dot(loss(point)[1], way), rtol=1e-6)


@pytest.mark.parametrize("kind", ["l2", "kl"])
def test_the_consistency_has_a_fixed_reference(world: World, kind: str) -> None:
    """Its value, and its gradient by finite differences of a formula in which the clean prediction stays."""
    moved = jax.tree.map(lambda x: 0.1 * x, random_like(world.features))
    reference = world.logits(world.features["target"])
    world = world.set(perturbed_losses_train="classifier+backbone", consistency=kind, lambda_perturbed_source=0.0)

    def consistency(point: Any) -> jax.Array:
        return divergence(world._replace(head=point[0]).logits(point[1]["target"] + moved["target"]), reference, kind)

    point = (world.head, world.features)
    value, gradient = jax.jit(jax.value_and_grad(invariance(world, moved), (0, 1)))(*point)
    np.testing.assert_allclose(value, consistency(point), rtol=1e-9)
    way = random_like(point)
    np.testing.assert_allclose(dot(gradient, way), slope(jax.jit(consistency), point, way), rtol=1e-5)


def test_the_adversarial_loss_after_the_warm_up(world: World) -> None:
    world = world.set(attack_steps=0, lambda_adv_main=0.5)
    off, metrics = jax.jit(world.set(adversarial_after_warmup=False).loss)(world.head, world.features)
    on, more = jax.jit(world.loss)(world.head, world.features)
    assert "loss_adv_main" not in metrics
    np.testing.assert_allclose(on - off, 0.5 * more["loss_adv_main"], rtol=1e-10)
    maps = jax.nn.softmax(world.logits(world.features["target"]))
    domain_logits = world.networks.discriminate(world.discriminator["main"], maps)
    np.testing.assert_allclose(more["loss_adv_main"], np.log1p(np.exp(domain_logits)).mean(), rtol=1e-10)


@pytest.mark.parametrize("kept", [True, False])
def test_the_warm_up_is_adaptsegnet_and_ends_on_time(world: World, kept: bool) -> None:
    world = world.set(warmup_steps=2, eps_discriminator=0.0, adversarial_after_warmup=kept)
    loss = jax.jit(world.loss)
    warm, after = loss(world.head, world.features, 1), loss(world.head, world.features, 2)
    assert loss._cache_size() == 1
    outputs = {d: world.networks.outputs(world.head, f, SIZE) for d, f in world.features.items()}
    c = world.config.adaptsegnet
    supervised, _ = supervised_loss(outputs["source"], world.label, 0.0)
    adversarial, metrics = adversarial_loss(world.discriminator, outputs["target"], jax.nn.softmax, c, world.networks)
    theirs = supervised + adversarial
    np.testing.assert_allclose(warm[0], theirs, rtol=1e-12)
    np.testing.assert_allclose(warm[1]["loss_adv_main"], metrics["loss_adv_main"], rtol=1e-12)
    assert warm[1]["rms_source"] == warm[1]["loss_perturbed_source"] == 0
    assert (after[1]["loss_adv_main"] != 0) == kept
    never, _ = jax.jit(world.set(warmup_steps=0).loss)(world.head, world.features)
    np.testing.assert_allclose(after[0], never, rtol=1e-12)


def test_the_discriminator_of_features(world: World) -> None:
    """It judges the features themselves, in its own loss and in the attack, which then leaves the head out."""
    world = world.set(discriminator_input="feature", eps_source=0.0)
    params = world.networks.discriminator.init(key(), world.features["source"])["params"]
    world = world._replace(discriminator={"main": params})
    outputs = {d: Outputs({}, f, SIZE, True) for d, f in world.features.items()}
    _, metrics = game_of(world, outputs)
    says = world.networks.discriminate(params, world.features["target"])
    np.testing.assert_allclose(metrics["loss_d_main_target"], np.log1p(np.exp(-says)).mean(), rtol=1e-10)
    world = world.set(attack_steps=1)
    moved = world.attack("source")
    other_head = jax.tree.map(jnp.zeros_like, world.head)
    np.testing.assert_array_equal(world._replace(head=other_head).attack("source"), moved)
    np.testing.assert_allclose(abs(moved[:, :4, :8]), 0.01, rtol=1e-9)  # its last layer does not reach the rest


def test_the_game_in_least_squares(world: World) -> None:
    """A discriminator that outputs z has the loss z^2 on the source."""
    f = world.features["source"]
    z = world.networks.discriminate(world.discriminator["main"], jax.nn.softmax(world.logits(f)))
    np.testing.assert_allclose(world.set(gan="least_squares").terms("source")[0].loss(f), (z**2).mean(), rtol=1e-12)
    np.testing.assert_allclose(world.terms("source")[0].loss(f), np.log1p(np.exp(z)).mean(), rtol=1e-10)


def test_divergences_by_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 3, 4, 5))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(divergence(b, a, "l2"), ((p - q) ** 2).sum(-1).mean(), rtol=1e-12)
    np.testing.assert_allclose(divergence(b, a, "kl"), (p * np.log(p / q)).sum(-1).mean(), rtol=1e-12)
    assert divergence(a, a, "kl") == divergence(a, a, "l2") == 0


# What it reports ------------------------------------------------------------------------------------------------------


def test_diagnostics_by_hand(world: World) -> None:
    clean, moved = world.features["source"], 10 * world.attack("source")
    metrics = apoda.diagnostics("source", clean, moved, world.head, world.networks)
    before, after = (world.networks.classify(world.head, f).argmax(-1) for f in (clean, clean + moved))
    assert 0 < (before != after).mean() < 1
    np.testing.assert_allclose(metrics["flip_source"], (before != after).mean())
    np.testing.assert_allclose(metrics["rms_source"], np.sqrt((moved**2).mean() / (clean**2).mean()))
    names = ("road", "sidewalk", "building", "wall", "fence")
    for i, name in enumerate(names):
        np.testing.assert_allclose(metrics[f"predicted_source/{name}"], (before == i).mean())
        np.testing.assert_allclose(metrics[f"flipped_source/{name}"], ((before == i) & (after != i)).mean())
    np.testing.assert_allclose(sum(metrics[f"flipped_source/{name}"] for name in names), metrics["flip_source"])


def test_the_attack_fools_the_discriminator(world: World) -> None:
    """With steps large enough its accuracy falls, to nothing if need be; clean and perturbed are told apart by name."""
    outputs = {d: world.networks.outputs(world.head, f, SIZE) for d, f in world.features.items()}
    _, clean = game_of(world, outputs)
    weak, strong = (
        jax.jit(world.set(eps_discriminator=eps, eps_source=0.0, eps_target=0.0).loss)(world.head, world.features)[1]
        for eps in (0.0, 1.0)
    )
    np.testing.assert_allclose(weak["acc_d_main_perturbed"], clean["acc_d_main"])
    assert strong["acc_d_main_perturbed"] < clean["acc_d_main"]


def test_bfloat16_features_are_attacked_in_float32() -> None:
    """A step far below bfloat16's resolution reaches the logits, and every loss is float32."""
    with jax.enable_x64(False):
        world = build_world("bfloat16", "float32")
        exact, features = apoda.exact_networks(world.config), jnp.ones((1, 5, 9, CHANNELS))
        for networks, sees in ((world.networks, False), (exact, True)):
            clean, moved = (networks.classify(world.head, features + d) for d in (0.0, 1e-4))
            assert (clean != moved).all() == (clean != moved).any() == sees
        _, metrics = jax.jit(world.loss)(world.head, world.features)
        assert {x.dtype for x in jax.tree.leaves(metrics)} == {jnp.dtype("float32")}
        expected = 3 * 0.01 / np.sqrt((world.features["source"].astype(jnp.float32) ** 2).mean())
        assert 0.5 * expected < metrics["rms_source"] < 1.3 * expected
