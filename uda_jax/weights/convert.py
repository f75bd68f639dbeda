"""Turns weights from elsewhere into a file for --config.model.pretrained, and says what fits.

  python -m uda_jax.weights --from=keras:ResNet101 --to=weights/resnet101.npz
  python -m uda_jax.weights --from=torchvision:resnet50.pth --to=weights/resnet50.npz
  python -m uda_jax.weights --from=efficientnet_lite0 --to=weights/efficientnet_lite0.npz
  python -m uda_jax.weights --from=adaptsegnet:GTA2Cityscapes_multi.pth --to=weights/published.safetensors

A source is a file (.pth, .pt, .bin, .safetensors, .npz, .h5, .keras), or keras:ResNet50, keras:ResNet101,
keras:ResNet152 or keras:VGG16 for a download, or efficientnet_lite0, from an installed package. A word before a file
says whose it is, and so which input and which settings its weights want: torchvision: and timm: (assumed for a file
with their names), efficientnet_lite: (for one with those of the package), caffe: (stride in the first 1x1, BGR),
adaptsegnet: and advent: (published segmenters). docs/weights.md tells more.
"""

import argparse
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from uda_jax import cli
from uda_jax.config import check_config, default_config
from uda_jax.errors import UserError
from uda_jax.files import sent
from uda_jax.models.networks import build_networks
from uda_jax.models.segmenter import BACKBONES
from uda_jax.paths import local, user_path
from uda_jax.training.state import create_state
from uda_jax.weights import licences, names, sources, trees
from uda_jax.weights.arrays import Arrays, check_suffix, write_arrays

Shapes = dict[str, tuple[int, ...]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2: the user can mend it)."""
    args = _parser().parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # leaves the accelerator to whoever uses it
    paths = args.source, args.to, args.config, args.discriminator, args.discriminator_aux
    return cli.answered(lambda: print(cli.printable(convert(*paths, args.skip))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m uda_jax.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from", dest="source", required=True, metavar="[KIND:]FILE|keras:NAME|efficientnet_lite0", help="the weights"
    )
    parser.add_argument("--to", required=True, metavar="FILE", help=".npz or .safetensors to write")
    parser.add_argument(
        "--config", metavar="FILE.py", help="the experiment whose model they are for; default: whatever they fit"
    )
    parser.add_argument("--discriminator", metavar="FILE", help="published discriminator of the main head, to merge in")
    parser.add_argument("--discriminator_aux", metavar="FILE", help="published discriminator of the auxiliary head")
    parser.add_argument(
        "--skip",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=(),
        metavar="PREFIX[,PREFIX]",
        help="leave out what lies under these names, such as head,aux_head",
    )
    return parser


def convert(
    source: str,
    to: str,
    config_file: str | None = None,
    discriminator: str | None = None,
    discriminator_aux: str | None = None,
    skip: tuple[str, ...] = (),
) -> str:
    """Writes what of `source` fits a model to `to`, and returns the report.

    Args:
      source: "[KIND:]FILE", "keras:NAME" or "efficientnet_lite0".
      to: .npz or .safetensors.
      config_file: the model; None takes backbone, widths and levels from the arrays and the rest from the defaults.
      discriminator, discriminator_aux: files of the two levels' discriminators.
      skip: prefixes of our names to leave out.

    Raises:
      UserError: unreadable input, a backbone that is not there in full or not the model's, or parts that do not fit.
    """
    target = user_path(to, "--to")
    to = str(target)
    check_suffix(to)
    given = {"--discriminator": discriminator, "--discriminator_aux": discriminator_aux}
    files = {flag: user_path(file, flag) for flag, file in given.items() if file}
    arrays, metadata, style = sources.read_source(source, published_needs_kind=config_file is None)
    licence = licences.taken_in(metadata, source, merged=bool(files))
    for flag, file in files.items():
        level = "aux" if flag.endswith("_aux") else "main"
        arrays |= names.our_discriminator(sources.read_file(file)[0], level, str(file))
    arrays, halves = names.as_float32(arrays)
    shapes_say = names.architecture(arrays, source)
    model = shapes_say | style
    config = config_of_file(config_file) if config_file else config_for(model, arrays)
    own = BACKBONES[model["backbone"]].own
    if not any(trees.covers(module, arrays) for module in own):
        skip = (*skip, *own)  # a classifier's are layers of another size, if it has any
    wanted = trees.shapes(jax.eval_shape(functools.partial(create_state, config, build_networks(config))))
    trees.check_skip(skip, [*arrays, *wanted], "--skip")
    found = trees.match(arrays, wanted, skip)
    if found.missing or found.wrong or not found.loaded:
        raise UserError(_misfit(source, found, arrays, wanted, _differing(shapes_say, config.model)))
    kept = {name: arrays[name] for name in found.loaded}
    model = _settings(model, kept, wanted, skip)
    _check_dilations(source, model, config)
    stored = {**metadata.get("model", {}), **model}
    with sent(target) as here:
        write_arrays(here, kept, {"source": source, **metadata, "licence": licence, "model": stored})
    base = config if config_file else default_config()
    lines = _lines("model", _differing(model, base.model) | {"pretrained": to})
    lines += _lines("discriminator", _differing(names.discriminator(kept), base.discriminator))
    return _report(source, to, licence, found, sum(name in halves for name in kept), lines)


def config_of_file(file: str) -> ConfigDict:
    """`get_config()` of a file of configs/.

    Raises:
      UserError: no such file, no config there, or settings that cannot work.
    """
    file = str(local(file, "--config"))
    spec = importlib.util.spec_from_file_location("chosen_config", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise UserError(f"--config={file}: there is no such Python file; see configs/")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={file} has no get_config(); see configs/")
    config = module.get_config()
    check_config(config)
    return config


def config_for(model: dict[str, Any], arrays: Arrays) -> ConfigDict:
    """The default config with these settings of its model, and with the discriminator's that the arrays tell."""
    config = default_config()
    config.model.update(model)
    config.discriminator.update(names.discriminator(arrays))
    return config


