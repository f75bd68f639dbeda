"""Checkpoints of the whole training state, written in the background by Orbax, each with what it is of."""

import dataclasses
import importlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from uda_jax.errors import UserError
from uda_jax.files import AnyPath, entries, make_directory
from uda_jax.paths import is_remote, to_path
from uda_jax.training.processes import gathered
from uda_jax.training.state import TrainState

LONGEST = 500  # characters of an error of Orbax that are shown


def directory_of(workdir: AnyPath) -> epath.Path:
    """`workdir`/checkpoints as Orbax takes it, absolute.

    Raises:
      UserError: it is in Google's storage, and the client with which Orbax tells kinds of buckets is not installed.
    """
    if not is_remote(workdir):
        return to_path(os.path.abspath(workdir)) / "checkpoints"
    try:
        importlib.import_module("google.cloud.storage")
    except ImportError as e:
        raise UserError(
            f"{workdir}: checkpoints in gs:// need Google's client: pip install google-cloud-storage"
        ) from e
    return to_path(workdir) / "checkpoints"


def make_manager(workdir: AnyPath, keep: int = 3) -> ocp.CheckpointManager:
    """A manager of `workdir`/checkpoints that keeps the newest `keep` and saves asynchronously.

    Raises:
      UserError: an object store does not let it in.
    """
    directory = directory_of(workdir)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    try:
        return ocp.CheckpointManager(directory, options=options)
    except Exception as e:  # of Google's client, which has its own credentials and asks for the bucket's metadata
        if not is_remote(directory):
            raise
        raise UserError(f"{directory} cannot be opened: {reason(e)}") from e


@contextmanager
def writing(workdir: AnyPath) -> Iterator[None]:
    """Around a manager and its saves, which fail in the background: UserError where there was no room for one."""
    try:
        yield
    except Exception as error:  # of tensorstore, as a ValueError
        if not any(words in str(error) for words in ("No space left", "Disk quota exceeded")):
            raise
        raise UserError(
            f"{directory_of(workdir)}: no room for a checkpoint ({reason(error)}). Those before it are kept; make "
            "room, or lower config.train.keep, and start the same command again"
        ) from error


def steps(workdir: AnyPath) -> list[int]:
    """The steps that `workdir` has whole checkpoints of, sorted; raises UserError as `directory_of`."""
    directory = directory_of(workdir)
    return sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []


def save(manager: ocp.CheckpointManager, step: int, state: TrainState, about: dict[str, Any] | None = None) -> None:
    """Saves `state` as `step` unless that is there already.

    Args:
      about: what to keep beside it, as JSON has it; see `read_about`.
    """
    if step not in manager.all_steps():
        fields = _fields(state)
        beside = {**(about or {}), "checksums": checksums(fields)}
        manager.save(step, args=ocp.args.StandardSave(fields), custom_metadata=beside)


def checksums(trees: Mapping[str, Any]) -> dict[str, int]:
    """A number for each tree that nearly every change of its arrays changes: sums of CRC-32.

    What Orbax writes has no checksums of its own: of forty flipped bits, thirty-eight were restored as other numbers.
    """

    def of_leaf(path: Any, leaf: Any) -> int:
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        content = array.reshape(-1).view(np.uint8).data
        return zlib.crc32(content, zlib.crc32(f"{name} {array.dtype} {array.shape}".encode()))

    return {
        name: sum(of_leaf(path, leaf) for path, leaf in jax.tree.leaves_with_path(tree)) for name, tree in trees.items()
    }


def changed(trees: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """The trees that are not those of which `save` took the checksums in `about`, from `read_about`."""
    stored = about.get("checksums") or {}
    known = {name: tree for name, tree in trees.items() if name in stored}
    return [name for name, found in checksums(known).items() if found != stored[name]]


def restore(manager: ocp.CheckpointManager, state: TrainState, say: Callable[[str], None] = print) -> TrainState:
    """The newest checkpoint that is whole, placed as `state` (real or abstract arrays with shardings).

    Newer ones that are damaged are moved to damaged/, beside the manager's directory; `state` if there are none at all.

    Args:
      say: is told what was damaged.
    Raises:
      UserError: none of them fits the state and can be read; says why of the newest.
    """
    damaged: dict[int, UserError] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            restored = _restored(manager, state, step)
        except UserError as error:
            damaged[step] = error
            continue
        if damaged:
            _set_aside(manager, damaged, step, say)
        return restored
    if damaged:
        raise damaged[max(damaged)]
    return state


def _restored(manager: ocp.CheckpointManager, state: TrainState, step: int) -> TrainState:
    path, abstract = manager.directory / str(step), jax.tree.map(ocp.utils.to_shape_dtype_struct, _fields(state))
    try:
        fields = manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except Exception as e:  # Orbax raises many kinds, of cut-off data a plain Exception
        why = reason(e)
    else:
        wrong = changed(fields, read_about(manager.directory.parent, step))
        if not wrong:
            return state.replace(**fields)
        why = f"{', '.join(wrong)}: not the numbers that were saved"
    raise UserError(
        f"{path} cannot be restored: {why}\nNor can one before it, if there is any. If they are damaged, remove "
        f"{manager.directory} to begin anew."
    )


def _set_aside(
    manager: ocp.CheckpointManager, damaged: Mapping[int, UserError], whole: int, say: Callable[[str], None]
) -> None:
    place = manager.directory.parent / "damaged"
    if jax.process_index() == 0:
        make_directory(place)
        for step, error in damaged.items():
            number = sum(path.name.split("-")[0] == str(step) for path in entries(place))
            (manager.directory / str(step)).rename(place / (f"{step}-{number}" if number else str(step)))
            say(f"warning: {str(error).splitlines()[0]}; moved to {place}, going on from step {whole}")
    gathered("moved")
    manager.reload()


def _fields(state: TrainState) -> dict[str, Any]:
    """What is stored of a state: no memory that is empty, as checkpoints from before there was one have none."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: tree for name, tree in fields.items() if name != "memory" or jax.tree.leaves(tree)}


def reason(error: Exception) -> str:
    """What an error of Orbax says, without the pages on how the array is stored that may follow."""
    text = str(error).partition(" [tensorstore_spec=")[0].partition(". See full TensorStore details")[0]
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def read_about(workdir: AnyPath, step: int) -> dict[str, Any]:
    """What `save` was given beside the state of `step`; {} where that is lost, or from before there was such."""
    try:
        return dict(ocp.metadata.get_step_metadata(directory_of(workdir) / str(step)).custom_metadata or {})
    except ValueError:
        return {}
