"""The default config, which is also the documentation of every setting, and the checks on it."""

import difflib
import math
import re
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from uda_jax.errors import UserError
from uda_jax.methods import METHODS, few_labels
from uda_jax.models import networks, segmenter
from uda_jax.training import optimizers

TRAINED_ON = ("source", "target", "oracle")  # the streams of config.data besides "eval"
CHOICES = {
    f"{section}.{name}": names
    for section, choices in (("model", networks.CHOICES), ("optimizer", optimizers.CHOICES))
    for name, names in choices.items()
} | {f"data.{stream}.sampling": ("uniform", "rare_class") for stream in TRAINED_ON}
INFINITE = float("inf")
RARE = {  # settings of a stream that sampling "rare_class" alone reads
    "rare_temperature": (1e-6, INFINITE),  # shares are divided by it
    "rare_pixels": (0, INFINITE),
    "rare_crop_ratio": (0, INFINITE),
}
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (-(2**31), 2**31 - 1),  # JAX takes 32 bits of it
    "model.num_classes": (1, 255),
    "model.width": (1, INFINITE),
    "model.stem_width": (1, INFINITE),
    "model.head_width": (1, INFINITE),
    "model.dropout": (0, 0.999),
    "model.drop_path": (0, 0.999),
    "discriminator.width": (1, INFINITE),
    "discriminator.layers": (1, 16),
    "few_labels.weight": (0, INFINITE),
    "optimizer.learning_rate": (0, INFINITE),
    "optimizer.head_multiplier": (0, INFINITE),
    "optimizer.momentum": (0, 1),
    "optimizer.weight_decay": (0, INFINITE),
    "optimizer.discriminator_learning_rate": (0, INFINITE),
    "optimizer.adamw_b1": (0, 0.999999),  # Adam divides by 1 - b
    "optimizer.adamw_b2": (0, 0.999999),
    "optimizer.warmup_steps": (0, INFINITE),
    "optimizer.warmup_start": (0, 1),
    "optimizer.discriminator_b1": (0, 0.999999),
    "optimizer.discriminator_b2": (0, 0.999999),
    "optimizer.schedule_steps": (1, INFINITE),
    "optimizer.power": (0, INFINITE),
    "mesh.space": (1, INFINITE),
    "train.steps": (0, INFINITE),
    "train.accumulate": (1, INFINITE),
    "train.log_every": (1, INFINITE),
    "train.eval_every": (1, INFINITE),
    "train.checkpoint_every": (1, INFINITE),
    "train.keep": (1, INFINITE),
    "eval.limit": (0, INFINITE),
    "eval.samples": (0, INFINITE),
    "eval.unlabelled": (0, INFINITE),
    **{f"data.{stream}.{name}": bounds for stream in TRAINED_ON for name, bounds in RARE.items()},
}
# Settings that a run may be resumed with although they differ: they do not change what a step computes.
FREE_TO_CHANGE = (
    "train.steps", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep",
    "data.dir", "data.eval.", "data.oracle.", "eval.", "mesh.",
)  # fmt: skip


