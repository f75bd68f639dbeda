"""The segmenter: an image's preprocessing, a backbone, one or two heads, and logits at the size asked for.

A backbone or a head is a file with what `uda_jax.models.contract` says, and a line here.
"""

from collections.abc import Mapping

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.models import batch_norm, contract, daformer, deeplab_v2, efficientnet, mit, resnet, vgg
from uda_jax.models.contract import Backbone, Head, dtypes
from uda_jax.models.layers import Dtype, at_least_float32, resize_bilinear

BACKBONES: Mapping[str, Backbone] = {**resnet.BACKBONES, **vgg.BACKBONES, **efficientnet.BACKBONES, **mit.BACKBONES}
HEADS: Mapping[str, Head] = {**deeplab_v2.HEADS, **daformer.HEADS}
CHOICES = {
    "backbone": tuple(BACKBONES),
    "head": tuple(HEADS),
    **contract.CHOICES,
    **batch_norm.CHOICES,
    **resnet.CHOICES,
    **efficientnet.CHOICES,
    **daformer.CHOICES,
}


@flax.struct.dataclass
class Outputs:
    """What the segmenter says of a batch.

    Attributes:
      small: level, "main" or "aux" -> logits, float32 or float64 [B, h, w, classes], as the head gives them.
      features: the map that the main head's classifier sees, compute dtype [B, h, w, C].
      size: (H, W) of the image, unless another was asked for.
      align_corners: of the resize to that.
      deepest: the map of the backbone's last stage, compute dtype [B, h, w, C]; None where no backbone was asked.
    """

    small: dict[str, jax.Array]
    features: jax.Array
    size: tuple[int, int] = flax.struct.field(pytree_node=False)
    align_corners: bool = flax.struct.field(pytree_node=False)
    deepest: jax.Array | None = None

    def level(self, name: str) -> jax.Array:
        """A level's logits at full size [B, H, W, classes]; asked for twice in a program, they are computed once."""
        return resize_bilinear(self.small[name], self.size, self.align_corners)

    @property
    def main(self) -> jax.Array:
        return self.level("main")

    @property
    def aux(self) -> jax.Array | None:
        """None with one level."""
        return self.level("aux") if "aux" in self.small else None


class Segmenter(nn.Module):
    """RGB images, uint8 or float [B, H, W, 3] in 0..255 -> `Outputs`.

    Attributes:
      backbone, head, aux_head: modules as in `uda_jax.models.contract`; None for one level alone.
      mean: RGB mean subtracted from the image, in 0..255.
      std: RGB divisor afterwards.
      bgr: feed channels in the order B, G, R, as Caffe weights expect.
      align_corners: of the logits' bilinear resize to the size asked for.
    """

    backbone: nn.Module
    head: nn.Module
    aux_head: nn.Module | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool
    align_corners: bool = True
    dtype: Dtype = jnp.float32

    def __call__(self, images: jax.Array, train: bool, size: tuple[int, int] | None = None) -> Outputs:
        """`size` = (height, width) of the logits, by default that of the images; they are resized once."""
        size = size or (images.shape[1], images.shape[2])
        maps = self.backbone(self.preprocess(images), train)
        features = self.head.features(maps, train)
        small = {"main": self.head(features)}
        if self.aux_head is not None:
            small["aux"] = self.aux_head(self.aux_head.features(maps, train))
        return Outputs(small, features, size, self.align_corners, maps[-1])

    def preprocess(self, images: jax.Array) -> jax.Array:
        """RGB in 0..255 -> the network's input, in the compute dtype; the mean is subtracted in float32 or better."""
        x = at_least_float32(images)
        x = (x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)
        return (x[..., ::-1] if self.bgr else x).astype(self.dtype)

    def classify(self, features: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """The main head's classifier alone: features [B, h, w, C] -> logits [B, h, w, classes], or of `size`."""
        logits = self.head(features)
        return logits if size is None else resize_bilinear(logits, size, self.align_corners)


def build_segmenter(model: ml_collections.ConfigDict) -> Segmenter:
    """The segmenter that `config.model` describes (see `uda_jax.config`).

    Raises:
      UserError: the head cannot read what the backbone has.
    """
    backbone, head = BACKBONES[model.backbone], HEADS[model.head]
    strides = backbone.strides(model)
    return Segmenter(
        backbone=backbone.build(model),
        head=head.build(model, strides, "main"),
        aux_head=head.build(model, strides, "aux") if model.two_levels else None,
        mean=tuple(model.mean),
        std=tuple(model.std),
        bgr=model.bgr,
        align_corners=model.align_corners,
        dtype=dtypes(model)["dtype"],
    )


def unused(model: ml_collections.ConfigDict) -> dict[str, str]:
    """Settings that mean nothing to this model -> which part of it would have to be another: "backbone" or "head"."""
    parts: tuple[tuple[str, Mapping[str, Backbone | Head]], ...] = (("backbone", BACKBONES), ("head", HEADS))
    read = {name for part, known in parts for name in known[model[part]].settings}
    return {
        name: part for part, known in parts for other in known.values() for name in other.settings if name not in read
    }
