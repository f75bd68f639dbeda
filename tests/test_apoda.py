"""APODA: most tests look at features, head and discriminator alone, in float64; the last ones at whole steps."""

import importlib
import re
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import SIZE, random_batch
from tests.test_sharding import eight_against_one
from uda_jax.config import default_config
from uda_jax.errors import UserError
from uda_jax.losses import cross_entropy, divergence, entropy_loss
from uda_jax.methods import adaptsegnet, apoda
from uda_jax.methods.attack import Term, direction, perturb
from uda_jax.models.deeplab_v2 import Outputs
from uda_jax.models.layers import resize_align_corners
from uda_jax.networks import Networks, build_networks
from uda_jax.state import create_state
from uda_jax.step import build_step

CHANNELS, CLASSES = 6, 5


@pytest.fixture(autouse=True)
def float64(request: pytest.FixtureRequest) -> Iterator[None]:
    with jax.enable_x64("config" not in request.fixturenames):
        yield


def key() -> jax.Array:
    return jax.random.key(3)


class World(NamedTuple):
    """Random features of two images a domain, a head and a discriminator that have opinions on them."""

    config: ConfigDict
    networks: Networks
    head: Any
    discriminator: Any
    features: dict[str, jax.Array]
    label: jax.Array

    def set(self, **changes: Any) -> "World":
        config = self.config.copy_and_resolve_references()
        config.apoda.update(**changes)
        return self._replace(config=config)

    def logits(self, features: jax.Array) -> jax.Array:
        return resize_align_corners(self.networks.classify(self.head, features), SIZE)

    def terms(self, domain: str) -> list[Term]:
        """[the discriminator's loss, the classifier's] of a domain."""
        return apoda.attacked_losses(
            domain, self.features[domain], self.label, SIZE, self.head, self.discriminator, self.config, self.networks
        )

    def attack(self, domain: str) -> jax.Array:
        c = self.config.apoda

        @jax.jit
        def run() -> jax.Array:
            return perturb(self.features[domain], self.terms(domain), c.attack_steps, c.attack, key())

        return run()

    def loss(self, head: Any, features: dict[str, jax.Array], step: int = 0) -> Any:
        """The segmenter's (loss, metrics) as training computes them from these features."""
        outputs = {
            d: Outputs(resize_align_corners(self.networks.classify(head, f), SIZE), None, f)
            for d, f in features.items()
        }
        batch = {"source_label": self.label}
        return apoda.segmenter_loss(
            head, self.discriminator, outputs, batch, jnp.asarray(step), key(), self.config, self.networks
        )


@cache
def build_world(dtype: str, param_dtype: str) -> World:
    config = default_config()
    config.method = "apoda"
    config.model.update(num_classes=CLASSES, dtype=dtype, param_dtype=param_dtype, dilations=(2,), two_levels=False)
    config.discriminator.update(width=4, layers=2)
    networks = build_networks(config)
    rng = np.random.default_rng(0)
    head = {"kernel_0": jnp.asarray(0.3 * rng.standard_normal((3, 3, CHANNELS, CLASSES)))}
    head["bias_0"] = jnp.asarray(0.1 * rng.standard_normal(CLASSES))
    label = rng.integers(0, CLASSES, (2, *SIZE))
    label[rng.random(label.shape) < 0.1] = 255
    discriminator = networks.discriminator.init(key(), jnp.zeros((1, *SIZE, CLASSES)))["params"]
    discriminator = jax.tree.map(lambda x: 5 * x, discriminator)
    features = {d: jnp.asarray(np.maximum(rng.standard_normal((2, 5, 9, CHANNELS)), 0), dtype) for d in apoda.DOMAINS}
    return World(config, networks, {"head": head}, {"main": discriminator}, features, jnp.asarray(label))


@pytest.fixture
def world() -> World:
    return build_world("float64", "float64")


# The attack -----------------------------------------------------------------------------------------------------------


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

        def classify(self, params: Any, features: jax.Array) -> jax.Array:
            self.calls += 1
            return features * (1 + 1e-6 * self.calls)

    terms = apoda.attacked_losses("target", clean, None, (4, 4), None, None, config, Sloppy())
    assert not perturb(clean, terms, 2, "sign", key()).any()


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


