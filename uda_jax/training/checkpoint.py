"""Checkpoints of the whole training state, written in the background by Orbax, each with what it is of."""

import dataclasses
import importlib
import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from uda_jax.errors import UserError
from uda_jax.files import AnyPath
from uda_jax.paths import is_remote, to_path
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
        manager.save(step, args=ocp.args.StandardSave(_fields(state)), custom_metadata=about or {})


def restore(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """The newest checkpoint, placed as `state` (real or abstract arrays with shardings); `state` if there is none.

    Raises:
      UserError: the checkpoint does not fit the state, or cannot be read.
    """
    step = manager.latest_step()
    if step is None:
        return state
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _fields(state))
    try:
        return state.replace(**manager.restore(step, args=ocp.args.StandardRestore(abstract)))
    except Exception as e:  # Orbax raises many kinds, of cut-off data a plain Exception
        raise UserError(
            f"{manager.directory}/{step} cannot be restored: {reason(e)}\n"
            "If it is damaged, remove that directory to go on from the checkpoint before."
        ) from e


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
