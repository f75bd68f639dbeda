"""`python -m uda_jax.export --checkpoint=WORKDIR [--format=npz|safetensors] [--out=FILE] [--step=N]` writes the weights
of a training run to one file that needs nothing of this library to be read, and that `config.model.pretrained` takes.

docs/weights.md describes the file. Neither the run's data nor its devices are needed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

import uda_jax
from uda_jax import cli
from uda_jax.config import check_values, default_config, fill
from uda_jax.errors import UserError
from uda_jax.evaluation.selection import CHOICES, select_step
from uda_jax.files import AnyPath, sent
from uda_jax.methods import build_method
from uda_jax.models.networks import build_networks
from uda_jax.paths import to_path, user_path
from uda_jax.training import checkpoint
from uda_jax.training.state import TrainState, create_state
from uda_jax.weights import licences
from uda_jax.weights.arrays import SUFFIXES, check_suffix, write_arrays
from uda_jax.weights.trees import TREES, flatten, to_arrays


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2: the user can mend it)."""
    args = _parser().parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # leaves the accelerator to a run that may still be training

    def command() -> None:
        target = user_path(args.out, "--out") if args.out else None
        out = export(user_path(args.checkpoint, "--checkpoint"), args.format, target, args.step, args.select)
        print(f"wrote {out} ({out.stat().length / 1e6:.1f} MB)")

    return cli.answered(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m uda_jax.export", description="Writes a run's weights to one file.")
    parser.add_argument("--checkpoint", required=True, metavar="WORKDIR", help="the workdir of a training run")
    parser.add_argument(
        "--format", choices=[s[1:] for s in SUFFIXES], help="default: the suffix of --out, or npz without one"
    )
    parser.add_argument("--out", metavar="FILE", help="default: WORKDIR/weights-STEP.FORMAT")
    parser.add_argument("--step", type=int, help="which checkpoint; default: the newest")
    add_select(parser)
    return parser


def add_select(parser: argparse.ArgumentParser) -> None:
    """The flag of all commands that take a run's checkpoint."""
    parser.add_argument(
        "--select",
        default="last",
        metavar="SCORE",
        help=f"choose among a run's checkpoints by one of {', '.join(CHOICES)}",
    )


def export(
    workdir: epath.PathLike,
    format: str | None = None,
    out: epath.PathLike | None = None,
    step: int | None = None,
    select: str = "last",
) -> epath.Path:
    """Writes segmenter and discriminators of a run's checkpoint, with what it takes to use them; returns the file.

    Args:
      format: "npz" or "safetensors"; None for the suffix of `out`, or npz without one.
      out: None for WORKDIR/weights-STEP.FORMAT.
      step: None for the newest checkpoint, or what `select` chooses: see `find_step`.

    Raises:
      UserError: no run, no such checkpoint, one that does not fit the run's config, or a bad `format` or `out`.
    """
    workdir, out = to_path(workdir), to_path(out) if out else None
    suffix = f".{format}" if format else out.suffix if out else ".npz"
    if check_suffix(out or f"weights{suffix}").suffix != check_suffix(f"weights{suffix}").suffix:
        raise UserError(f"--out={out} has another suffix than --format={format}; leave one of them out")
    config = read_config(workdir)
    step = find_step(workdir, step, select)
    state = restore_weights(workdir, config, step)
    state = state.replace(**build_method(config, build_networks(config)).evaluated(state))
    out = out or workdir / f"weights-{step}{suffix}"
    with sent(out) as file:
        write_arrays(file, to_arrays(state), metadata_of(workdir, config, step))
    return out


def metadata_of(workdir: AnyPath, config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """What a user of the weights must know; docs/weights.md explains each entry."""
    model, about = config.model, checkpoint.read_about(workdir, step)
    return {
        "uda_jax": uda_jax.__version__,
        "method": config.method,
        "step": step,
        "num_classes": model.num_classes,
        "classes": class_names(workdir, step, model.num_classes),
        "ids": about.get("ids", {}),
        "sizes": {name: list(config.data[name].size) for name in ("source", "target", "eval")},
        "preprocessing": {"mean": list(model.mean), "std": list(model.std), "bgr": model.bgr},
        "model": json.loads(json.dumps(model.to_dict())),
        "discriminator": config.discriminator.to_dict(),
        "licence": licences.recorded(about) if model.pretrained else {},
    }


def class_names(workdir: AnyPath, step: int, num_classes: int) -> list[str]:
    """By train id, as the checkpoint of `step` has them.

    One from before checkpoints knew their classes has those of the run's evaluation, or before any numbers.
    """
    names = checkpoint.read_about(workdir, step).get("classes") or _evaluated_classes(workdir / "evaluation.json")
    return list(names) if len(names) == num_classes else [f"class {i}" for i in range(num_classes)]


def _evaluated_classes(path: AnyPath) -> list[str]:
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text()).get("classes", []))
    except (ValueError, AttributeError) as e:
        raise UserError(f"{path} is damaged ({e}); the same training command writes it anew") from e


