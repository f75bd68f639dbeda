"""The default config, which is also the documentation of every setting, and the checks on it."""

import difflib
import json
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from uda_jax.errors import UserError
from uda_jax.methods import METHODS

CHOICES = {
    "method": tuple(METHODS),
    "model.backbone": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16"),
    "model.stem": ("imagenet", "small"),
    "model.norm": ("batch", "frozen"),
    "model.affine": ("train", "frozen"),
    "model.init": ("normal", "he"),
    "model.dtype": ("float32", "bfloat16", "float64"),
    "model.param_dtype": ("float32", "float64"),
    "optimizer.variant": ("dedup", "torch2", "legacy"),
    "adaptsegnet.gan": ("vanilla", "least_squares"),
    "advent.gan": ("vanilla", "least_squares"),
} | {f"apoda.{name}": choices for name, choices in METHODS["apoda"].CHOICES.items()}
# Settings that a run may be resumed with although they differ: they do not change what a step computes.
FREE_TO_CHANGE = ("train.steps", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep")


def default_config() -> ConfigDict:
    """The published AdaptSegNet networks and optimizers; a file in configs/ says the rest and locks nothing more.

    Sizes are (height, width). The config is locked: setting an unknown name fails with the nearest right one.
    """
    config = ConfigDict()
    config.seed = 0
    config.method = "adaptsegnet"
    for name, method in METHODS.items():
        config[name] = method.default_config()
    config.model = _model()
    config.discriminator = ConfigDict({"width": 64, "layers": 5})
    config.optimizer = _optimizer()
    config.data = _data()
    config.train = ConfigDict(
        {
            "steps": 150_000,
            "batch_size": 1,  # images of each domain in a step, over all devices
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
        }
    )
    return config.lock()


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "num_classes": 19,
            "backbone": "resnet101",
            "stem": "imagenet",
            "stem_width": 64,
            "width": 64,
            "stride_in_1x1": True,  # as in Caffe's weights; False as in torchvision's
            "norm": "batch",  # "frozen" normalises with the running statistics
            "affine": "frozen",  # "train" learns batch norm's scale and bias
            "init": "normal",  # N(0, 0.01); "he" to train from scratch
            "dilations": (6, 12),  # the published head returns early: of (6, 12, 18, 24) only two are summed
            "two_levels": True,
            "mean": (122.67891434, 116.66876762, 104.00698793),  # RGB, 0..255
            "std": (1.0, 1.0, 1.0),
            "bgr": True,
            "pretrained": "",  # .npz or .safetensors with the names of docs/weights.md
            "pretrained_skip": (),  # parts that keep fresh values although the file has them, such as ("head",)
            "remat": False,  # recompute blocks in the backward pass: less memory, more time
            "dtype": "float32",
            "param_dtype": "float32",
        }
    )


def _optimizer() -> ConfigDict:
    return ConfigDict(
        {
            "learning_rate": 2.5e-4,
            "head_multiplier": 10.0,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "variant": "dedup",  # the published list of parameters: see `optimizers.listed_sgd`
            "discriminator_learning_rate": 1e-4,
            "discriminator_b1": 0.9,
            "discriminator_b2": 0.99,
            "schedule_steps": 250_000,  # where the poly schedule reaches zero; train.steps may stop earlier
            "power": 0.9,
        }
    )


def _data() -> ConfigDict:
    stream = {
        "dataset": "streets/rendered",
        "split": "train",
        "size": (720, 1280),
        "crop": (),  # (height, width) of a random crop
        "scale": (1.0, 1.0),  # range of a random scale before the crop
        "flip": False,
        "jitter": 0.0,  # strength of random colours, 0..1
        "dct_scaling": False,  # shrink JPEGs stored at twice `size` or more while decoding: faster, other pixels
    }
    evaluation = {"dataset": "streets/camera", "split": "val", "size": (512, 1024), "label_size": ()}
    return ConfigDict(
        {
            "dir": "data",
            "shuffle_buffer": 1024,
            "source": dict(stream),
            "target": {**stream, "dataset": "streets/camera", "size": (512, 1024)},
            # the target with its labels: read by the oracle alone
            "oracle": {**stream, "dataset": "streets/camera", "size": (512, 1024)},
            "eval": evaluation,
        }
    )


def get(config: Any, path: str) -> Any:
    """The value at a dotted path."""
    for name in path.split("."):
        config = config[name]
    return config


def check_config(config: ConfigDict) -> None:
    """Raises UserError for the first setting whose value cannot work, with the choices or the nearest name."""
    for path, choices in CHOICES.items():
        value = get(config, path)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"config.{path}={value!r} is not one of {', '.join(choices)}{hint}")
    for path in ("train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep", "model.width"):
        if get(config, path) < 1:
            raise UserError(f"config.{path}={get(config, path)} must be at least 1")
    if config.train.steps > config.optimizer.schedule_steps:
        raise UserError(
            f"config.train.steps={config.train.steps} goes beyond the end of the learning-rate schedule, "
            f"config.optimizer.schedule_steps={config.optimizer.schedule_steps}: after it the rate is zero. "
            "Raise schedule_steps as well, or train for fewer steps."
        )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value, with tuples as lists as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json into a new workdir, or checks that the workdir's run is this one.

    Settings of methods that the run does not use may differ.

    Raises:
      UserError: the workdir belongs to a run with another config; names what differs.
    """
    path = workdir / "config.json"
    if path.exists():
        try:
            # A run from before a setting existed had what is now its default.
            theirs = flatten(default_config()) | flatten(json.loads(path.read_text()))
        except json.JSONDecodeError as e:
            raise UserError(f"{path} is not valid JSON ({e}); restore it or use another --workdir") from e
        ours = flatten(config)
        idle = FREE_TO_CHANGE + tuple(f"{name}." for name in METHODS if name != config.method)
        differing = sorted(
            k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k) and not k.startswith(idle)
        )
        if differing:
            lines = "\n".join(f"  {k}: {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in differing)
            raise UserError(
                f"{workdir} belongs to a run with another config:\n{lines}\n"
                "Use another --workdir, or the same settings to resume that run."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config.to_dict(), indent=2, default=list) + "\n")
