"""Time and memory of one training step on random images; of several methods in turns, for a fair comparison.

    python -m benchmarks.step --config=configs/gta5_to_cityscapes_adaptsegnet.py --size=512x256 --steps=5
    python -m benchmarks.step --config=configs/gta5_to_cityscapes_apoda.py --methods=adaptsegnet,apoda --size=512x256
    python -m benchmarks.step --config=configs/laptop.py --against=PYTHON_WITH_TORCH

Prints of every method the compile time, the memory of the compiled step, and the median, minimum and maximum of the
steps after the first, in seconds and in seconds of CPU time, to which other programs on the machine matter less. With
several methods, also the ratios to the first one, as medians over rounds in which each takes a step. Of a method with a
warm-up, the step after it is timed.

--against races PyTorch, too: `benchmarks.torch_laptop`, a process that idles between its turns, at the config's size,
batch and number of classes. It always is the network of configs/laptop.py, trained on the source alone: only where the
numbers of parameters agree are the times those of the same work.
"""

import contextlib
import json
import resource
import statistics
import subprocess
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
from uda_jax.training.sharding import make_mesh, replicated, split_images, to_mesh
from uda_jax.training.state import create_state, make_constants
from uda_jax.training.step import jit_step, steps_key

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
METHOD_NAMES = flags.DEFINE_list("methods", [], "Methods to time with the config's networks; default: the config's.")
SIZE = flags.DEFINE_string("size", "", "WIDTHxHEIGHT of both domains; default: the config's crops, or sizes.")
STEPS = flags.DEFINE_integer("steps", 5, "Steps of each method to time.", lower_bound=1)
AGAINST = flags.DEFINE_string("against", "", "A Python that has PyTorch, whose step is raced, too.")
flags.mark_flag_as_required("config")

TWIN = Path(__file__).parent / "torch_laptop.py"


class Time(NamedTuple):
    seconds: float
    cpu_seconds: float  # of all threads of the process that takes the step


Run = Callable[[], Time]  # takes a step


def main() -> None:
    config = CONFIG.value
    if SIZE.value:
        for stream in (config.data.source, config.data.target):
            stream.update(size=parse_size(SIZE.value), crop=())
    methods = METHOD_NAMES.value or [config.method]
    with contextlib.ExitStack() as stack:
        twin = stack.enter_context(against(AGAINST.value, config, methods)) if AGAINST.value else {}
        runs = {}
        for method in methods:
            config.method = method
            check_config(config)
            runs[method] = prepare(config.copy_and_resolve_references())
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        print(f"{config.model.backbone}, {devices}, medians of {STEPS.value}")
        rounds = race(runs | twin, STEPS.value)
    for name, times in rounds.items():
        print(f"{name}: step {summary(times, next(iter(rounds.values())))}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.2f} GiB")


def prepare(config: ml_collections.ConfigDict) -> Run:
    """Compiles the step of `config` and returns a function that takes one, on the same batch every time."""
    mesh, networks = make_mesh(space=config.mesh.space), build_networks(config)
    state = jax.jit(lambda: create_state(config, networks), out_shardings=replicated(mesh))()
    state = state.replace(step=state.step + config[config.method].get("warmup_steps", 0))
    batch = to_mesh(random_batch(config), split_images(mesh))
    started = time.perf_counter()
    make = jax.jit(partial(make_constants, config, networks), out_shardings=replicated(mesh))
    constants = make(state.params, state.batch_stats)
    key = jax.jit(partial(steps_key, config), out_shardings=replicated(mesh))()
    step = jit_step(config, networks, mesh).lower(state, batch, constants, key).compile()
    compiled = time.perf_counter() - started
    memory = step.memory_analysis()
    temporary = f", temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB" if memory else ""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{config.method}: {parameters:,} parameters, compile {compiled:.1f} s{temporary}", flush=True)

    def run() -> Time:
        nonlocal state
        started = time.perf_counter(), time.process_time()
        state, metrics = step(state, batch, constants, key)
        jax.block_until_ready((state, metrics))
        return Time(time.perf_counter() - started[0], time.process_time() - started[1])

    return run


@contextlib.contextmanager
def against(python: str, config: ml_collections.ConfigDict, methods: Sequence[str]) -> Iterator[dict[str, Run]]:
    """Starts `TWIN` under that Python for a step of the config's shape: {its name: takes a step}.

    Raises:
      UserError: the methods take other steps than its own; the Python cannot be run, or has no PyTorch.
    """
    if list(methods) != ["source_only"]:
        raise UserError(
            f"--against: PyTorch's step is source_only's, not {' and '.join(methods)}'s; add --methods=source_only"
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
    _, height, width, _ = batch_of(config)["source_image"].shape
    options = [f"--size={width}x{height}", f"--batch={config.train.batch_size}"]
    options.append(f"--classes={config.model.num_classes}")
    twin = subprocess.Popen([python, str(TWIN), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer() -> dict[str, Any]:
        assert twin.stdout is not None
        line = twin.stdout.readline()
        if not line:
            raise UserError(f"--against={python}: ended with status {twin.wait()}; what it said is above")
        return json.loads(line)

    def run() -> Time:
        print(file=twin.stdin, flush=True)
        measured = answer()
        return Time(measured["seconds"], measured["cpu_seconds"])

    with twin:  # closes its input, at which it ends, and waits for it
        says = answer()
        name = f"torch {says['torch']}"
        print(f"{name}: {says['parameters']:,} parameters, {says['threads']} threads", flush=True)
        yield {name: run}


def random_batch(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """Noise with the shapes of the method's domains."""
    rng, classes = np.random.default_rng(0), config.model.num_classes
    return {
        name: rng.integers(0, classes if name.endswith("_label") else 256, x.shape, x.dtype)
        for name, x in batch_of(config).items()
    }


def race(runs: dict[str, Run], rounds: int) -> dict[str, list[Time]]:
    """Times of each run, one a round, in turns and in alternating order; a round before them is not counted."""
    times: dict[str, list[Time]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            times[name].append(runs[name]())
    return {name: measured[1:] for name, measured in times.items()}  # the first touches fresh memory


def summary(times: list[Time], first: list[Time]) -> str:
    """Median, minimum and maximum of both times, and of their ratios to the first run's."""
    parts = []
    for unit, ours, theirs in zip(("s", "CPU s"), zip(*times, strict=True), zip(*first, strict=True), strict=True):
        part = f"{spread(ours)} {unit}"
        if times is not first:
            part += f" = {spread([a / b for a, b in zip(ours, theirs, strict=True)])} x the first"
        parts.append(part)
    return "; ".join(parts)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    cli.run(main)
