"""Checkpoints of the whole training state, written in the background by Orbax, each with what it is of."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from uda_jax.errors import UserError
from uda_jax.training.state import TrainState

LONGEST = 500  # characters of an error of Orbax that are shown


def make_manager(workdir: Path, keep: int = 3) -> ocp.CheckpointManager:
    """A manager of `workdir`/checkpoints that keeps the newest `keep` and saves asynchronously."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def steps(workdir: Path) -> list[int]:
    """The steps that `workdir` has whole checkpoints of, sorted."""
    directory = workdir / "checkpoints"
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


def read_about(workdir: Path, step: int) -> dict[str, Any]:
    """What `save` was given beside the state of `step`; {} where that is lost, or from before there was such."""
    try:
        return dict(ocp.metadata.get_step_metadata(workdir / "checkpoints" / str(step)).custom_metadata or {})
    except ValueError:
        return {}
