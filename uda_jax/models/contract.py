"""What a backbone and a head are.

A backbone's file has `BACKBONES`, a head's `HEADS`, by name as `config.model` has them; and `CHOICES`, if settings that
it reads are names: setting -> the names. `uda_jax.models.segmenter` joins them, and no head knows a backbone's name.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from uda_jax.models.initializers import Initializer, he, normal

INITIALIZERS: dict[str, Initializer] = {
    "normal": normal(0.01),
    "he": he("out"),
}
CHOICES = {
    "init": tuple(INITIALIZERS),
    "dtype": ("float32", "bfloat16", "float64"),
    "param_dtype": ("float32", "float64"),
}

Shapes = Mapping[str, tuple[int, ...]]  # of a file's arrays, by name


class Backbone(NamedTuple):
    """From the image to the maps of its stages.

    Attributes:
      build: (config.model) -> a module: (images [B, H, W, 3] in the compute dtype, train) -> a tuple of maps
        [B, ~H/stride, ~W/stride, C], one for every stage, the last one last.
      strides: (config.model) -> those of all stages.
      settings: of `config.model`, those that it reads and that other backbones may not have.
      published: names of its modules in the files that others publish, where these are not our own (docs/weights.md).
      recognised: (shapes of a file's arrays by those names) -> the settings of `config.model` that they tell, None if
        they are no such backbone's. One function for all backbones of a kind.
      own: modules that no published classifier has: they stay fresh where a file lacks them all.
    """

    build: Callable[[ml_collections.ConfigDict], nn.Module]
    strides: Callable[[ml_collections.ConfigDict], tuple[int, ...]]
    settings: tuple[str, ...]
    published: Mapping[str, str]
    recognised: Callable[[Shapes], dict[str, Any] | None]
    own: tuple[str, ...] = ()


def _unknown(shapes: Shapes) -> None:
    del shapes


class Head(NamedTuple):
    """From the maps of a backbone's stages to logits, in two steps.

    Attributes:
      build: (config.model, the stages' strides, "main" or "aux") -> a module with
        `features`: (maps, train) -> [B, h, w, C], all that its classifier sees of them, and
        `__call__`: features -> logits, float32 or better [B, h, w, classes].
        Raises UserError for strides that it cannot read.
      settings: of `config.model`, those that it reads and that other heads may not have.
      published: names of its modules in the files that others publish, where these are not our own.
      recognised: (shapes of a head's arrays by those names) -> the settings of `config.model` that they tell, "head"
        and, if the classifier is there, "num_classes" among them; None if they are no such head's.
    """

    build: Callable[[ml_collections.ConfigDict, tuple[int, ...], str], nn.Module]
    settings: tuple[str, ...]
    published: Mapping[str, str] = {}
    recognised: Callable[[Shapes], dict[str, Any] | None] = _unknown


def dtypes(model: ml_collections.ConfigDict) -> dict[str, Any]:
    """{"dtype", "param_dtype"}, as every module takes them."""
    return {"dtype": jnp.dtype(model.dtype), "param_dtype": jnp.dtype(model.param_dtype)}
