"""Time and memory of one training step on random images; of several methods in turns, for a fair comparison.

    python -m benchmarks.step --config=configs/gta5_to_cityscapes_adaptsegnet.py --size=512x256 --steps=5
    python -m benchmarks.step --config=configs/gta5_to_cityscapes_apoda.py --methods=adaptsegnet,apoda --size=512x256
    python -m benchmarks.step --config=configs/laptop.py --against=PYTHON_WITH_TORCH

Prints of every method the compile time, the memory of the compiled step, and the median, minimum and maximum of the
steps after the first, in seconds and in seconds of CPU time, to which other programs on the machine matter less. With
several methods, also the ratios to the first one, as medians over rounds in which each takes a step. Of a method with a
warm-up, the step after it is timed.

--against races PyTorch, too, a process that idles between its turns, at the config's size, batch and number of classes:
`benchmarks.torch_laptop` against source_only, which always is the network of configs/laptop.py, or
`benchmarks.torch_adaptsegnet` against adaptsegnet, which always is the published one. Only where the numbers of
parameters agree are the times those of the same work. The latter starts from our weights, on our images: the losses of
both first steps are printed, and must agree.
"""

import contextlib
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from data_prep.build import parse_size
from uda_jax import cli
from uda_jax.config import check_config
from uda_jax.errors import UserError
from uda_jax.models.networks import build_networks
from uda_jax.runs import batch_of
from uda_jax.training import malloc
from uda_jax.training.sharding import make_mesh, replicated, split_images, to_mesh
from uda_jax.training.state import create_state, make_constants
from uda_jax.training.step import jit_step, steps_key
from uda_jax.weights.trees import to_arrays

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
METHOD_NAMES = flags.DEFINE_list("methods", [], "Methods to time with the config's networks; default: the config's.")
SIZE = flags.DEFINE_string("size", "", "WIDTHxHEIGHT of both domains; default: the config's crops, or sizes.")
STEPS = flags.DEFINE_integer("steps", 5, "Steps of each method to time.", lower_bound=1)
AGAINST = flags.DEFINE_string("against", "", "A Python that has PyTorch, whose step is raced, too.")
flags.mark_flag_as_required("config")

LOSSES_AGREE = 1e-3  # relative, in float32


class Twin(NamedTuple):
    """A step in PyTorch: a script beside this file, and whether it can start from our weights."""

    script: str
    takes_weights: bool


TWINS = {"source_only": Twin("torch_laptop.py", False), "adaptsegnet": Twin("torch_adaptsegnet.py", True)}


class Taken(NamedTuple):
    """A step's times, its loss, and the most memory that its process had till then."""

    seconds: float
    cpu_seconds: float  # of all threads of the process
    loss: float
    peak_gib: float


Run = Callable[[], Taken]  # takes a step


def main() -> None:
    config = CONFIG.value
    if SIZE.value:
        for stream in (config.data.source, config.data.target):
            stream.update(size=parse_size(SIZE.value), crop=())
    methods = METHOD_NAMES.value or [config.method]
    twin = twin_of(methods, AGAINST.value) if AGAINST.value else None
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        equal = Path(directory) / "equal.npz" if twin and twin.takes_weights else None
        runs = {}
        for method in methods:
            config.method = method
            check_config(config)
            runs[method] = prepare(config.copy_and_resolve_references(), equal)
        if twin:
            runs |= stack.enter_context(against(AGAINST.value, config, twin, equal))
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        print(f"{config.model.backbone}, {devices}, medians of {STEPS.value}")
        first, *rounds = race(runs, STEPS.value + 1)  # the first touches fresh memory
    if equal:
        print(losses_agree({name: taken.loss for name, taken in first.items()}))
    for name in first:
        print(f"{name}: step {summary([r[name] for r in rounds], [r[methods[0]] for r in rounds])}")
        print(f"{name}: peak memory of its process {rounds[-1][name].peak_gib:.2f} GiB")