# The objective --------------------------------------------------------------------------------------------------------


def test_without_steps_the_objective_is_cross_entropy_and_entropy(world: World) -> None:
    still = {"eps_discriminator": 0.0, "eps_source": 0.0, "eps_target": 0.0}
    weights = {"lambda_perturbed_source": 0.7, "lambda_consistency": 3.0, "lambda_ent_main": 0.1}
    ce = cross_entropy(world.logits(world.features["source"]), world.label)
    entropy = entropy_loss(jax.nn.softmax(world.logits(world.features["target"])))
    for off in (still, {"attack_steps": 0}):
        world = world.set(**off, **weights, adversarial_after_warmup=False)
        loss, metrics = jax.jit(world.loss)(world.head, world.features)
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
    outputs = {d: Outputs(world.logits(f), None, f) for d, f in world.features.items()}
    theirs, metrics = adaptsegnet.segmenter_loss(
        None, world.discriminator, outputs, {"source_label": world.label}, None, None, world.config, world.networks
    )
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
    outputs = {d: Outputs(None, None, f) for d, f in world.features.items()}
    _, metrics = apoda.discriminator_loss(world.discriminator, outputs, world.config, world.networks)
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
    outputs = {d: Outputs(world.logits(f), None, f) for d, f in world.features.items()}
    _, clean = apoda.discriminator_loss(world.discriminator, outputs, world.config, world.networks)
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
        exact, features = world.networks.full_precision(), jnp.ones((1, 5, 9, CHANNELS))
        for networks, sees in ((world.networks, False), (exact, True)):
            clean, moved = (networks.classify(world.head, features + d) for d in (0.0, 1e-4))
            assert (clean != moved).all() == (clean != moved).any() == sees
        _, metrics = jax.jit(world.loss)(world.head, world.features)
        assert {x.dtype for x in jax.tree.leaves(metrics)} == {jnp.dtype("float32")}
        expected = 3 * 0.01 / np.sqrt((world.features["source"].astype(jnp.float32) ** 2).mean())
        assert 0.5 * expected < metrics["rms_source"] < 1.3 * expected


# Whole steps ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(config: ConfigDict) -> ConfigDict:
    """VGG at a sixteenth of its width: no batch norm, and quick to compile."""
    config.method = "apoda"
    config.model.update(backbone="vgg16", two_levels=False, init="he")
    return config


def test_a_step_compiles_once_and_runs_one_backbone_a_domain(tiny: ConfigDict) -> None:
    """Both phases are one program. Counts its convolutions, as tests/test_step.py does without an attack.

    A round of the attack runs the discriminator once a domain, and no backbone; the loop's body is in the program once.
    The discriminator's input gradients are matrix products on CPU.
    """
    tiny.apoda.warmup_steps = 1
    tiny.discriminator.layers = 3
    networks = build_networks(tiny)
    state = jax.jit(partial(create_state, tiny, networks))()
    step = jax.jit(build_step(tiny, networks))
    text = step.lower(state, random_batch(tiny)).compile().as_text()
    backbone, layers = 15, tiny.discriminator.layers
    game = 2 * layers + 2 * layers  # forward (the adversarial loss's is the target's), and gradients of kernels
    attack = 2 * layers
    judged = 2 * layers  # the perturbed maps, for the metrics
    assert len(re.findall(r" convolution\(", text)) == 2 * (3 * backbone - 1) + game + attack + judged
    for attacked in (False, True):
        state, metrics = step(state, random_batch(tiny))
        assert (metrics["rms_source"] > 0) == (metrics["rms_target"] > 0) == attacked
    assert step._cache_size() == 1


@pytest.mark.slow
def test_eight_devices_give_the_result_of_one() -> None:
    settings = "config.method = 'apoda'; config.model.backbone = 'vgg16'; config.apoda.update(warmup_steps=1, "
    settings += "relative_eps=True)"
    assert eight_against_one(settings, steps=3, check="assert metrics['rms_target'] > 0") < 1e-10


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
