"""Checkpoints of the whole training state, written in the background by Orbax, each with what it is of."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from uda_jax.errors import UserError


def make_manager(workdir: Path, keep: int = 3) -> ocp.CheckpointManager:
    """A manager of `workdir`/checkpoints that keeps the newest `keep` and saves asynchronously."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def steps(workdir: Path) -> list[int]:
    """The steps that `workdir` has whole checkpoints of, sorted."""
    directory = workdir / "checkpoints"
    return sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []


def save(manager: ocp.CheckpointManager, step: int, state: Any, about: dict[str, Any] | None = None) -> None:
    """Saves `state` as `step` unless that is there already.

    Args:
      about: what to keep beside it, as JSON has it; see `read_about`.
    """
    if step not in manager.all_steps():
        manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=about or {})


def restore(manager: ocp.CheckpointManager, state: Any) -> Any:
    """The newest checkpoint, placed as `state` (real or abstract arrays with shardings); `state` if there is none.

    Raises:
      UserError: the checkpoint does not fit the state, or cannot be read.
    """
    step = manager.latest_step()
    if step is None:
        return state
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    try:
        return manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except (ValueError, KeyError, FileNotFoundError) as e:
        raise UserError(
            f"{manager.directory}/{step} cannot be restored: {e}\n"
            "If it is damaged, remove that directory to go on from the checkpoint before."
        ) from e


def read_about(workdir: Path, step: int) -> dict[str, Any]:
    """What `save` was given beside the state of `step`; {} of a checkpoint from before there was such."""
    options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
    directory, handler = (workdir / "checkpoints").absolute(), ocp.StandardCheckpointHandler()
    with ocp.CheckpointManager(directory, options=options, item_handlers=handler) as manager:
        return dict(manager.metadata(step).custom_metadata or {})
