"""Where weights come from: a file, a download or a package -> arrays under our names and the settings they want."""

import difflib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uda_jax.errors import UserError
from uda_jax.files import AnyPath, fetched
from uda_jax.paths import is_remote, to_path, user_path
from uda_jax.weights import licences
from uda_jax.weights.arrays import SUFFIXES, Arrays, read_arrays
from uda_jax.weights.efficientnet import PACKAGES, packaged
from uda_jax.weights.keras import NETWORKS, read_keras, read_keras_file
from uda_jax.weights.names import STYLES, is_caffe, is_lite, is_published, our_names, recorded, style_of
from uda_jax.weights.torch_file import LEGACY_START, read_torch

KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
TENSORFLOW_SUFFIXES = (".index", ".meta", ".ckpt", ".pb", ".data-00000-of-00001")
# What a file that is none of these begins with.
STRANGERS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"<": "a web page (did the download fail?)",
    b"version https://git-lfs": "a git-lfs pointer to the file, not the file",
    b"\x80": "a pickle, but not one of PyTorch's",
}

Source = tuple[Arrays, dict[str, Any], dict[str, Any]]


def read_source(source: str, published_needs_kind: bool) -> Source:
    """Arrays under our names, the file's metadata, and the settings of `config.model` that their origin implies.

    Metadata that say no licence get that of the origin.

    Args:
      published_needs_kind: whether a published segmenter's file must be called adaptsegnet: or advent:, since nothing
        else says which of its branches count.

    Raises:
      UserError: an unknown source, or a file that cannot be read.
    """
    kind, rest = parse_source(source)
    if kind == "keras":
        arrays = read_keras(rest)
        return arrays, {"licence": licences.of_origin(f"{kind}:{rest}")}, style_of(kind, arrays)
    theirs, metadata = read_file(to_path(rest))
    metadata = {"licence": licences.of_origin(source if source in PACKAGES else kind), **metadata}
    arrays = our_names(theirs, rest)
    if not kind and "model" in metadata:
        return arrays, metadata, recorded(metadata)
    if not kind and is_published(theirs) and published_needs_kind:
        raise UserError(
            f"{rest} is a published segmenter, and its names do not tell how many of its branches are summed: say "
            f"--from=adaptsegnet:{rest} (dilations 6 and 12) or --from=advent:{rest} (all four), or give a --config"
        )
    return arrays, metadata, style_of(kind or _kind(to_path(rest), theirs), arrays)


def _kind(path: AnyPath, names: Iterable[str]) -> str:
    """The likely origin of a file of which nothing is said; "" where nothing tells."""
    if path.suffix in KERAS_SUFFIXES:
        return "keras"
    if is_published(names) or is_caffe(names):
        return "caffe"
    if is_lite(names):
        return "efficientnet_lite"
    return "" if path.suffix == ".npz" else "torchvision"


def parse_source(source: str) -> tuple[str, str]:
    """(kind or "", file or Keras' name of a network).

    Raises:
      UserError: an unknown kind, network or file, with the nearest known one; or a package that is not installed.
    """
    if source in PACKAGES:
        return "efficientnet_lite", str(packaged(source))
    kind, colon, rest = source.partition(":")
    if kind in STYLES and rest:
        rest = str(user_path(rest, "--from"))
    else:
        source = str(user_path(source, "--from"))
    if not colon or is_remote(source) or to_path(source).exists():
        kind, rest = "", source
    if kind and kind not in STYLES:
        raise UserError(f"--from={source}: {kind!r} is unknown; known are {', '.join(STYLES)}{_nearest(kind, STYLES)}")
    networks = {name.lower(): name for name in NETWORKS}
    if kind == "keras" and rest.lower() in networks:
        return kind, networks[rest.lower()]
    if kind == "keras" and not to_path(rest).exists():
        near = _nearest(rest, NETWORKS)
        raise UserError(f"--from={source}: {rest} is no network of {', '.join(NETWORKS)} and no file{near}")
    if not to_path(rest).exists():
        near = _nearest(rest, [*PACKAGES, *(f"keras:{name}" for name in NETWORKS)])
        raise UserError(f"--from={source}: there is no file {rest}{near}")
    return "" if kind == "keras" else kind, rest


def read_file(path: AnyPath) -> tuple[Arrays, dict[str, Any]]:
    """Every array of a file under its own name (Keras': torchvision's), and its metadata.

    Raises:
      UserError: no such file, damaged, or of a kind that is not known.
    """
    if path.is_dir() or path.suffix in TENSORFLOW_SUFFIXES:
        raise UserError(f"{path} looks like a TensorFlow checkpoint; of Keras, .h5 and .keras files can be read")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with fetched(path) as here:
        return _read_here(here)


def _read_here(path: Path) -> tuple[Arrays, dict[str, Any]]:
    if path.suffix in SUFFIXES:
        return read_arrays(path)
    with path.open("rb") as file:
        start = file.read(64)
    if path.suffix in KERAS_SUFFIXES:
        return read_keras_file(path), {}
    if start.startswith(LEGACY_START[:4]) or zipfile.is_zipfile(path) or start.startswith(b"PK"):
        return read_torch(path), {}
    what = next((what for magic, what in STRANGERS.items() if start.startswith(magic)), "nothing that is known")
    raise UserError(f"{path} is {what}; expected .pth, .pt, .bin, .safetensors, .npz, .h5 or .keras")


def _nearest(word: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""
