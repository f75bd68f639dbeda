"""Weights under PyTorch's names and layouts: the map from a state to them, and a file of them read into a state.

A file (see `uda_jax.weights.arrays`) may be a pretrained backbone, a converted checkpoint or an export of ours; all
use the names of docs/weights.md. Kernels are OIHW in a file and HWIO here; everything else is the same in both.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from uda_jax.errors import UserError
from uda_jax.files import fetched
from uda_jax.models.contract import Backbone, Head, Shapes
from uda_jax.models.segmenter import BACKBONES, HEADS, unused
from uda_jax.paths import user_path
from uda_jax.weights.arrays import read_arrays

Path_ = tuple[str, ...]

TREES = ("params", "batch_stats", "discriminator_params")  # the fields of a TrainState that are weights
HEAD_PARTS = ("head", "aux_head")
PARTS = (*HEAD_PARTS, "discriminator")  # first components of the names that are not the backbone's
TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}  # order of the axes of kernels, of dense layers and of convolutions
KINDS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_KNOWN: tuple[Mapping[str, Backbone | Head], ...] = (BACKBONES, HEADS)
PUBLISHED = {ours: name for known in _KNOWN for part in known.values() for ours, name in part.published.items()}
# Settings that the shapes of weights do not tell.
UNSEEN = ("stride_in_1x1", "mean", "std", "bgr", "dilations", "output_stride", "align_corners")
# Settings that weights without a head say nothing of: a backbone alone fits any output stride.
OF_HEADS = {"head", "two_levels", "num_classes", "output_stride", "align_corners"}.union(
    *(head.settings for head in HEADS.values())
)


def torch_name(path: Path_) -> str:
    """The published name of a parameter or statistic, inside its part of the model.

    >>> torch_name(("backbone", "layer1_0", "downsample_bn", "mean"))
    'layer1.0.downsample.1.running_mean'
    >>> torch_name(("backbone", "conv5_1", "kernel"))
    'features.24.weight'
    """
    modules = [PUBLISHED.get(module, module) for module in path[1:-1]]
    return ".".join([*modules, KINDS.get(path[-1], path[-1])])


def names(state: Any) -> dict[Path_, str]:
    """Name of every weight of a state by its path, ("params", "backbone", "conv1", "kernel") -> "conv1.weight".

    The map is one to one: turned round it is the way back.
    """
    paths = flatten(state)
    depth = Counter(level for level, _ in {path[1:3] for path in paths if path[0] == "discriminator_params"})

    def name(path: Path_) -> str:
        tree, *keys = path
        if tree == "discriminator_params":
            level, module, kind = keys
            place = depth[level] - 1 if module == "classifier" else int(module.removeprefix("conv")) - 1
            return f"discriminator.{level}.{place}.{KINDS.get(kind, kind)}"
        if keys[0] not in PARTS:
            return torch_name(tuple(keys))
        if len(keys) > 2:
            return f"{keys[0]}.{torch_name(tuple(keys))}"
        kind, branch = keys[1].split("_")  # of deeplab_v2
        return f"{keys[0]}.{branch}.{KINDS.get(kind, kind)}"

    return {path: name(path) for path in paths}


def flatten(state: Any) -> dict[Path_, Any]:
    """The weights of a state, abstract or real, by path; a path begins with the field of the state."""
    return {
        (tree, *path): leaf for tree in TREES for path, leaf in traverse_util.flatten_dict(getattr(state, tree)).items()
    }


def unflatten(state: Any, weights: Mapping[Path_, Any]) -> Any:
    """`state` with its weights replaced by those at the same paths: `flatten` turned round."""
    fields = {tree: {path[1:]: x for path, x in weights.items() if path[0] == tree} for tree in TREES}
    return state.replace(**{tree: traverse_util.unflatten_dict(flat) for tree, flat in fields.items()})


def to_arrays(state: Any) -> dict[str, np.ndarray]:
    """The weights of a state as a file holds them: by name, kernels OIHW, in their own dtypes."""
    weights = flatten(state)
    return {name: to_torch(np.asarray(weights[path])) for path, name in names(state).items()}


def shapes(state: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of `to_arrays`, from an abstract or real state."""
    weights = flatten(state)
    return {name: torch_shape(weights[path].shape) for path, name in names(state).items()}