def default_config() -> ConfigDict:
    """The published AdaptSegNet networks and optimizers; a file in configs/ says the rest and locks nothing more.

    Sizes are (height, width). The config is locked: setting an unknown name fails with the nearest right one.
    """
    config = ConfigDict()
    config.seed = 0
    config.method = "adaptsegnet"
    for name, method in METHODS.items():
        config[name] = method.default_config()
    config.few_labels = ConfigDict(
        {
            # Of data.oracle's set: labelled images that any method learns from too, such as "train[:10]"; "" for none.
            "split": "",
            "weight": 1.0,  # of their cross entropy
        }
    )
    config.model = _model()
    config.discriminator = ConfigDict({"width": 64, "layers": 5})
    config.optimizer = _optimizer()
    config.data = _data()
    config.mesh = ConfigDict(
        {
            # Devices that share an image, by its rows; the others, in groups of so many, share the batch: docs/pods.md.
            "space": 1,
            # Told the TPU's compiler. A chip's one image is not cut into a batch of strips: docs/performance.md.
            "tpu_options": (
                "xla_tpu_run_space_to_batch=false",
                "xla_tpu_run_space_to_batch_on_new_platforms=false",
            ),
        }
    )
    config.train = ConfigDict(
        {
            "steps": 150_000,
            "batch_size": 1,  # images of each domain in a step, over all devices
            "accumulate": 1,  # parts that a batch is worked off in: less memory, more time; see step.accumulated
            "log_every": 50,
            "eval_every": 5_000,
            "checkpoint_every": 2_500,
            "keep": 3,  # checkpoints
        }
    )
    config.eval = ConfigDict(
        {
            "batch_size": 1,
            "limit": 0,  # images scored during training, 0 for all; the last evaluation always takes all
            "classes": (),  # train ids that the mean is over; () for those that occur
            "samples": 4,  # images whose predictions are kept as pictures
            # Scores that need no target labels, at every evaluation: see uda_jax/evaluation/unlabelled.py.
            "unlabelled": 0,  # images of data.target that they are of, 0 for none
            "source_split": "",  # of data.source.dataset, with labels: mIoU on it; "" for none
        }
    )
    return config.lock()


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "num_classes": 19,
            "backbone": "resnet101",
            "head": "deeplab_v2",
            "stem": "imagenet",
            "stem_width": 64,
            "width": 64,
            "stride_in_1x1": True,  # as in Caffe's weights; False as in torchvision's
            "norm": "batch",  # "frozen" normalises with the running statistics
            "affine": "frozen",  # "train" learns batch norm's scale and bias
            "init": "normal",  # N(0, 0.01); "he" to train from scratch
            "output_stride": 16,  # of efficientnet_lite: 32 as published for classification
            "dilations": (6, 12),  # of deeplab_v2; the published one returns early: of (6, 12, 18, 24) it sums two
            "head_width": 256,  # channels, of daformer
            "head_norm": "batch",  # as norm, of daformer's own
            "dropout": 0.1,  # share of channels dropped before the classifier, of daformer
            "drop_path": 0.1,  # share of images for which the last block is left out, of mit
            "align_corners": True,  # of the logits' bilinear resize; False in DAFormer and what follows it
            "two_levels": True,
            "mean": (122.67891434, 116.66876762, 104.00698793),  # RGB, 0..255
            "std": (1.0, 1.0, 1.0),
            "bgr": True,
            "pretrained": "",  # .npz or .safetensors with the names of docs/weights.md
            "pretrained_skip": (),  # parts that keep fresh values although the file has them, such as ("head",)
            "remat": False,  # recompute blocks in the backward pass: less memory, more time
            # Of activations: "bfloat16" on accelerators ("float64" needs JAX_ENABLE_X64=1). Losses, statistics and sums
            # are in float32 or better.
            "dtype": "float32",
            "param_dtype": "float32",
            # Of float32 products: with "default" TPUs round their factors to bfloat16 and recent NVIDIA GPUs to TF32
            # (10 bits). "high" keeps about 16 bits on TPU, "highest" all 24 everywhere: slower.
            "precision": "default",
        }
    )


def _optimizer() -> ConfigDict:
    return ConfigDict(
        {
            "name": "sgd",  # or "adamw"
            "learning_rate": 2.5e-4,
            "head_multiplier": 10.0,
            # (pattern, factor on rate, factor on weight decay) by path, such as (".*/bias", 1.0, 0.0); they come
            # before the heads' own, and the first whose pattern matches counts.
            "groups": (),
            "momentum": 0.9,  # of sgd
            "adamw_b1": 0.9,
            "adamw_b2": 0.999,
            "weight_decay": 5e-4,
            "variant": "dedup",  # the published list of parameters: see `optimizers.listed_sgd`
            "discriminator_learning_rate": 1e-4,
            "discriminator_b1": 0.9,
            "discriminator_b2": 0.99,
            "warmup_steps": 0,  # in which a factor rises from warmup_start to 1
            "warmup_start": 1e-6,
            "schedule_steps": 250_000,  # where the poly schedule reaches zero; train.steps may stop earlier
            "power": 0.9,
        }
    )


