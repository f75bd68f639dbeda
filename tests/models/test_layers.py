from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import AS_FOR_USERS
from uda_jax.models.batch_norm import BatchNorm, normalised
from uda_jax.models.convolution import cell_convolution, convolution, pointwise, same_convolution
from uda_jax.models.deeplab_v2 import ASPP
from uda_jax.models.image_convolution import image_convolution, taps_of
from uda_jax.models.layers import (
    Conv,
    interpolation_matrix,
    max_pool,
    max_pool_ceil,
    resize_bilinear,
)

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# sizes: 64x96 -> stem 32x48 -> 17x25 in the published network
@pytest.mark.parametrize(("size", "pooled"), [(32, 17), (48, 25), (33, 17), (7, 4), (2, 2), (1, 1)])
def test_max_pool_takes_every_window_that_starts_inside(size: int, pooled: int) -> None:
    x = normal(1, size, 3, 2)
    got = max_pool_ceil(jnp.asarray(x))
    assert got.shape[1] == pooled
    rows = [x[:, max(2 * i - 1, 0) : 2 * i + 2, :2].max((1, 2)) for i in range(pooled)]
    np.testing.assert_array_equal(np.asarray(got)[:, :, 0], np.stack(rows, 1))


@pytest.mark.parametrize(("size", "new"), [(5, 9), (17, 64), (9, 5), (4, 4), (1, 3), (3, 1)])
def test_interpolation_is_that_of_numpy(size: int, new: int) -> None:
    x = RNG.standard_normal(size)
    expected = np.interp(np.linspace(0, size - 1, new), np.arange(size), x)
    if new == 1:
        expected = x[:1]
    np.testing.assert_allclose(interpolation_matrix(size, new) @ x, expected, atol=1e-12)


def test_resize_keeps_the_corners() -> None:
    x = normal(2, 5, 7, 3)
    y = np.asarray(resize_bilinear(jnp.asarray(x), (13, 31)))
    assert y.shape == (2, 13, 31, 3)
    for i, j in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(y[:, i, j], x[:, i, j], rtol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (1, 2, 1), (3, 1, 2), (3, 2, 1), (7, 2, 1)])