def shapes_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's arrays."""
    return {name: array.shape for name, array in arrays.items()}


def backbone_of(shapes: Shapes) -> dict[str, Any]:
    """The settings of `config.model` that a backbone's shapes tell, {} if it is none that is known here.

    Raises:
      UserError: it is of a known kind, and of a size that is unknown here.
    """
    found = (recognised(shapes) for recognised in dict.fromkeys(b.recognised for b in BACKBONES.values()))
    return next(filter(None, found), {})


def head_of(shapes: Shapes, part: str = "head") -> dict[str, Any]:
    """The settings of `config.model` that the shapes of a part in HEAD_PARTS tell, {} if it is not there or unknown."""
    inside = {name.removeprefix(f"{part}."): shape for name, shape in shapes.items() if part_of(name) == part}
    found = (recognised(inside) for recognised in dict.fromkeys(h.recognised for h in HEADS.values()))
    return next(filter(None, found), {})


def to_torch(x: np.ndarray) -> np.ndarray:
    """HWIO kernels to OIHW and IO to OI; the rest as it is."""
    return x.transpose(_axes(x.ndim))


def from_torch(x: np.ndarray) -> np.ndarray:
    """OIHW kernels to HWIO and OI to IO; the rest as it is."""
    return x.transpose([_axes(x.ndim).index(i) for i in range(x.ndim)])


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in _axes(len(shape)))


def _axes(ndim: int) -> tuple[int, ...]:
    return TO_TORCH.get(ndim, tuple(range(ndim)))


def part_of(name: str) -> str:
    """The part of the model that a name belongs to: "backbone", "head", "aux_head" or "discriminator.<level>"."""
    first, *rest = name.split(".")
    if first == "discriminator" and rest:
        return f"{first}.{rest[0]}"
    return first if first in PARTS else "backbone"