def _data() -> ConfigDict:
    stream = {
        "dataset": "streets/rendered",  # or several sets of the same classes, as in "gta5+synthia"
        "weights": (),  # how often each of several is drawn from; () is by size
        "split": "train",
        "size": (720, 1280),
        "crop": (),  # (height, width) of a random crop
        "scale": (1.0, 1.0),  # range of a random scale before the crop
        "flip": False,
        "jitter": 0.0,  # strength of random colours, 0..1
        "dct_scaling": False,  # shrink JPEGs stored at twice `size` or more while decoding: faster, other pixels
        "sampling": "uniform",  # "rare_class" draws a class, the rarer the likelier, and then an image that shows it
        "rare_temperature": 0.01,  # the lower, the more the rarest classes are preferred
        "rare_pixels": 3000,  # an image shows a class if its label, as stored, has more pixels of it
        "rare_crop_ratio": 0.5,  # crops with more than this share of rare_pixels are sought; 0 takes any
    }
    evaluation = {"dataset": "streets/camera", "split": "val", "size": (512, 1024), "label_size": ()}
    return ConfigDict(
        {
            "dir": "data",
            "source": dict(stream),
            "target": {**stream, "dataset": "streets/camera", "size": (512, 1024)},
            # the target with its labels: read by the oracle, and for config.few_labels
            "oracle": {**stream, "dataset": "streets/camera", "size": (512, 1024)},
            "eval": evaluation,
        }
    )


def get(config: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        config = config[name]
    return config


def stream_of(config: ConfigDict, name: str) -> ConfigDict:
    """The settings of a stream that a method reads: those of `config.data`, and "labelled", of `config.few_labels`.

    The few are drawn one as often as another: of ten images none may show enough of a rare class to be drawn for it.
    """
    if name != few_labels.STREAM:
        return config.data[name]
    stream = config.data.oracle.copy_and_resolve_references()
    stream.update(sampling="uniform", split=config.few_labels.split)
    return stream


def path_of(name: str) -> str:
    """Where the config has the data set of a stream."""
    return "config.data.oracle" if name == few_labels.STREAM else f"config.data.{name}"


def fill(config: ConfigDict, stored: dict[str, Any], prefix: str = "") -> list[str]:
    """Sets what is stored, as JSON has it; returns the dotted names that the config does not have."""
    unknown = []
    for key, value in stored.items():
        if key not in config:
            unknown.append(prefix + key)
        elif isinstance(config[key], ConfigDict):
            unknown += fill(config[key], value, f"{prefix}{key}.")
        else:
            config[key] = value
    return unknown


def check_config(config: ConfigDict) -> None:
    """Raises UserError for the first setting whose value cannot work or does nothing, with the way out."""
    _check_names(config)
    check_values(config)
    _check_idle(config)
    count, least = config.model.num_classes, getattr(METHODS[config.method], "LEAST_CLASSES", 1)
    if count < least:
        raise UserError(f"config.model.num_classes={count}: config.method={config.method!r} needs {least} or more")
    classes = config.eval.classes
    if not _are(int, classes) or len(set(classes)) < len(classes):
        raise UserError(f"config.eval.classes={classes}: expected train ids, each once, such as (0, 1, 13)")
    for name in (*TRAINED_ON, "eval"):
        _check_stream(config.data[name], f"config.data.{name}")
    _check_model(config.model)
    for option in config.mesh.tpu_options:
        if not re.fullmatch(r"\w+=\S+", str(option)):
            raise UserError(f"config.mesh.tpu_options: {option!r}: expected name=value, such as xla_tpu_x=false")
    _check_optimizer(config.optimizer)
    if config.train.batch_size % config.train.accumulate:
        raise UserError(
            f"config.train.accumulate={config.train.accumulate} does not divide config.train.batch_size="
            f"{config.train.batch_size} into equal parts"
        )
    if config.train.steps > config.optimizer.schedule_steps:
        raise UserError(
            f"config.train.steps={config.train.steps} goes beyond the end of the learning-rate schedule, "
            f"config.optimizer.schedule_steps={config.optimizer.schedule_steps}: after it the rate is zero. "
            "Raise schedule_steps as well, or train for fewer steps."
        )


def _check_names(config: ConfigDict) -> None:
    """A config that was not made from the default one may lack settings, or have some that nothing reads."""
    ours, theirs = flatten(default_config()).keys(), flatten(config).keys()
    for problem, names in (("lacks", ours - theirs), ("has settings unknown here,", theirs - ours)):
        if names:
            raise UserError(
                f"the config {problem} {', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}; let its "
                "get_config() change what uda_jax.config.default_config() returns"
            )


def check_values(config: ConfigDict) -> None:
    """Raises UserError for the first setting that is none of its choices, out of its bounds or not finite."""
    for path, choices in ({"method": tuple(METHODS)} | CHOICES | _of_methods("CHOICES")).items():
        value = get(config, path)
        if value not in choices:
            near = difflib.get_close_matches(str(value), map(str, choices), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"config.{path}={value!r} is not one of {', '.join(map(str, choices))}{hint}")
    for path, (least, most) in (BOUNDS | _of_methods("BOUNDS")).items():
        value = get(config, path)
        if not least <= value <= most:
            bounds = f"at least {least}" if most == INFINITE else f"{least} to {most}"
            raise UserError(f"config.{path}={value} must be {bounds}")
    for path, value in flatten(config).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"config.{path}={value}: expected finite numbers")


