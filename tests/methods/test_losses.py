import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uda_jax.methods.losses import SOURCE, TARGET, cross_entropy, domain_accuracy, domain_loss

RNG = np.random.default_rng(0)


def test_cross_entropy_is_the_mean_over_valid_pixels() -> None:
    logits = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
    labels = RNG.integers(0, 5, (2, 3, 4))
    labels[0, 0, :2], labels[1, 2, 3] = 255, -1
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = (labels >= 0) & (labels != 255)
    expected = -np.take_along_axis(log_p, np.where(valid, labels, 0)[..., None], -1)[..., 0][valid].mean()
    np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), jnp.asarray(labels)), expected, rtol=1e-5)


def test_cross_entropy_of_nothing_is_zero_with_zero_gradient() -> None:
    labels = jnp.full((1, 2, 2), 255)
    value, grad = jax.value_and_grad(cross_entropy)(jnp.ones((1, 2, 2, 3)), labels)
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("domain", [SOURCE, TARGET])
def test_domain_losses_by_formula(domain: float) -> None:
    x = RNG.standard_normal((1, 3, 4, 1)).astype(np.float32)
    p = 1 / (1 + np.exp(-x))
    vanilla = -(domain * np.log(p) + (1 - domain) * np.log(1 - p)).mean()
    np.testing.assert_allclose(domain_loss(jnp.asarray(x), domain, "vanilla"), vanilla, rtol=1e-5)
    np.testing.assert_allclose(
        domain_loss(jnp.asarray(x), domain, "least_squares"), ((x - domain) ** 2).mean(), rtol=1e-5
    )


@pytest.mark.parametrize(("gan", "certain"), [("vanilla", 3.0), ("least_squares", 1.0)])
def test_accuracy_of_a_perfect_discriminator_is_one(gan: str, certain: float) -> None:
    source, target = jnp.full((1, 2, 2, 1), 0.1 - certain), jnp.full((1, 2, 2, 1), certain)
    assert domain_accuracy(source, SOURCE, gan) == domain_accuracy(target, TARGET, gan) == 1
    assert domain_accuracy(source, TARGET, gan) == domain_accuracy(target, SOURCE, gan) == 0


def test_losses_of_bfloat16_are_float32() -> None:
    logits = jnp.ones((1, 2, 2, 3), jnp.bfloat16)
    assert cross_entropy(logits, jnp.zeros((1, 2, 2), jnp.int32)).dtype == jnp.float32
    assert domain_loss(logits, SOURCE, "vanilla").dtype == jnp.float32
