"""Every loss with its gradient, and the upsampling with its transpose."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import reference as ref
from uda_jax.methods.losses import (
    SOURCE,
    TARGET,
    cross_entropy,
    domain_loss,
    entropy_loss,
    weighted_self_information,
)
from uda_jax.models.layers import resize_bilinear

FILE = "05_losses"


def tensor(name: str) -> jax.Array:
    """A stored input [B, C, H, W] in our layout, in float64."""
    return jnp.asarray(ref.nhwc(ref.load(FILE)[name]), jnp.float64)


def check_with_gradient(name: str, loss: Callable[[jax.Array], jax.Array], x: jax.Array) -> None:
    """Value and gradient of a loss against the arrays `name` and `name.grad`."""
    vectors = ref.load(FILE)
    value, grad = jax.value_and_grad(loss)(x)
    ref.check(FILE, name, value, ref.truth(vectors, name))
    ref.check(FILE, f"{name}: gradient", ref.nchw(grad), ref.truth(vectors, f"{name}.grad"))


@pytest.mark.parametrize("name", ["ce_official", "ce_torch04_script", "ce_advent"])
def test_cross_entropy(name: str) -> None:
    labels = ref.load(FILE)["labels"]
    check_with_gradient(name, lambda x: cross_entropy(x, labels), tensor("logits"))


def test_weighted_cross_entropy() -> None:
    labels, weight = ref.load(FILE)["labels"], jnp.asarray(ref.load(FILE)["class_weight"], jnp.float64)
    check_with_gradient("ce_official_weighted", lambda x: cross_entropy(x, labels, weight), tensor("logits"))


def test_cross_entropy_of_nothing_is_zero_and_not_nan() -> None:
    """The one place where we differ on purpose."""
    assert np.isnan(ref.truth(ref.load(FILE), "ce_all_ignored"))
    logits = tensor("logits")
    assert cross_entropy(logits, jnp.full(logits.shape[:3], 255)) == 0
    assert cross_entropy(logits, jnp.full(logits.shape[:3], 255), jnp.ones(logits.shape[3])) == 0


def test_softmax_and_self_information() -> None:
    vectors, logits = ref.load(FILE), tensor("logits")
    ref.check(FILE, "softmax", ref.nchw(jax.nn.softmax(logits)), ref.truth(vectors, "softmax"))
    maps, pull = jax.vjp(lambda x: weighted_self_information(jax.nn.softmax(x)), logits)
    ref.check(FILE, "prob_2_entropy", ref.nchw(maps), ref.truth(vectors, "prob_2_entropy"))
    (back,) = pull(tensor("prob_2_entropy.cotangent"))
    ref.check(FILE, "prob_2_entropy: vjp", ref.nchw(back), ref.truth(vectors, "prob_2_entropy.vjp"))


def test_entropy_loss() -> None:
    check_with_gradient("entropy_loss_of_softmax", lambda x: entropy_loss(jax.nn.softmax(x)), tensor("logits"))


@pytest.mark.parametrize(("kind", "gan"), [("bce", "vanilla"), ("mse", "least_squares")])
@pytest.mark.parametrize("domain", [SOURCE, TARGET])
def test_domain_loss(kind: str, gan: str, domain: float) -> None:
    check_with_gradient(f"{kind}_label{domain:.0f}", lambda x: domain_loss(x, domain, gan), tensor("d_out"))


def test_upsampling() -> None:
    vectors, x = ref.load(FILE), tensor("up_in")
    for h, w in vectors["up_sizes"].tolist():
        y, pull = jax.vjp(lambda x, size=(h, w): resize_bilinear(x, size), x)
        ref.check(FILE, "up_*_align", ref.nchw(y), ref.truth(vectors, f"up_{h}x{w}_align"))
        (back,) = pull(tensor(f"up_{h}x{w}.cotangent"))
        ref.check(FILE, "up_*_align: vjp", ref.nchw(back), ref.truth(vectors, f"up_{h}x{w}_align.vjp"))
