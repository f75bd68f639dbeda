"""Convolutions whose gradients are written as what each backend does fast."""

from functools import partial

import jax
import jax.numpy as jnp

from uda_jax.models.rows import row_groups

# Of products; None is JAX's default. Given explicitly to what has a gradient of its own: that is traced where the
# surrounding `jax.default_matmul_precision` has ended.
Precision = str | None
WIDE = 256  # channels
CELL = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column of a cell's four pixels, in the order of its channels


def over_pixels(x: jax.Array, g: jax.Array, precision: Precision = None) -> jax.Array:
    """The sum over all pixels of x^T g, [B, H, W, I] and [B, H, W, O] -> [I, O]."""
    if row_groups() > 1:  # merged, batch and rows would have to be gathered, which are both split over devices
        return jnp.einsum("bhwi,bhwo->io", x, g, precision=precision)
    return jnp.matmul(x.reshape(-1, x.shape[-1]).T, g.reshape(-1, g.shape[-1]), precision=precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pointwise(x: jax.Array, kernel: jax.Array, precision: Precision = None) -> jax.Array:
    """x @ kernel, [B, H, W, I] and [I, O] -> [B, H, W, O]; its own gradient takes a fifth off a whole step on CPU."""
    return jnp.matmul(x, kernel, precision=precision)


def _pointwise_forward(
    x: jax.Array, kernel: jax.Array, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return pointwise(x, kernel, precision), (x, kernel)


def _pointwise_backward(
    precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # The kernel's is x^T g. Automatic differentiation writes (g^T x)^T, for which XLA:CPU transposes g element by
    # element, and computes what g comes from anew for each.
    x, kernel = saved
    return jnp.matmul(g, kernel.T, precision=precision), over_pixels(x, g, precision)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def convolution(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int | str, precision: Precision = None
) -> jax.Array:
    """[B, H, W, I] and [k, k, I, O] -> [B, H', W', O], zero-padded on all four sides, or as "SAME" says."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding if isinstance(padding, str) else ((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def plain_gradients(
    x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int, dilation: int, padding: int | str, precision: Precision
) -> tuple[jax.Array, jax.Array]:
    """The automatic gradients of `convolution`, for x and kernel; what is not used of them is not computed."""
    forward = partial(convolution, stride=stride, dilation=dilation, padding=padding, precision=precision)
    of_x, of_kernel = jax.vjp(forward, x, kernel)[1](g)
    return of_x, of_kernel


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def same_convolution(x: jax.Array, kernel: jax.Array, dilation: int, precision: Precision = None) -> jax.Array:
    """`convolution` by a 3x3 kernel of stride 1 that keeps the size, with a kernel's gradient for CPU and GPU.

    Theirs is slow: that of XLA:CPU two to three times slower than nine matrix products from 256 channels on (with fewer
    it is faster), that of an H100 2.4 times for dilated kernels (docs/performance.md).
    """
    return convolution(x, kernel, 1, dilation, dilation, precision)


def _same_convolution_forward(
    x: jax.Array, kernel: jax.Array, dilation: int, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return same_convolution(x, kernel, dilation, precision), (x, kernel)


def _same_convolution_backward(
    dilation: int, precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    d, (height, width) = dilation, x.shape[1:3]

    def plain(x: jax.Array, g: jax.Array) -> jax.Array:
        return plain_gradients(x, kernel, g, 1, d, d, precision)[1]

    def products(x: jax.Array, g: jax.Array) -> jax.Array:
        # What is moved is g: moved copies of x could be made in the forward pass already, and XLA:CPU keeps them all.
        padded = jnp.pad(g, ((0, 0), (d, d), (d, d), (0, 0)))
        taps = [(i, j) for i in (2 * d, d, 0) for j in (2 * d, d, 0)]
        each = [over_pixels(x, padded[:, i : i + height, j : j + width], precision) for i, j in taps]
        return jnp.stack(each).reshape(kernel.shape)

    on_cpu = products if min(kernel.shape[2:]) >= WIDE else plain
    on_gpu = products if d > 1 else plain
    kernel_gradient = jax.lax.platform_dependent(x, g, cpu=on_cpu, cuda=on_gpu, default=plain)
    return plain_gradients(x, kernel, g, 1, d, d, precision)[0], kernel_gradient


same_convolution.defvjp(_same_convolution_forward, _same_convolution_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def cell_convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: Precision = None
) -> jax.Array:
    """`convolution` by a kernel whose side the stride divides, whose image's gradient CPU and TPU compute by products.

    XLA:CPU has none that is fast in loops and branches, where APODA attacks the discriminator: its step took twice as
    long. The TPU compiler's takes five times the cycles.
    """
    return convolution(x, kernel, stride, 1, padding, precision)


def _cell_convolution_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(x, kernel, stride, 1, padding, precision), (x, kernel)


def _cell_convolution_backward(
    stride: int, padding: int, precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved

    def plain(g: jax.Array, kernel: jax.Array) -> jax.Array:
        return plain_gradients(x, kernel, g, stride, 1, padding, precision)[0]

    products = partial(
        _image_gradient, stride=stride, padding=padding, size=(x.shape[1], x.shape[2]), precision=precision
    )
    image_gradient = jax.lax.platform_dependent(g, kernel, cpu=products, tpu=products, default=plain)
    return image_gradient, plain_gradients(x, kernel, g, stride, 1, padding, precision)[1]


def _image_gradient(
    g: jax.Array, kernel: jax.Array, stride: int, padding: int, size: tuple[int, int], precision: Precision
) -> jax.Array:
    """Every output moves k / stride cells of stride x stride pixels a side: a product for each, shifted and added."""
    s, n = stride, kernel.shape[0] // stride
    weights = _by_cell(kernel, s).swapaxes(2, 3)
    cells = jnp.zeros((), g.dtype)
    for i in range(n):
        for j in range(n):
            cell = jnp.matmul(g, weights[i, j], precision=precision)
            cells = cells + jnp.pad(cell, ((0, 0), (i, n - 1 - i), (j, n - 1 - j), (0, 0)))
    batch, height, width, _ = cells.shape
    image = cells.reshape(batch, height, width, s, s, -1).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, height * s, width * s, -1)
    pads = [(-padding, padding + full - m * s, 0) for full, m in zip(size, (height, width), strict=True)]
    return jax.lax.pad(image, jnp.zeros((), g.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


cell_convolution.defvjp(_cell_convolution_forward, _cell_convolution_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_cells(x: jax.Array, kernel: jax.Array, precision: Precision = None) -> jax.Array:
    """`convolution` by a 4x4 kernel of stride 2 and padding 1, of cells.

    Args:
      x: [B, I, J, 4 * C], padded.
      kernel: [4, 4, C, O].
    Returns:
      [B, I - 1, J - 1, O].
    """
    height, width, features = x.shape[1] - 1, x.shape[2] - 1, kernel.shape[-1]
    # A cell's products for the four outputs that see it, kept in float32 until they are added.
    exact = jnp.promote_types(x.dtype, jnp.float32)
    products = jnp.matmul(x, _taps(kernel), precision=precision, preferred_element_type=exact)
    total = jnp.zeros((), exact)
    for tap, (i, j) in enumerate(CELL):
        total += products[:, i : i + height, j : j + width, tap * features : (tap + 1) * features]
    return total.astype(x.dtype)


def _convolve_cells_forward(
    x: jax.Array, kernel: jax.Array, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve_cells(x, kernel, precision), (x, kernel)


def _convolve_cells_backward(
    precision: Precision, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    taps, back = jax.vjp(_taps, kernel)
    # The gradients of the four outputs that see a cell, one by one for the kernel: of all beside each other the TPU's
    # compiler makes a transposed copy.
    each = [jnp.pad(g, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0))) for i, j in CELL]
    of_taps = jnp.concatenate([over_pixels(x, one, precision) for one in each], -1)
    return jnp.matmul(jnp.concatenate(each, -1), taps.T, precision=precision), back(of_taps)[0]


convolve_cells.defvjp(_convolve_cells_forward, _convolve_cells_backward)


def _taps(kernel: jax.Array) -> jax.Array:
    """[4, 4, C, O] -> [4 * C, 4 * O]: a pixel of a cell with its channels, the cell's place in a kernel with O."""
    channels, features = kernel.shape[2:]
    return _by_cell(kernel, 2).reshape(4, 4 * channels, features).swapaxes(0, 1).reshape(4 * channels, 4 * features)


def _by_cell(kernel: jax.Array, side: int) -> jax.Array:
    """[n * side, n * side, C, O] -> [n, n, side * side * C, O]: a kernel's weights for each cell that it covers."""
    n = kernel.shape[0] // side
    cells = kernel.reshape(n, side, n, side, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    return cells.reshape(n, n, -1, kernel.shape[-1])