def _are(kind: type, values: Any) -> bool:
    """Whether all are numbers of a kind, int or float, which takes ints too; Python's booleans are ints."""
    kinds = (int, float) if kind is float else kind
    return all(isinstance(value, kinds) and not isinstance(value, bool) for value in values)


def _of_methods(table: str) -> dict[str, Any]:
    """The entries of the methods' tables of that name, by dotted path."""
    tables = {name: getattr(method, table, {}) for name, method in METHODS.items()}
    return {f"{name}.{key}": entry for name, entries in tables.items() for key, entry in entries.items()}


def idle(config: ConfigDict) -> dict[str, str]:
    """Settings that do nothing beside what was chosen elsewhere: dotted path -> that choice.

    What only methods read that were not chosen is none of them: one flag changes the method of a config.
    """
    model, method, optimizer = config.model, config[config.method], config.optimizer
    found = {f"model.{key}": f"config.model.{part}={model[part]!r}" for key, part in segmenter.unused(model).items()}
    other = ("momentum", "variant") if optimizer.name == "adamw" else ("adamw_b1", "adamw_b2")
    found |= {f"optimizer.{key}": f"config.optimizer.name={optimizer.name!r}" for key in other}
    if not model.two_levels:
        paths = [f"{config.method}.{key}" for key in method if key.endswith("_aux")]
        found |= dict.fromkeys(paths, "config.model.two_levels=False")
    if not config.few_labels.split:
        found["few_labels.weight"] = "config.few_labels.split=''"
    for name in TRAINED_ON:
        sampling = config.data[name].sampling
        unread = ("weights",) if sampling == "rare_class" else tuple(RARE)
        found |= {f"data.{name}.{key}": f"config.data.{name}.sampling={sampling!r}" for key in unread}
    return found


def _check_idle(config: ConfigDict) -> None:
    default = default_config()
    for path, choice in idle(config).items():
        value, usual = get(config, path), get(default, path)
        if value != usual:
            raise UserError(
                f"config.{path}={value!r} does nothing with {choice}; leave it at {usual!r}, or change that"
            )


