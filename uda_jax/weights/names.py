"""Other people's names of weights -> ours (docs/weights.md), and the model settings that such weights want."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from uda_jax.config import default_config
from uda_jax.errors import UserError
from uda_jax.weights import efficientnet
from uda_jax.weights.arrays import Arrays
from uda_jax.weights.trees import PUBLISHED, UNSEEN, backbone_of, covers, head_of, shapes_of

# How images were fed to the network that the weights were trained in: RGB means and deviations in 0..255.
CAFFE = {
    "stride_in_1x1": True,
    "mean": (122.67891434, 116.66876762, 104.00698793),
    "std": (1.0, 1.0, 1.0),
    "bgr": True,
}
KERAS = {**CAFFE, "mean": (123.68, 116.779, 103.939)}
TORCH = {
    "stride_in_1x1": False,
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "bgr": False,
}
LITE = {"mean": (127.0,) * 3, "std": (128.0,) * 3, "bgr": False}
TIMM_LITE = {**LITE, "mean": (127.5,) * 3, "std": (127.5,) * 3}  # of tf_efficientnet_lite, Google's weights
# The heads of both are saved with four branches; AdaptSegNet's returns after the second.
STYLES: dict[str, dict[str, Any]] = {
    "keras": KERAS,
    "torchvision": TORCH,
    "timm": TORCH,
    "caffe": CAFFE,
    "efficientnet_lite": LITE,
    "adaptsegnet": {**CAFFE, "dilations": (6, 12)},
    "advent": {**CAFFE, "dilations": (6, 12, 18, 24)},
}
PREFIXES = re.compile(r"^(?:module\.|Scale\.)+")  # of DataParallel, and of the published initial weights
BRANCH = re.compile(r"(layer5|layer6|classifier)\.conv2d_list\.(\d+\.(?:weight|bias))")
# The published VGG-16 has no pool4 and pool5, and fc6 and fc7 at the end of the same list.
PUBLISHED_VGG = {
    23: PUBLISHED["conv5_1"], 25: PUBLISHED["conv5_2"], 27: PUBLISHED["conv5_3"], 29: "fc6", 31: "fc7",
}  # fmt: skip
DISCRIMINATORS = (("conv1", "conv2", "conv3", "conv4", "classifier"), ("0", "2", "4", "6", "8"))


def is_published(names: Iterable[str]) -> bool:
    """Whether these are names of a published DeepLab-v2, AdaptSegNet's or ADVENT's, with its heads."""
    return any(BRANCH.fullmatch(PREFIXES.sub("", name)) for name in names)


def is_caffe(names: Iterable[str]) -> bool:
    """Whether these are names of the weights that DeepLab-v2's authors converted from Caffe."""
    return all("Scale." in name for name in names)


def is_lite(names: Iterable[str]) -> bool:
    """Whether these are names of EfficientNet-Lite as Google's weights were first converted."""
    return any(PREFIXES.sub("", name) == efficientnet.NUMBERED for name in names)


def our_names(arrays: Arrays, source: str) -> Arrays:
    """A segmenter's or classifier's arrays under our names; what has no counterpart keeps its own.

    Prefixes and the counters of batches go. Of a published DeepLab-v2, layer6 becomes the main head and layer5 the
    auxiliary one; without layer6, layer5 (or VGG's classifier) is the main head.

    Raises:
      UserError: two arrays of one name once the prefixes are gone, or a network's with more blocks than are known.
    """
    bare: Arrays = {}
    for name, array in arrays.items():
        short = PREFIXES.sub("", name)
        if short in bare:
            raise UserError(f"{source} has {short} twice, with and without a prefix; expected one of every name")
        if not short.endswith("num_batches_tracked"):
            bare[short] = array
    if is_lite(bare):
        return efficientnet.timm_names(bare, source)
    two_levels = any(name.startswith("layer6.") for name in bare)
    vgg = "features.29.weight" in bare

    def name_of(name: str) -> str:
        if branch := BRANCH.fullmatch(name):
            return f"{'aux_head' if two_levels and branch[1] == 'layer5' else 'head'}.{branch[2]}"
        if vgg and (layer := re.fullmatch(r"features\.(\d+)(\..*)", name)):
            return PUBLISHED_VGG.get(int(layer[1]), f"features.{layer[1]}") + layer[2]
        return name

    return {name_of(name): array for name, array in bare.items()}


