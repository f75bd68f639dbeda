"""DeepLab-v2 segmenter (Chen et al. 2017) with one or two levels of output (AdaptSegNet, section 4)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.models.layers import Dtype, Initializer, resize_align_corners, uniform_fan_in
from uda_jax.models.resnet import DEPTHS, ResNet
from uda_jax.models.vgg import VGG16


class Outputs(NamedTuple):
    """What the segmenter says of a batch.

    Attributes:
      main: logits, float32 or float64 [B, H, W, classes], at the size of the image unless another was asked for.
      aux: the auxiliary head's logits, the same shape; None with one level.
      features: the map that feeds the main head, compute dtype [B, ~H/8, ~W/8, C].
    """

    main: jax.Array
    aux: jax.Array | None
    features: jax.Array

    def level(self, name: str) -> jax.Array:
        """Logits of level "main" or "aux"."""
        logits = getattr(self, name)
        assert logits is not None, f"the segmenter has no level {name!r}"
        return logits


class ASPP(nn.Module):
    """Sum of 3x3 convolutions of several dilation rates, [B, h, w, C] -> logits [B, h, w, classes].

    All branches and taps are one matrix product, followed by shifted adds: the product has few outputs, so
    this is several times faster than dilated convolutions. Logits come in float32 or better.
    """

    num_classes: int
    dilations: tuple[int, ...]
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.normal(0.01)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, k = x.shape[-1], self.num_classes
        kernels, biases = [], []
        for i in range(len(self.dilations)):
            kernels.append(self.param(f"kernel_{i}", self.kernel_init, (3, 3, channels, k), self.param_dtype))
            biases.append(self.param(f"bias_{i}", uniform_fan_in(9 * channels), (k,), self.param_dtype))
        taps = jnp.concatenate([kernel.reshape(9, channels, k) for kernel in kernels])
        y = jnp.dot(
            x.astype(self.dtype),
            taps.transpose(1, 0, 2).reshape(channels, -1).astype(self.dtype),
            preferred_element_type=jnp.promote_types(self.dtype, jnp.float32),
        )
        return _shifted_sum(y, self.dilations) + sum(biases)


def _shifted_sum(y: jax.Array, dilations: tuple[int, ...]) -> jax.Array:
    """Adds the taps' maps [B, h, w, taps * K], each at its tap's offset; what falls outside the map is dropped.

    Split and pad have a concatenation and a pad as gradients; indexing would add up full-size arrays instead.
    """
    offsets = [(rate * row, rate * column) for rate in dilations for row in (1, 0, -1) for column in (1, 0, -1)]
    zero = jnp.zeros((), y.dtype)
    shifted = [
        jax.lax.pad(part, zero, ((0, 0, 0), (down, -down, 0), (right, -right, 0), (0, 0, 0)))
        for part, (down, right) in zip(jnp.split(y, len(offsets), axis=-1), offsets, strict=True)
    ]
    return sum(shifted[1:], shifted[0])


class DeepLabV2(nn.Module):
    """RGB images, uint8 or float [B, H, W, 3] in 0..255 -> `Outputs`.

    Attributes:
      backbone: a module that maps (images, train) to the maps of two levels.
      mean: RGB mean subtracted from the image, in 0..255.
      std: RGB divisor afterwards.
      bgr: feed channels in the order B, G, R, as Caffe weights expect.
    """

    backbone: nn.Module
    num_classes: int
    dilations: tuple[int, ...]
    two_levels: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        def head() -> ASPP:
            return ASPP(self.num_classes, self.dilations, self.dtype, self.param_dtype)

        self.head = head()
        if self.two_levels:
            self.aux_head = head()

    def __call__(self, images: jax.Array, train: bool, size: tuple[int, int] | None = None) -> Outputs:
        """`size` = (height, width) of the logits, by default that of the images; they are resized once."""
        size = size or (images.shape[1], images.shape[2])
        lower, features = self.backbone(self.preprocess(images), train)
        aux = resize_align_corners(self.aux_head(lower), size) if self.two_levels else None
        return Outputs(resize_align_corners(self.classify(features), size), aux, features)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """RGB in 0..255 -> the network's input, in the compute dtype; the mean is subtracted in float32."""
        x = images.astype(jnp.float32) - jnp.asarray(self.mean, jnp.float32)
        x = x / jnp.asarray(self.std, jnp.float32)
        return (x[..., ::-1] if self.bgr else x).astype(self.dtype)

    def classify(self, features: jax.Array) -> jax.Array:
        """The main head alone: features [B, h, w, C] -> logits [B, h, w, classes] at their size."""
        return self.head(features)


def build_segmenter(config: ml_collections.ConfigDict) -> DeepLabV2:
    """The segmenter that `config.model` describes (see `uda_jax.config`)."""
    dtypes = {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}
    init = {
        "normal": nn.initializers.normal(0.01),
        "he": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    }[config.init]
    backbone: nn.Module
    if config.backbone in DEPTHS:
        backbone = ResNet(
            name_of_depth=config.backbone,
            stem=config.stem,
            stem_width=config.stem_width,
            width=config.width,
            stride_in_1x1=config.stride_in_1x1,
            norm=config.norm,
            affine=config.affine,
            kernel_init=init,
            remat=config.remat,
            **dtypes,
        )
    else:
        backbone = VGG16(width=config.width, kernel_init=init, **dtypes)
    return DeepLabV2(
        backbone=backbone,
        num_classes=config.num_classes,
        dilations=tuple(config.dilations),
        two_levels=config.two_levels,
        mean=tuple(config.mean),
        std=tuple(config.std),
        bgr=config.bgr,
        **dtypes,
    )