def read_config(workdir: AnyPath) -> ml_collections.ConfigDict:
    """The config of a training run; settings that are newer than the run have their defaults.

    Raises:
      UserError: no run there, or its config is damaged or of a version that this one does not understand.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no training run: it has no config.json; name the --workdir of uda_jax.main")
    config = default_config()
    try:
        unknown = fill(config, json.loads(path.read_text()))
    except (ValueError, TypeError, AttributeError) as e:
        raise UserError(f"{path} is not the config of a run: {e}") from e
    # Settings of data and training that have gone since do not change what the weights are; others do.
    vital = [name for name in unknown if name.startswith(("model.", "discriminator."))]
    if vital:
        raise UserError(f"{path} has settings unknown to uda_jax {uda_jax.__version__}: {', '.join(vital)}")
    check_values(config)
    return config


def find_step(workdir: AnyPath, step: int | None = None, select: str = "last") -> int:
    """The newest step that has a checkpoint, `step` if it has one, or which `select` chooses: see `select_step`.

    Raises:
      UserError: there is none, none to select by, or both were given.
    """
    directory, found = workdir / "checkpoints", checkpoint.steps(workdir)
    if not found:
        raise UserError(f"{directory} holds no checkpoint yet; train.checkpoint_every says when a run writes one")
    if step is not None and step not in found:
        raise UserError(f"{directory} has no checkpoint of step {step}; there are {', '.join(map(str, found))}")
    if step is not None and select != "last":
        raise UserError(f"--step={step} and --select={select} each choose a checkpoint; leave one out")
    return select_step(workdir, select, found) if step is None else step


def restore_weights(workdir: AnyPath, config: ml_collections.ConfigDict, step: int) -> TrainState:
    """The run's state at a step with its weights as NumPy arrays, on whatever devices they were trained.

    All else in the state is abstract: the optimizers' part of a checkpoint is not read.

    Raises:
      UserError: the checkpoint cannot be read or is not one of `config`.
    """
    path = checkpoint.directory_of(workdir) / str(step) / "default"
    with jax.enable_x64(True):  # so that float64 runs have their own dtype
        state = jax.eval_shape(partial(create_state, config, build_networks(config)))
    handler = ocp.PyTreeCheckpointHandler()
    try:
        stored = handler.metadata(path).tree
        wanted = {tree: stored[tree] for tree in (*TREES, "memory") if stored.get(tree)}
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        restored = state.replace(**handler.restore(path, args=args))
    except Exception as e:  # as in `checkpoint.restore`
        what = f"{path.parent} cannot be restored: {checkpoint.reason(e)}"
        raise UserError(f"{what}\nAnother --step may be whole.") from e
    if wrong := checkpoint.changed(
        {tree: getattr(restored, tree) for tree in wanted}, checkpoint.read_about(workdir, step)
    ):
        raise UserError(
            f"{path.parent} is damaged: {', '.join(wrong)} are not the numbers that were saved. Another --step may be "
            "whole."
        )
    theirs, ours = ({path: x.shape for path, x in flatten(tree).items()} for tree in (restored, state))
    if theirs != ours:
        differing = [".".join(p) for p in theirs.keys() | ours.keys() if theirs.get(p) != ours.get(p)]
        raise UserError(
            f"{path.parent} does not fit {workdir}/config.json: {len(differing)} arrays, such as {min(differing)}, "
            "have another shape or are in one of them alone. Was config.json replaced?"
        )
    return restored


if __name__ == "__main__":
    sys.exit(main())