def _check_stream(stream: ConfigDict, name: str) -> None:
    for key in ("size", "crop", "label_size"):
        value = tuple(stream.get(key, ()))
        if (value or key == "size") and (len(value) != 2 or not _are(int, value) or min(value) < 1):
            raise UserError(f"{name}.{key}={value}: expected (height, width) in pixels")
    scale = tuple(stream.get("scale", (1.0, 1.0)))
    if len(scale) != 2 or not _are(float, scale) or not 0 < scale[0] <= scale[1]:
        raise UserError(f"{name}.scale={scale}: expected (smallest, largest), both above 0, such as (0.5, 1.5)")
    weights, sets = tuple(stream.get("weights", ())), stream.dataset.split("+")
    if weights and (len(weights) != len(sets) or not _are(float, weights) or min(weights) <= 0):
        raise UserError(f"{name}.weights={weights}: expected a number above 0 for each of {', '.join(sets)}, or ()")
    if "crop" in stream:
        crop, largest = tuple(stream.crop or stream.size), tuple(round(side * scale[1]) for side in stream.size)
        if crop[0] > largest[0] or crop[1] > largest[1]:
            raise UserError(
                f"{name}.crop={crop} (size, where there is none) is larger than any image: of size={stream.size} and "
                f"scale={scale} they are {largest} at most, and all would be padded; choose a smaller crop"
            )
        _check_sought(stream, name, crop)
    if not 0 <= stream.get("jitter", 0.0) <= 1:
        raise UserError(f"{name}.jitter={stream.jitter} must be 0..1")


def _check_sought(stream: ConfigDict, name: str, crop: tuple[int, int]) -> None:
    """Crops that are sought in vain would be drawn eleven times each and be no other than any."""
    sought, varied = stream.rare_pixels * stream.rare_crop_ratio, crop != tuple(stream.size) or stream.scale[1] > 1
    if stream.sampling == "rare_class" and varied and sought >= crop[0] * crop[1]:
        raise UserError(
            f"{name}: rare_pixels={stream.rare_pixels} times rare_crop_ratio={stream.rare_crop_ratio} are all pixels "
            f"of crop={crop} or more, so no crop could show a class well enough; lower rare_crop_ratio, or set it to 0 "
            "to take any crop"
        )


def _check_model(model: ConfigDict) -> None:
    if model.pretrained_skip and not model.pretrained:
        raise UserError(f"config.model.pretrained_skip={model.pretrained_skip} does nothing without model.pretrained")
    if not model.dilations or not _are(int, model.dilations) or min(model.dilations) < 1:
        raise UserError(f"config.model.dilations={model.dilations}: expected one or more rates of 1 or more")
    if not len(model.mean) == len(model.std) == 3 or not _are(float, (*model.mean, *model.std)) or min(model.std) <= 0:
        raise UserError(f"config.model.mean={model.mean} and std={model.std}: expected three numbers each, std above 0")


def _check_optimizer(optimizer: ConfigDict) -> None:
    for rule in optimizer.groups:
        if len(rule) != 3 or not isinstance(rule[0], str) or min(rule[1:]) < 0:
            raise UserError(f"config.optimizer.groups: {rule!r}, expected (pattern, rate factor, weight decay factor)")


def check_x64(model: ConfigDict) -> None:
    """Raises UserError where float64 is asked for and JAX would make float32 of it."""
    if "float64" in (model.dtype, model.param_dtype) and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise UserError(
            f"config.model.dtype={model.dtype!r} with param_dtype={model.param_dtype!r}: JAX makes float32 of float64 "
            "unless it is started with it: set JAX_ENABLE_X64=1 in the environment"
        )


def flatten(config: Any) -> dict[str, Any]:
    """Dotted path -> value, with tuples as lists as JSON has them."""
    tree = config.to_dict() if isinstance(config, ConfigDict) else dict(config.items())
    flat = traverse_util.flatten_dict(tree, sep=".")
    return {path: list(value) if isinstance(value, tuple) else value for path, value in flat.items()}


def differences(stored: dict[str, Any], config: ConfigDict) -> str:
    """The settings in which a stored config and this one differ, a line each; "" if one can be resumed as the other.

    Settings that do not change what a step computes may differ, those that only other methods read, and those that are
    `idle`. A run from before a setting existed had what is now its default.
    """
    theirs, ours = flatten(default_config()) | flatten(stored), flatten(config)
    free = FREE_TO_CHANGE + tuple(f"{name}." for name in METHODS if name != config.method)
    if config.few_labels.split:
        free = tuple(name for name in free if name != "data.oracle.")
    if "gan" not in config[config.method]:  # every method that has discriminators says what they minimise
        free += ("discriminator.", "optimizer.discriminator_")
    unlike = {k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k)} - idle(config).keys()
    differing = sorted(k for k in unlike if not k.startswith(free))
    return "\n".join(f"  {k}: {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in differing)