def our_discriminator(arrays: Arrays, level: str, source: str) -> Arrays:
    """A published discriminator's arrays as `discriminator.<level>.<j>.weight|bias`.

    Raises:
      UserError: other names than AdaptSegNet's or ADVENT's.
    """
    bare = {PREFIXES.sub("", name): array for name, array in arrays.items()}
    for modules in DISCRIMINATORS:
        ours = {f"{module}.{kind}": (j, kind) for j, module in enumerate(modules) for kind in ("weight", "bias")}
        if bare.keys() == ours.keys():
            return {f"discriminator.{level}.{j}.{kind}": bare[name] for name, (j, kind) in ours.items()}
    raise UserError(
        f"{source} is no published discriminator: it has {_some(bare)}; expected weight and bias of "
        f"{' or of '.join(', '.join(modules) for modules in DISCRIMINATORS)}"
    )


def architecture(arrays: Arrays, source: str) -> dict[str, Any]:
    """The settings of `config.model` that the shapes of arrays under our names tell.

    Raises:
      UserError: no backbone there, or one that is unknown here.
    """
    shapes = shapes_of(arrays)
    try:
        model = backbone_of(shapes)
    except UserError as e:
        raise UserError(f"{source} is {e}") from e
    if not model:
        raise UserError(
            f"{source} holds no backbone that is known here: it has {_some(arrays)}; expected torchvision's names "
            "(conv1.weight, layer1.0.conv1.weight, ... or features.0.weight, ...) or timm's of EfficientNet-Lite "
            "(conv_stem.weight, blocks.0.0.conv_dw.weight, ...)"
        )
    if head := head_of(shapes):
        head.pop("num_classes", None)  # the discriminators', too: a choice of the user's
        model |= head | {"two_levels": covers("aux_head", arrays)}
    return model


def discriminator(arrays: Arrays) -> dict[str, int]:
    """The settings of `config.discriminator` that the shapes tell, {} without a discriminator."""
    found = re.compile(r"discriminator\.(\w+)\.(\d+)\.weight")
    kernels = {int(m[2]): len(array) for name, array in arrays.items() if (m := found.fullmatch(name))}
    return {"width": kernels[0], "layers": len(kernels)} if 0 in kernels else {}


def style_of(kind: str, arrays: Arrays) -> dict[str, Any]:
    """The settings of a key of STYLES, {} for "", as far as they mean something to these arrays."""
    style = dict(STYLES.get(kind, {}))
    if kind in ("torchvision", "timm") and "conv_stem.weight" in arrays:
        style = dict(TIMM_LITE)
    if "layer1.0.conv3.weight" not in arrays:
        style.pop("stride_in_1x1", None)  # of bottlenecks alone
    return style


def recorded(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a file of ours says of its model, as the config holds it; what its shapes tell is left out.

    Raises:
      UserError: it says something of another kind than the config's.
    """
    ours, theirs = default_config().model, metadata["model"]
    if not isinstance(theirs, dict):
        raise UserError(f"the metadata says model={theirs!r}; expected settings by name")
    settings = {k: theirs[k] for k in (*UNSEEN, "num_classes") if k in theirs}
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    for key, value in settings.items():
        if type(value) is not type(ours[key]):
            raise UserError(f"the metadata says model.{key}={value!r}; expected something like {ours[key]!r}")
    return settings


def as_float32(arrays: Arrays) -> tuple[Arrays, set[str]]:
    """Half precision becomes float32; and the names of the arrays that had it."""
    half = {name for name, array in arrays.items() if array.dtype == np.float16}
    return {k: v.astype(np.float32) if k in half else v for k, v in arrays.items()}, half


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "") or "nothing"
