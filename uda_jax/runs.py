"""A workdir: whose run it is and how far that has come.

    checkpoints/      the state; beside it the classes and the number of records of the data, versions, the licence of
                      the weights that it began with, and the clock
    config.json       the settings
    metrics.jsonl, tensorboard/, samples/
    run.json          times, versions, devices and sizes of a run that came to its end
    evaluation.json   the last evaluation of the whole split; written last, it says that the run is done

The first checkpoint claims a workdir; what a run leaves that ends before it is overwritten by the next one, whatever
its config. Process 0 alone writes, and everything but the logs whole.
"""

import hashlib
import importlib.metadata
import json
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from uda_jax.config import differences, path_of, stream_of
from uda_jax.data import pipeline
from uda_jax.errors import UserError
from uda_jax.files import AnyPath, fetched, to_json, write_whole
from uda_jax.methods import Stream, build_method
from uda_jax.models.networks import build_networks
from uda_jax.paths import user_path
from uda_jax.training import checkpoint
from uda_jax.weights import licences
from uda_jax.weights.arrays import read_metadata

VERSIONED = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def streams_of(config: ml_collections.ConfigDict) -> dict[str, Stream]:
    """What `config.method` reads."""
    return dict(build_method(config, build_networks(config)).streams)


def batch_of(config: ml_collections.ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batch of all processes that a step takes: see `methods.contract.Stream`."""
    batch: dict[str, jax.ShapeDtypeStruct] = {}
    for name, stream in streams_of(config).items():
        data = stream_of(config, name)
        shape = (config.train.batch_size, *(data.crop or data.size))
        batch |= {f"{name}_{view}": jax.ShapeDtypeStruct((*shape, 3), np.uint8) for view in stream.views}
        if stream.labels:
            batch[f"{name}_label"] = jax.ShapeDtypeStruct(shape, np.int32)
    return batch


def describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a run depends on besides its config: {"classes": names, "ids": {name: id in the scored set's label files},
    "records": {stream: count}, "versions": {...}}."""
    streams = {name: stream_of(config, name) for name in streams_of(config)}
    evaluated = pipeline.describe(config.data.dir, config.data.eval.dataset, config.data.eval.split)
    return {
        "classes": evaluated["classes"],
        "ids": evaluated["ids"],
        "records": {
            name: pipeline.describe(config.data.dir, stream.dataset, stream.split)["count"]
            for name, stream in streams.items()
        },
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
    }


def check_owner(workdir: AnyPath, config: ml_collections.ConfigDict, found: dict[str, Any]) -> dict[str, Any]:
    """Checks that a workdir is free, or this very run's; returns what its newest checkpoint says of it, {} if free.

    Args:
      found: from `describe`.
    Raises:
      UserError: it is a run's with another config, or on other data; names what differs.
    """
    steps = checkpoint.steps(workdir)
    if not steps:
        return {}
    path = workdir / "config.json"
    if path.exists():
        try:
            differing = differences(json.loads(path.read_text(encoding="utf-8")), config)
        except (ValueError, AttributeError) as e:  # no JSON, or no object
            raise UserError(f"{path} is not the config of a run ({e}); restore it or use another --workdir") from e
        if differing:
            raise UserError(
                f"{workdir} belongs to a run with another config:\n{differing}\n"
                "Use another --workdir, or the same settings to resume that run."
            )
    newest_first = (checkpoint.read_about(workdir, step) for step in reversed(steps))
    about = next(filter(None, newest_first), {})  # a damaged one may say nothing
    for name, count in about.get("records", {}).items():
        if found["records"].get(name, count) != count:
            raise UserError(
                f"{workdir} was trained on {count} images of {stream_of(config, name).dataset} ({path_of(name)}); now "
                f"{config.data.dir} has {found['records'][name]}: restore the data, or use another --workdir."
            )
    return about


def check_constants(workdir: AnyPath, before: dict[str, Any], constants: Any) -> dict[str, str]:
    """{"constants": a digest of what the method keeps frozen}, {} for nothing.

    Args:
      before: from `check_owner`.
    Raises:
      UserError: they are not those that the run was started with.
    """
    if not jax.tree.leaves(constants):
        return {}
    found = digest(constants)
    if before.get("constants", found) != found:
        raise UserError(
            f"{workdir}: the frozen networks of its method come out unlike those that it was started with; "
            "restore the file of config.model.pretrained"
        )
    return {"constants": found}


def digest(tree: Any) -> str:
    """SHA-256 of a tree's arrays and their places."""
    sha = hashlib.sha256()
    for path, array in jax.tree.leaves_with_path(tree):
        sha.update(jax.tree_util.keystr(path).encode() + np.asarray(array).tobytes())
    return sha.hexdigest()


def licence(config: ml_collections.ConfigDict, before: dict[str, Any]) -> dict[str, Any]:
    """{"licence": that of the weights which the run started from, see `weights.licences`}, {} for a run from scratch.

    Args:
      before: from `check_owner`: a run that goes on keeps what it began with, and needs the file no longer.
    """
    if not config.model.pretrained:
        return {}
    file = user_path(config.model.pretrained, "--config.model.pretrained")
    if not before and file.is_file():
        with fetched(file) as here:
            return {"licence": licences.recorded(read_metadata(here))}
    return {"licence": licences.recorded(before)}


def claim(workdir: AnyPath, config: ml_collections.ConfigDict) -> None:
    """Writes config.json, to be called before a checkpoint is; only the first one's counts.

    Scores in a workdir without checkpoints are those of a run that was there before: they are removed.
    """
    path = workdir / "config.json"
    if jax.process_index() == 0 and not (path.exists() and checkpoint.steps(workdir)):
        for name in ("evaluation.json", "run.json"):
            (workdir / name).unlink(missing_ok=True)
        write_whole(path, to_json(config.to_dict(), indent=2) + "\n")


def finished(workdir: AnyPath, steps: int) -> dict[str, Any] | None:
    """The evaluation of a run that was trained for `steps` or longer and scored; None if that is still to be done.

    It must be of the newest checkpoint, not of one that was removed since.
    """
    done = checkpoint.steps(workdir)
    try:
        evaluation = json.loads((workdir / "evaluation.json").read_text(encoding="utf-8"))
        return evaluation if done and steps <= done[-1] == evaluation["step"] else None
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one: it is made again
        return None


def clock(before: dict[str, Any], started: float, trained: bool = True) -> dict[str, float]:
    """{"wall_s", "train_s"}: seconds of this run, by all its processes.

    Args:
      before: what the checkpoint that this process goes on from says.
      started: when it began, or its training ended, from time.perf_counter().
      trained: whether it has trained since.
    """
    since = time.perf_counter() - started
    return {
        "wall_s": before.get("wall_s", 0.0) + since,
        "train_s": before.get("train_s", 0.0) + (since if trained else 0.0),
    }


def write_run(workdir: AnyPath, about: dict[str, Any], state: Any) -> None:
    """run.json of a run that is done.

    Args:
      about: what its last checkpoint says, with "wall_s" and "train_s" of all its processes.
    """

    def size(tree: Any) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    run = {
        "wall_s": round(about["wall_s"], 1),
        "train_s": round(about["train_s"], 1),
        "versions": about["versions"],
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "parameters": {"segmenter": size(state.params), "discriminators": size(state.discriminator_params)},
    }
    write_whole(workdir / "run.json", to_json(run, indent=1) + "\n")
