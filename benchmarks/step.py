"""Time and memory of one training step on random images; of several methods in turns, for a fair comparison.

    python -m benchmarks.step --config=configs/gta5_to_cityscapes_adaptsegnet.py --size=512x256 --steps=5
    python -m benchmarks.step --config=configs/gta5_to_cityscapes_apoda.py --methods=adaptsegnet,apoda --size=512x256

Prints of every method the compile time, the memory of the compiled step, and the median, minimum and maximum of the
steps after the first, in seconds and in seconds of CPU time, to which other programs on the machine matter less. With
several methods, also the ratios to the first one, as medians over rounds in which each takes a step. Of a method with a
warm-up, the step after it is timed.
"""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from absl import flags
from ml_collections import config_flags

from data_prep.build import parse_size
from uda_jax import cli
from uda_jax.config import check_config
from uda_jax.models.networks import build_networks
from uda_jax.runs import streams_of
from uda_jax.training.loop import jit_step
from uda_jax.training.sharding import make_mesh, replicated, split_batch
from uda_jax.training.state import create_state

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
METHOD_NAMES = flags.DEFINE_list("methods", [], "Methods to time with the config's networks; default: the config's.")
SIZE = flags.DEFINE_string("size", "", "WIDTHxHEIGHT of both domains; default: the config's.")
STEPS = flags.DEFINE_integer("steps", 5, "Steps of each method to time.", lower_bound=1)
flags.mark_flag_as_required("config")


def main() -> None:
    config = CONFIG.value
    if SIZE.value:
        config.data.source.size = config.data.target.size = parse_size(SIZE.value)
    runs = {}
    for method in METHOD_NAMES.value or [config.method]:
        config.method = method
        check_config(config)
        runs[method] = prepare(config.copy_and_resolve_references())
    print(f"{config.model.backbone}, {jax.device_count()} x {jax.devices()[0].device_kind}, medians of {STEPS.value}")
    rounds = race(runs, STEPS.value)
    for method, times in rounds.items():
        print(f"{method}: step {summary(times, next(iter(rounds.values())))}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.2f} GiB")


def prepare(config: ml_collections.ConfigDict) -> Callable[[], None]:
    """Compiles the step of `config` and returns a function that takes one, on the same batch every time."""
    mesh, networks = make_mesh(), build_networks(config)
    state = jax.jit(lambda: create_state(config, networks), out_shardings=replicated(mesh))()
    state = state.replace(step=state.step + config[config.method].get("warmup_steps", 0))
    batch = jax.device_put(random_batch(config), split_batch(mesh))
    started = time.perf_counter()
    constants: dict[str, Any] = {}
    step = jit_step(config, networks, mesh).lower(state, batch, constants).compile()
    compiled = time.perf_counter() - started
    memory = step.memory_analysis()
    temporary = f", temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB" if memory else ""
    print(f"{config.method}: compile {compiled:.1f} s{temporary}", flush=True)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch, constants)
        jax.block_until_ready((state, metrics))

    return run


def random_batch(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Noise with the shapes of the method's domains."""
    batch = {}
    for name, stream in streams_of(config).items():
        shape = (config.train.batch_size, *config.data[name].size)
        for view in stream.views:
            batch[f"{name}_{view}"] = jax.random.randint(jax.random.key(0), (*shape, 3), 0, 256).astype(jnp.uint8)
        if stream.labels:
            batch[f"{name}_label"] = jax.random.randint(jax.random.key(1), shape, 0, config.model.num_classes)
    return batch


class Time(NamedTuple):
    seconds: float
    cpu_seconds: float  # of all threads of this process


def race(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[Time]]:
    """Times of each run, one a round, in turns and in alternating order; a round before them is not counted."""
    times: dict[str, list[Time]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            started = time.perf_counter(), time.process_time()
            runs[name]()
            times[name].append(Time(time.perf_counter() - started[0], time.process_time() - started[1]))
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
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    cli.run(main)