def under(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a name is one of `prefixes` or lies under one: "head.0.weight" under "head", "head1" not."""
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


def covers(prefix: str, names: Iterable[str]) -> bool:
    """Whether any of the names is `prefix` or lies under it."""
    return any(under(name, [prefix]) for name in names)


class Match(NamedTuple):
    """How the arrays of a file fit a model, by name.

    Attributes:
      loaded: in both, of one shape.
      missing: the model has it, the file does not, although the file has something of that part.
      wrong: in both, but of another shape, or in the file alone where it tells another backbone; with the reason.
      fresh: the model's, and neither looked for nor missed: skipped, or a head or discriminator that no file must have.
      unused: the file's, for which the model has no use.
    """

    loaded: list[str]
    missing: list[str]
    wrong: dict[str, str]
    fresh: list[str]
    unused: list[str]


def match(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], skip: Iterable[str] = ()) -> Match:
    """Compares a file's arrays with the `shapes` of a model; names under `skip` count as not in the file."""
    skip = tuple(skip)
    theirs = {name: array for name, array in arrays.items() if not under(name, skip)}
    needed = {"backbone"} | {part_of(name) for name in theirs}
    loaded, missing, fresh = [], [], []
    wrong: dict[str, str] = {}
    for name, shape in wanted.items():
        if under(name, skip) or part_of(name) not in needed:
            fresh.append(name)
        elif name not in theirs:
            missing.append(name)
        elif problem := _problem(theirs[name], shape):
            wrong[name] = problem
        else:
            loaded.append(name)
    # A deeper network's file covers a shallower one: its further blocks tell.
    blocks = [name for name in theirs if name not in wanted and re.match(r"(layer\d+|blocks\.\d+)\.\d+\.", name)]
    wrong |= {name: "the model has no such block" for name in blocks if not name.endswith("num_batches_tracked")}
    unused = [name for name in arrays if name not in wrong and (name not in wanted or under(name, skip))]
    return Match(loaded, missing, wrong, fresh, unused)


def _problem(array: np.ndarray, shape: tuple[int, ...]) -> str:
    if array.shape != tuple(shape):
        return f"{array.shape}, expected {tuple(shape)}"
    if array.dtype.kind != "f":
        return f"{array.dtype}, expected floating point"
    return "" if np.isfinite(array).all() else "holds values that are not finite"


def load_pretrained(state: Any, file: str, model: Any = None, say: Callable[[str], None] = print) -> Any:
    """Replaces the weights of a TrainState by those of a file and says in a line what was taken.

    The file must hold the whole backbone. A head or discriminator is taken if the file has it, and keeps its fresh
    values if not. Arrays of another floating-point type are cast.

    Args:
      file: .npz or .safetensors with the names of docs/weights.md.
      model: `config.model`, for `pretrained_skip` (names under these prefixes keep their fresh values) and for the
        settings that the file says its weights want; None to skip nothing and compare no settings.

    Raises:
      UserError: no such file, a damaged one, or one that does not fit the model; says which arrays and what to set.
    """
    path = user_path(file, "--config.model.pretrained")
    file = str(path)
    if not path.is_file():
        raise UserError(f"no weights at {file}; set --config.model.pretrained to a file, or to '' for none")
    with fetched(path) as here:
        arrays, metadata = read_arrays(here)
    skip = () if model is None else tuple(model.pretrained_skip)
    wanted = shapes(state)
    check_skip(skip, [*arrays, *wanted], "config.model.pretrained_skip")
    found = match(arrays, wanted, skip)
    if found.missing or found.wrong:
        raise UserError(_misfit(file, found, arrays, wanted, skip))
    weights, loaded = flatten(state), set(found.loaded)
    for path, name in names(state).items():
        if name in loaded:
            ours = weights[path]
            weights[path] = _placed(from_torch(arrays[name]), ours)
    if jax.process_index() == 0:
        say("\n".join([summary(file, found, arrays), *_advice(file, loaded, metadata, model)]))
    return unflatten(state, weights)


def _placed(array: np.ndarray, ours: jax.Array) -> jax.Array:
    """An array on the devices of another, in its dtype; of several processes each places its part and asks nobody."""
    whole = np.asarray(array, ours.dtype)
    return jax.make_array_from_callback(whole.shape, ours.sharding, lambda index: whole[index])


def summary(file: str, found: Match, arrays: Mapping[str, np.ndarray]) -> str:
    """One line: how many arrays of which part were loaded, stayed fresh, were not used, and were cast."""
    line = f"{file}: loaded {len(found.loaded)} arrays: {_parts(found.loaded)}"
    if found.fresh:
        line += f"; fresh: {_parts(found.fresh)}"
    if found.unused:
        line += f"; unused: {_shown(found.unused, 3)}"
    half = sum(arrays[name].dtype == np.float16 for name in found.loaded)
    return line + (f"; {half} of them cast from float16" if half else "")


def report(found: Match) -> str:
    """Every name that does not fit or has no counterpart, a line each kind."""
    lines = [f"  loaded: {len(found.loaded)} ({_parts(found.loaded)})"]
    for kind in ("missing", "wrong", "unused"):
        what = getattr(found, kind)
        items = [f"{name}: {why}" for name, why in what.items()] if isinstance(what, dict) else what
        if items:
            lines.append(f"  {kind}: {len(items)} ({_shown(items, 8)})")
    return "\n".join(lines)


def _parts(names: Iterable[str]) -> str:
    """How many names each part has: "backbone 120, head 4"."""
    counts = Counter(part_of(name) for name in sorted(names, key=_rank))
    return ", ".join(f"{part} {count}" for part, count in counts.items()) or "none"


def _rank(name: str) -> int:
    """Sorts names by their parts: the backbone, the heads, the discriminators."""
    return ("backbone", *PARTS).index(part_of(name).split(".")[0])


def _shown(items: list[str], limit: int) -> str:
    more = f", and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _misfit(
    file: str,
    found: Match,
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    skip: tuple[str, ...],
) -> str:
    """What does not fit, why as far as it can be told, and the settings that would help."""
    lines = [f"{file} does not fit the networks of this run:", report(found), *other_heads(found, arrays, wanted)]
    bad = [*found.missing, *found.wrong]
    parts = dict.fromkeys(name.split(".")[0] for name in sorted(bad, key=_rank))
    if any(part_of(name) == "backbone" for name in bad):
        lines += _other_backbone(arrays, wanted)
    if any(part_of(name) == "backbone" for name in found.loaded):
        value = repr((*skip, *parts)).replace(" ", "")
        lines.append(f'To keep fresh values for what does not fit: --config.model.pretrained_skip="{value}"')
    return "\n".join(lines)


