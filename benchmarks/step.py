"""Time and memory of one training step on random images.

    python -m benchmarks.step --config=configs/gta5_to_cityscapes_adaptsegnet.py --size=512x256 --steps=5

Prints the compile time, the median, minimum and maximum of the steps after the first, and the process's peak memory.
"""

import resource
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from data_prep.build import parse_size
from uda_jax import cli
from uda_jax.methods import METHODS
from uda_jax.networks import build_networks
from uda_jax.sharding import make_mesh, replicated, split_batch
from uda_jax.state import create_state
from uda_jax.train import jit_step

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
SIZE = flags.DEFINE_string("size", "", "WIDTHxHEIGHT of both domains; default: the config's.")
STEPS = flags.DEFINE_integer("steps", 5, "Steps to time.", lower_bound=1)
flags.mark_flag_as_required("config")


def main() -> None:
    config = CONFIG.value
    if SIZE.value:
        config.data.source.size = config.data.target.size = parse_size(SIZE.value)
    mesh, networks = make_mesh(), build_networks(config)
    state = jax.jit(lambda: create_state(config, networks), out_shardings=replicated(mesh))()
    batch = {}
    for domain in METHODS[config.method].DOMAINS:
        shape = (config.train.batch_size, *config.data[domain].size)
        batch[f"{domain}_image"] = jax.random.randint(jax.random.key(0), (*shape, 3), 0, 256).astype(jnp.uint8)
        if domain == "source":
            batch["source_label"] = jax.random.randint(jax.random.key(1), shape, 0, config.model.num_classes)
    batch = jax.device_put(batch, split_batch(mesh))

    started = time.perf_counter()
    step = jit_step(config, networks, mesh).lower(state, batch).compile()
    compiled = time.perf_counter() - started
    seconds = []
    for _ in range(STEPS.value + 1):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - started)
    seconds = seconds[1:]  # the first touches fresh memory
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{config.method}, {config.model.backbone}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    print(f"compile {compiled:.1f} s; step {statistics.median(seconds):.2f} s (median of {len(seconds)},", end=" ")
    print(f"{min(seconds):.2f} to {max(seconds):.2f}); peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    cli.run(main)
