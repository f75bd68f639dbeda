"""Segmenters to use from Python: built from a config, or loaded from a file that `python -m uda_jax.export` wrote.

>>> import numpy as np
>>> import uda_jax
>>> segmenter = uda_jax.load_segmenter("model.npz")
>>> len(segmenter.classes), segmenter.size
(19, (32, 64))
>>> image = np.zeros((32, 64, 3), np.uint8)  # RGB, best at about segmenter.size
>>> train_ids = segmenter.predict(image)
>>> train_ids.shape, str(train_ids.dtype)
((32, 64), 'uint8')
>>> segmenter.probabilities(np.stack([image, image])).shape
(2, 32, 64, 19)

No data set and no TensorFlow is needed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util

import uda_jax
from uda_jax.config import check_config, check_values, check_x64, default_config, fill
from uda_jax.errors import UserError
from uda_jax.files import fetched
from uda_jax.models.networks import Networks, build_networks
from uda_jax.paths import to_path
from uda_jax.training.state import TrainState, initial_segmenter
from uda_jax.weights import trees
from uda_jax.weights.arrays import Arrays, read_arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Segmenter:
    """A segmenter and its weights. What it computes is compiled once for every shape of images.

    Attributes:
      classes: names by train id.
      size: (height, width) of the images that it is evaluated on; others are taken too, in any number.
      networks, params, batch_stats: for `networks.segment` and `networks.predict`, and so for training and gradients.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    networks: Networks
    params: Any
    batch_stats: Any

    def logits(self, images: Any, size: tuple[int, int] | None = None) -> jax.Array:
        """Float32 or better, [B, H, W, classes], or [H, W, classes] of a single image.

        Args:
          images: RGB, uint8 [B, H, W, 3] or [H, W, 3].
          size: (height, width) of the result, by default that of the images.

        Raises:
          UserError: images of another shape or type.
        """
        return self._apply(_logits, images, size)

    def probabilities(self, images: Any, size: tuple[int, int] | None = None) -> jax.Array:
        """Softmax over the last axis of `logits`."""
        return self._apply(_probabilities, images, size)

    def predict(self, images: Any, size: tuple[int, int] | None = None) -> jax.Array:
        """The train ids of the likeliest classes, uint8 [B, H, W] or [H, W]; arguments and errors as of `logits`."""
        return self._apply(_train_ids, images, size)

    def _apply(self, function: Callable[..., jax.Array], images: Any, size: tuple[int, int] | None) -> jax.Array:
        images = _checked(images)
        batch = images if images.ndim == 4 else images[None]
        found = function(self.networks, self.params, self.batch_stats, batch, size and tuple(size))
        return found if images.ndim == 4 else found[0]


def build_segmenter(config: ml_collections.ConfigDict) -> Segmenter:
    """The segmenter that training by `config` starts from: fresh from its seed, with `config.model.pretrained`, if any.

    >>> import uda_jax
    >>> config = uda_jax.default_config()
    >>> config.model.update(backbone="resnet18", width=4, stem_width=4)
    >>> uda_jax.build_segmenter(config).size
    (512, 1024)

    Raises:
      UserError: settings that cannot work, or pretrained weights that do not fit.
    """
    check_config(config)
    check_x64(config.model)
    networks = build_networks(config)
    params, stats = jax.jit(partial(initial_segmenter, config, networks))()
    if config.model.pretrained:
        state = trees.load_pretrained(_state(params, stats), config.model.pretrained, config.model)
        params, stats = state.params, state.batch_stats
    return Segmenter(_class_names(config), tuple(config.data.eval.size), networks, params, stats)