def test_conv_is_the_sum_over_its_taps(kernel: int, stride: int, dilation: int) -> None:
    x, conv = normal(1, 11, 12, 3), Conv(4, kernel, stride, dilation, use_bias=True)
    params = conv.init(jax.random.key(0), jnp.asarray(x))
    weights, bias = (np.asarray(params["params"][k]) for k in ("kernel", "bias"))
    pad = dilation * (kernel // 2)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = tuple(-(-n // stride) for n in (11, 12))
    expected = np.zeros((1, *out, 4)) + bias
    for i in range(kernel):
        for j in range(kernel):
            window = padded[:, i * dilation :: stride, j * dilation :: stride][:, : out[0], : out[1]]
            expected += window @ weights[i, j]
    np.testing.assert_allclose(conv.apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_keeps_the_unbiased_variance() -> None:
    x = 3 * normal(2, 3, 4, 5) + 7
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 5)
    np.testing.assert_allclose(y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("guess", [0.0, 3.0])
def test_gradient_of_batch_norm_is_that_of_the_textbooks_formulas(guess: float) -> None:
    with jax.enable_x64(True):
        x, g = (jnp.asarray(RNG.standard_normal((2, 5, 7, 3)) * 2 + 3) for _ in range(2))
        scale, bias = (jnp.asarray(RNG.standard_normal(3)) for _ in range(2))

        def textbook(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            return (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * scale + bias

        def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            return normalised(x, scale, bias, jnp.full(3, guess), 1e-5)[0]

        for one, other in zip(*(jax.vjp(f, x, scale, bias) for f in (ours, textbook)), strict=True):
            pairs = zip(one(g), other(g), strict=True) if callable(one) else [(one, other)]
            for mine, theirs in pairs:
                np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


def test_a_small_variance_beside_a_large_mean_is_kept() -> None:
    """The guess is the running mean, which is near where a network has seen images."""
    x = jnp.asarray(1000 + RNG.standard_normal((2, 32, 32, 1)), jnp.float32)
    one = jnp.ones(1)
    _, mean, var = normalised(x, one, one, jnp.full(1, 999.0), 1e-5)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-4)
    constant = jnp.full((1, 4, 4, 1), 1000.0)
    np.testing.assert_array_equal(normalised(constant, one, one, jnp.zeros(1), 1e-5)[0], 1.0)


def test_frozen_batch_norm_uses_and_keeps_the_running_statistics() -> None:
    x = 3 * normal(2, 3, 4, 5) + 7
    norm = BatchNorm(mode="frozen", affine="frozen")
    variables = norm.init(jax.random.key(0), x, train=True)
    y, changed = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(changed["batch_stats"]["mean"], 0.0)

    def loss(params: dict) -> jax.Array:
        return norm.apply({**variables, "params": params}, x, train=True).sum()

    grads = jax.grad(loss)(variables["params"])
    assert all(not g.any() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("dilations", [(1,), (6, 12), (6, 12, 18, 24)])
def test_aspp_is_a_sum_of_dilated_convolutions(dilations: tuple[int, ...]) -> None:
    x, head = normal(2, 9, 17, 8), ASPP(5, dilations)
    params = head.init(jax.random.key(1), x)["params"]

    def by_convolutions(params: dict) -> jax.Array:
        def branch(i: int, d: int) -> jax.Array:
            y = jax.lax.conv_general_dilated(
                x,
                params[f"kernel_{i}"],
                (1, 1),
                ((d, d), (d, d)),
                rhs_dilation=(d, d),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return y + params[f"bias_{i}"]

        return sum(branch(i, d) for i, d in enumerate(dilations))

    ours = head.apply({"params": params}, x)
    np.testing.assert_allclose(ours, by_convolutions(params), rtol=1e-4, atol=1e-5)
    got = jax.grad(lambda p: jnp.square(head.apply({"params": p}, x)).sum())(params)
    want = jax.grad(lambda p: jnp.square(by_convolutions(p)).sum())(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, want)


def gradients(function, *arguments: np.ndarray) -> list[np.ndarray]:
    loss = jax.grad(lambda *a: jnp.sin(function(*a)).sum(), argnums=tuple(range(len(arguments))))
    with jax.enable_x64(True):
        return [np.asarray(g) for g in jax.jit(loss)(*arguments)]


@pytest.mark.parametrize("kernel", [(4, 2, 1), (2, 2, 0), (4, 4, 0), (6, 3, 2)])
@pytest.mark.parametrize("size", [(9, 12), (7, 10), (4, 13)])
def test_gradient_of_the_convolution_in_cells_is_that_of_the_plain_one(
    size: tuple[int, int], kernel: tuple[int, int, int]
) -> None:
    k, s, p = kernel
    x, weights = RNG.standard_normal((2, *size, 3)), RNG.standard_normal((k, k, 3, 5))
    ours = gradients(lambda x, w: cell_convolution(x, w, s, p), x, weights)
    theirs = gradients(lambda x, w: convolution(x, w, s, 1, p), x, weights)
    for mine, plain in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=0, atol=1e-12)


def test_gradient_of_the_pointwise_product_is_the_automatic_one() -> None:
    x, weights = RNG.standard_normal((2, 5, 6, 3)), RNG.standard_normal((3, 4))
    for ours, theirs in zip(gradients(pointwise, x, weights), gradients(lambda x, w: x @ w, x, weights), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [3, 256])  # the compiler's form, and nine products
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_gradient_of_the_convolution_that_keeps_the_size_is_that_of_the_plain_one(channels: int, dilation: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels)) / channels

    def gradients(f: Callable[..., jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jax.jit(jax.grad(lambda x, k: jnp.sin(f(x, k)).sum(), (0, 1)))(x, kernel)

    ours = gradients(lambda x, k: same_convolution(x, k, dilation))
    theirs = gradients(lambda x, k: convolution(x, k, 1, dilation, dilation))
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 2])  # ResNet's, padded, and VGG's, which is not
@pytest.mark.parametrize("shape", [(2, 33, 20, 3), (1, 34, 17, 2), (2, 7, 9, 1)])
def test_gradient_of_max_pool_goes_to_the_first_of_equals_as_xlas_does(shape: tuple[int, ...], kernel: int) -> None:
    """After a ReLU many are equal: here a third are zero, and all are whole numbers."""
    x = jnp.maximum(jnp.round(jax.random.normal(jax.random.key(0), shape) * 2), 0)
    rows, columns = ((1, 1 + n % 2) if kernel == 3 else (0, 0) for n in shape[1:3])

    def xlas(x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (kernel, kernel), (2, 2), (rows, columns))

    ours, pull = jax.vjp(lambda x: max_pool(x, kernel, 2, rows, columns), x)
    theirs, their_pull = jax.vjp(xlas, x)
    g = jnp.round(jax.random.normal(jax.random.key(1), ours.shape) * 8)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(pull(g)[0], their_pull(g)[0])


def test_max_pool_loses_no_gradient_where_its_input_is_computed_twice() -> None:
    """As compiled for users: the gradient looks at a batch norm's output that was rounded otherwise than the forward's.

    That was looked for among its inputs by its value, and the gradient of what was not found again was lost.
    """
    x = jax.random.normal(jax.random.key(0), (2, 33, 48, 8))

    def total(x: jax.Array) -> jax.Array:
        normed = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * jnp.linspace(-2, 2, 8)
        return max_pool_ceil(nn.relu(normed)).sum()

    gradient = jax.jit(jax.grad(total)).lower(x).compile(AS_FOR_USERS)
    np.testing.assert_allclose(gradient(x), jax.grad(total)(x), atol=1e-5)


def test_a_1x1_convolution_takes_no_padding() -> None:
    with pytest.raises(ValueError, match="1x1 convolution with padding=1"):
        Conv(4, 1, padding=1).init(jax.random.key(0), normal(1, 4, 4, 3))


@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(7, 2, 3), (3, 2, 1), (3, 1, 1), (7, 4, 3), (3, 2, "SAME"), (5, 3, 0)]
)
def test_the_taps_of_an_image_times_the_kernel_are_its_convolution(
    size: tuple[int, int], kernel: int, stride: int, padding: int | str
) -> None:
    """What a TPU computes; its branch is compiled where there is none, but not run."""
    with jax.enable_x64(True):
        x, weights = (jnp.asarray(RNG.standard_normal(s)) for s in ((2, *size, 3), (kernel, kernel, 3, 4)))
        expected = convolution(x, weights, stride, 1, padding)
        got = jnp.einsum("bcyxij,yxco->bijo", taps_of(x, kernel, stride, padding), weights)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
        g = jnp.asarray(RNG.standard_normal(expected.shape))
        expected = jax.vjp(lambda k: convolution(x, k, stride, 1, padding), weights)[1](g)[0]
        got = jnp.einsum("bcyxij,bijo->yxco", taps_of(x, kernel, stride, padding), g)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_gradient_of_the_image_convolution_is_that_of_the_plain_one() -> None:
    x, weights = jnp.asarray(normal(2, 9, 12, 3)), jnp.asarray(normal(7, 7, 3, 4))
    ours = jax.vjp(lambda x, k: image_convolution(x, k, 2, 3), x, weights)
    plain = jax.vjp(lambda x, k: convolution(x, k, 2, 1, 3), x, weights)
    np.testing.assert_array_equal(ours[0], plain[0])
    for mine, theirs in zip(ours[1](ours[0]), plain[1](plain[0]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "name"), [(7, 2, None, "image_convolution"), (4, 2, 1, "cell_convolution")]
)
def test_a_discriminator_of_three_classes_has_its_own_gradient_and_images_theirs(
    kernel: int, stride: int, padding: int | None, name: str
) -> None:
    conv = Conv(4, kernel, stride, padding=padding)
    program = jax.make_jaxpr(lambda x: conv.init_with_output(jax.random.key(0), x)[0])(jnp.zeros((1, 16, 16, 3)))
    found = [other for other in ("image_convolution", "cell_convolution") if f"name={other}" in str(program)]
    assert found == [name]