def _settings(model: dict[str, Any], kept: Arrays, wanted: Shapes, skip: tuple[str, ...]) -> dict[str, Any]:
    """The settings that the arrays kept want: those of heads go with the heads, and gaps must be named again later."""
    heads = [part for part in trees.HEAD_PARTS if trees.covers(part, kept)]
    settings = {k: v for k, v in model.items() if k != "num_classes" and (heads or k not in trees.OF_HEADS)}
    if heads:
        settings["two_levels"] = "aux_head" in heads
        if classes := trees.head_of(trees.shapes_of(kept), heads[0]).get("num_classes"):  # not without a classifier
            settings["num_classes"] = classes
    gaps = trees.match(kept, wanted).missing
    again = tuple(prefix for prefix in skip if trees.covers(prefix, gaps))
    return settings | ({"pretrained_skip": again} if again else {})


def _check_dilations(source: str, model: dict[str, Any], config: ConfigDict) -> None:
    theirs, ours = model.get("dilations"), tuple(config.model.dilations)
    if theirs not in (None, ours):
        raise UserError(
            f"the heads of {source} sum branches of dilations {theirs}, those of the --config {ours}: with these "
            "weights they would compute something else. Choose a config with the same, or --skip=head,aux_head"
        )


def _differing(settings: dict[str, Any], section: ConfigDict) -> dict[str, Any]:
    """The settings that have another value in a section of the config."""
    return {k: v for k, v in settings.items() if section[k] != v}


def _misfit(source: str, found: trees.Match, arrays: Arrays, wanted: Shapes, other: dict[str, Any]) -> str:
    """What does not fit, and the ways out; `other` are settings that the shapes contradict."""
    lines = [f"{source} does not fit the model; nothing was written:", trees.report(found)]
    bad = [*found.missing, *found.wrong]
    if other and any(trees.part_of(name) == "backbone" for name in bad):
        lines.append(f"By their shapes the weights want {' '.join(_lines('model', other))}")
    if heads := trees.other_heads(found, arrays, wanted):
        lines += [*heads, "Heads of other settings need a --config."]
    tops = dict.fromkeys(map(_top, bad or arrays))
    lines.append(f"To leave out what does not fit: --skip={','.join(tops)}" if bad else "Everything is skipped.")
    return "\n".join(lines)


def _report(
    source: str, to: str, licence: licences.Licence, found: trees.Match, halves: int, settings: list[str]
) -> str:
    """What was written, under which licence, and the settings to train with."""
    lines = [f"{to}, from {source}:", *(f"  {line}" for line in licences.lines(licence)), trees.report(found)]
    if found.fresh:
        lines.append(f"  fresh, not from this file: {', '.join(dict.fromkeys(map(_top, found.fresh)))}")
    if halves:
        lines.append(f"  cast: {halves} arrays from float16 to float32")
    return "\n".join([*lines, "Train with", *(f"  {line}" for line in settings)])


def _top(name: str) -> str:
    """The prefix under which a report mentions a name: a part, or a module of the backbone."""
    part = trees.part_of(name)
    return name.split(".")[0] if part == "backbone" else part


def _lines(section: str, settings: dict[str, Any]) -> list[str]:
    """Settings as a user types them."""
    texts = {k: f'"{v}"' if isinstance(v, tuple) else str(v) for k, v in settings.items()}
    return [f"--config.{section}.{k}={text}" for k, text in texts.items()]