def _other_backbone(arrays: Mapping[str, np.ndarray], wanted: Shapes) -> list[str]:
    """A line of the settings in which the backbone of a file differs from the model's, if its shapes tell."""
    try:
        theirs, ours = backbone_of(shapes_of(arrays)), backbone_of(wanted)
    except UserError as e:
        return [f"The file is {e}."]
    flags = [f"--config.model.{key}={value}" for key, value in theirs.items() if ours.get(key) != value]
    return [f"By their shapes the weights want {' '.join(flags)}"] if flags else []


def other_heads(found: Match, arrays: Mapping[str, np.ndarray], wanted: Shapes) -> list[str]:
    """A line for every setting in which a head of a file differs from the model's, of those heads that do not fit."""
    lines = []
    bad = {part_of(name) for name in (*found.missing, *found.wrong)}
    for part in filter(bad.__contains__, HEAD_PARTS):
        theirs, ours = head_of(shapes_of(arrays), part), head_of(wanted, part)
        differing = {key: (theirs[key], ours[key]) for key in theirs if key in ours and theirs[key] != ours[key]}
        if classes := differing.pop("num_classes", None):
            lines.append(f"Its {part} has {classes[0]} classes, the model {classes[1]} (config.model.num_classes).")
        lines += [f"Its {part} wants config.model.{key}={a}, the model has {b}." for key, (a, b) in differing.items()]
    return lines


def check_skip(skip: Iterable[str], known: Iterable[str], setting: str) -> None:
    """Raises UserError for a prefix in `setting` that names nothing of what is known, in the file or in the model."""
    known = list(known)
    for prefix in skip:
        if prefix not in PARTS and not covers(prefix, known):
            parts = ", ".join(dict.fromkeys([*(name.split(".")[0] for name in known), *PARTS]))
            raise UserError(f"{setting} names {prefix!r}, which nothing begins with; known: {parts}")


def _advice(file: str, loaded: set[str], metadata: Mapping[str, Any], model: Any) -> list[str]:
    """A line for every setting of ours that differs from what the file's metadata says its weights were made with."""
    theirs = metadata.get("model")
    if model is None or not isinstance(theirs, dict):
        return []
    idle = {*unused(model), *(() if covers("head", loaded) else OF_HEADS)}
    if "layer1.0.conv3.weight" not in loaded:
        idle.add("stride_in_1x1")  # of bottlenecks alone
    keys = [key for key in UNSEEN if key in theirs and key not in idle]
    pairs = [(key, theirs[key], model[key]) for key in keys]
    pairs = [(key, a, list(b) if isinstance(b, tuple) else b) for key, a, b in pairs]  # as JSON has it
    return [f"note: {file} was made with model.{key}={a}, this run has {b}" for key, a, b in pairs if a != b]
