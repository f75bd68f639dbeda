"""Depthwise convolution: its two forms agree, forward and backward, wherever padding, stride and dilation fall."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from uda_jax.models import depthwise
from uda_jax.models.depthwise import depthwise_convolution, same_padding

FIRST = [(7, 12, 3, 2, 1), (15, 20, 5, 1, 2)]
CASES = [
    *FIRST,
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [(8, 9, 3, 1, 1), (12, 7, 5, 2, 1), (6, 5, 3, 1, 6), (5, 8, 5, 2, 1)]
    ),
]


def problem(height: int, width: int, kernel: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x, k = rng.standard_normal((2, height, width, 6)), rng.standard_normal((kernel, kernel, 6))
    return jnp.asarray(x, dtype), jnp.asarray(k, dtype)


@pytest.mark.parametrize(("height", "width", "kernel", "stride", "dilation"), CASES)
def test_shifted_form_is_the_compilers(height: int, width: int, kernel: int, stride: int, dilation: int) -> None:
    with jax.enable_x64(True):
        x, k = problem(height, width, kernel, "float64")
        ours, our_pull = jax.vjp(lambda x, k: depthwise_convolution(x, k, stride, dilation), x, k)
        plain, plain_pull = jax.vjp(lambda x, k: depthwise._plain(x, k, stride, dilation, None), x, k)
        g = jnp.asarray(np.random.default_rng(1).standard_normal(plain.shape))
        for a, b in zip((ours, *our_pull(g)), (plain, *plain_pull(g)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("height", "width", "kernel", "stride", "dilation"), CASES)
def test_is_tensorflows(height: int, width: int, kernel: int, stride: int, dilation: int) -> None:
    x, k = problem(height, width, kernel, "float32")
    ours = depthwise_convolution(x, k, stride, dilation)
    strides = (1, stride, stride, 1)
    theirs = tf.nn.depthwise_conv2d(np.asarray(x), np.asarray(k)[..., None], strides, "SAME", dilations=(dilation,) * 2)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_summed_in_float32() -> None:
    """Rounded once: the error of a sum of 25 products stays that of one."""
    x, k = problem(15, 20, 5, "bfloat16")
    f = partial(depthwise_convolution, stride=1, dilation=1)
    ours, pull = jax.vjp(f, x, k)
    full, full_pull = jax.vjp(f, x.astype(jnp.float32), k.astype(jnp.float32))
    g = jnp.asarray(np.random.default_rng(1).standard_normal(full.shape), jnp.bfloat16)
    for a, b in zip((ours, *pull(g)), (full, *full_pull(g.astype(jnp.float32))), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8, atol=1e-6)


def test_compiled_step_has_no_grouped_convolution_on_cpu() -> None:
    """For those XLA:CPU has naive code alone, forward and backward."""
    x, k = problem(16, 16, 3, "float32")
    text = jax.jit(jax.grad(lambda x, k: depthwise_convolution(x, k).sum(), (0, 1))).lower(x, k).compile().as_text()
    plain = jax.jit(jax.grad(lambda x, k: depthwise._plain(x, k, 1, 1, None).sum(), (0, 1))).lower(x, k).compile()
    assert "feature_group_count" in plain.as_text()
    assert "feature_group_count" not in text and "convolution(" not in text


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2)])
def test_same_padding_is_xlas(size: int, kernel: int, stride: int, dilation: int) -> None:
    reach = (kernel - 1) * dilation + 1
    (expected,) = jax.lax.padtype_to_pads((size,), (reach,), (stride,), "SAME")
    assert same_padding(size, kernel, stride, dilation) == tuple(expected)