def prepare(config: ml_collections.ConfigDict, equal: Path | None = None) -> Run:
    """Compiles the step of `config` and returns a function that takes one, on the same batch every time.

    Args:
      equal: a file for the weights and the batch that it starts with.
    """
    mesh, networks = make_mesh(space=config.mesh.space), build_networks(config)
    state = jax.jit(lambda: create_state(config, networks), out_shardings=replicated(mesh))()
    state = state.replace(step=state.step + config[config.method].get("warmup_steps", 0))
    images = random_batch(config)
    if equal:
        np.savez(equal, **to_arrays(state), **{f"batch.{name}": x for name, x in images.items()})
    batch = to_mesh(images, split_images(mesh))
    started = time.perf_counter()
    make = jax.jit(partial(make_constants, config, networks), out_shardings=replicated(mesh))
    constants = make(state.params, state.batch_stats)
    key = jax.jit(partial(steps_key, config), out_shardings=replicated(mesh))()
    step = jit_step(config, networks, mesh).lower(state, batch, constants, key).compile()
    compiled = time.perf_counter() - started
    malloc.trim()  # as the training loop does
    memory = step.memory_analysis()
    temporary = f", temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB" if memory else ""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{config.method}: {parameters:,} parameters, compile {compiled:.1f} s{temporary}", flush=True)

    def run() -> Taken:
        nonlocal state
        started = time.perf_counter(), time.process_time()
        state, metrics = step(state, batch, constants, key)
        jax.block_until_ready((state, metrics))
        times = time.perf_counter() - started[0], time.process_time() - started[1]
        return Taken(*times, float(metrics["loss"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)

    return run


def twin_of(methods: Sequence[str], python: str) -> Twin:
    """What a method is raced with.

    Raises:
      UserError: the methods take other steps than there are; the Python cannot be run, or has no PyTorch.
    """
    if len(methods) != 1 or methods[0] not in TWINS:
        raise UserError(
            f"--against: PyTorch's steps are those of {' and '.join(TWINS)}, not {' and '.join(methods)}'s; add "
            f"--methods={' or --methods='.join(TWINS)}"
        )
    try:
        found = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"--against={python}: cannot be run ({error.strerror})") from error
    if found.returncode:
        said = (found.stderr.strip() or f"status {found.returncode}").splitlines()[-1]
        raise UserError(
            f"--against={python}: cannot import torch ({said}); give a Python that PyTorch is installed for"
        )
    return TWINS[methods[0]]


@contextlib.contextmanager
def against(
    python: str, config: ml_collections.ConfigDict, twin: Twin, equal: Path | None = None
) -> Iterator[dict[str, Run]]:
    """Starts a twin under that Python for a step of the config's shape: {its name: takes a step}.

    Args:
      equal: what `prepare` wrote, for it to start with.
    Raises:
      UserError: it ends early.
    """
    _, height, width, _ = batch_of(config)["source_image"].shape
    options = [f"--size={width}x{height}", f"--batch={config.train.batch_size}"]
    options += [f"--classes={config.model.num_classes}", *([f"--equal={equal}"] if equal else [])]
    command = [python, str(Path(__file__).parent / twin.script), *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer() -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise UserError(f"--against={python}: ended with status {process.wait()}; what it said is above")
        return json.loads(line)

    def run() -> Taken:
        print(file=process.stdin, flush=True)
        return Taken(**answer())

    with process:  # closes its input, at which it ends, and waits for it
        says = answer()
        name = f"torch {says['torch']}"
        print(f"{name}: {says['parameters']:,} parameters, {says['threads']} threads", flush=True)
        yield {name: run}


def losses_agree(losses: dict[str, float]) -> str:
    """What two steps from equal weights lost.

    Raises:
      UserError: they differ by more than rounding.
    """
    said = ", ".join(f"{name} {loss:.6f}" for name, loss in losses.items())
    ours, theirs = losses.values()
    if not abs(ours - theirs) <= LOSSES_AGREE * abs(theirs):
        raise UserError(f"losses from equal weights differ: {said}; these are not the same step")
    return f"losses from equal weights: {said}"


def random_batch(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """Noise with the shapes of the method's domains."""
    rng, classes = np.random.default_rng(0), config.model.num_classes
    return {
        name: rng.integers(0, classes if name.endswith("_label") else 256, x.shape, x.dtype)
        for name, x in batch_of(config).items()
    }


def race(runs: dict[str, Run], rounds: int) -> list[dict[str, Taken]]:
    """What each run took, of each round: one step a round, in turns and in alternating order."""
    taken = []
    for i in range(rounds):
        order = list(runs)[:: 1 if i % 2 else -1]
        measured = {name: runs[name]() for name in order}
        taken.append({name: measured[name] for name in runs})
    return taken


def summary(taken: list[Taken], first: list[Taken]) -> str:
    """Median, minimum and maximum of both times, and of their ratios to the first run's."""
    parts = []
    for field, unit in (("seconds", "s"), ("cpu_seconds", "CPU s")):
        ours, theirs = ([getattr(each, field) for each in run] for run in (taken, first))
        part = f"{spread(ours)} {unit}"
        if ours != theirs:
            part += f" = {spread([a / b for a, b in zip(ours, theirs, strict=True)])} x the first"
        parts.append(part)
    return "; ".join(parts)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    cli.run(main)