def load_segmenter(file: str | Path, config: ml_collections.ConfigDict | None = None) -> Segmenter:
    """The segmenter of a file of weights, .npz or .safetensors, with the values in it, bit for bit.

    Args:
      file: from `python -m uda_jax.export`, or any with the names of docs/weights.md and both backbone and heads.
      config: of the model and, for `Segmenter.size`, the data, in place of what the file's metadata say.

    Raises:
      UserError: no such file, a damaged one, one without metadata, of another version or of another model; says which
        and what to do.
    """
    with fetched(to_path(file)) as here:
        arrays, metadata = read_arrays(here)
    if config is None:
        config = _config_of(metadata, file)
    check_x64(config.model)
    networks = build_networks(config)
    shapes = jax.eval_shape(partial(networks.init, size=tuple(config.data.eval.size)), jax.random.key(0))
    weights = _fitting(arrays, _state(*shapes), file)
    return Segmenter(
        _class_names(config, metadata.get("classes", ())),
        tuple(config.data.eval.size),
        networks,
        weights["params"],
        weights.get("batch_stats", {}),
    )


@partial(jax.jit, static_argnums=(0, 4))
def _logits(networks: Networks, params: Any, stats: Any, images: jax.Array, size: tuple[int, int] | None) -> jax.Array:
    return networks.predict(params, stats, images, size).main


@partial(jax.jit, static_argnums=(0, 4))
def _probabilities(*args: Any) -> jax.Array:
    return jax.nn.softmax(_logits(*args))


@partial(jax.jit, static_argnums=(0, 4))
def _train_ids(*args: Any) -> jax.Array:
    return _logits(*args).argmax(-1).astype(jnp.uint8)


def _checked(images: Any) -> jax.Array | np.ndarray:
    """The images as an array; raises UserError unless they are uint8 [B, H, W, 3] or [H, W, 3]."""
    array = images if isinstance(images, jax.Array) else np.asarray(images)
    if array.dtype != np.uint8:
        raise UserError(
            f"images of type {array.dtype}: expected uint8, RGB in 0..255; of floats in 0..1 that is "
            "(255 * images).round().astype('uint8')"
        )
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise UserError(
            f"images of shape {array.shape}: expected (B, H, W, 3) or (H, W, 3), channels last and RGB; drop an alpha "
            "channel by images[..., :3]"
        )
    return array


def _config_of(metadata: dict[str, Any], file: str | Path) -> ml_collections.ConfigDict:
    """The default config with the model that a file says it holds, and the sizes of the images that this has seen."""
    if "model" not in metadata:
        raise UserError(
            f"{file} does not say what model it holds; write it with python -m uda_jax.export, or call "
            "load_segmenter(file, config) with the config that it was trained by"
        )
    config = default_config()
    try:
        sizes = {name: {"size": size} for name, size in metadata.get("sizes", {}).items()}
        unknown = fill(config, {"model": metadata["model"], "data": sizes})
        if unknown:
            raise UserError(f"it has settings unknown here, {', '.join(unknown)}")
        check_values(config)
    except (UserError, TypeError, ValueError, AttributeError) as e:
        raise UserError(
            f"{file}, written by uda_jax {metadata.get('uda_jax', '(unknown)')}, holds a model that this version, "
            f"{uda_jax.__version__}, cannot build: {e}. Use that version, or load_segmenter(file, config)"
        ) from e
    return config


def _fitting(arrays: Arrays, state: TrainState, file: str | Path) -> dict[str, Any]:
    """{"params", "batch_stats"} of the arrays; raises UserError unless they are all that an abstract state has."""
    names, leaves = trees.names(state), trees.flatten(state)
    found = trees.match(arrays, trees.shapes(state))
    if found.missing or found.wrong:
        raise UserError(f"{file} does not fit its model, or the config given:\n{trees.report(found)}")
    if found.fresh:
        parts = ", ".join(dict.fromkeys(map(trees.part_of, found.fresh)))
        raise UserError(
            f"{file} has no {parts}, so that it predicts nothing: it is for --config.model.pretrained, to train from"
        )
    loaded = {path: jnp.asarray(trees.from_torch(arrays[name]), leaves[path].dtype) for path, name in names.items()}
    return traverse_util.unflatten_dict(loaded)


def _state(params: Any, stats: Any) -> TrainState:
    """A state of a segmenter alone, as `uda_jax.weights` takes it."""
    return TrainState(jnp.zeros((), jnp.int32), params, stats, {}, None, None)


def _class_names(config: ml_collections.ConfigDict, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The names, or numbers where there are none."""
    return tuple(names) or tuple(f"class {i}" for i in range(config.model.num_classes))
