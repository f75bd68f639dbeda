"""The training step compiled ahead of time, for chips that need not be there, and what its compiler says of it."""

import importlib.util
import os
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from uda_jax import runs
from uda_jax.errors import UserError
from uda_jax.models.networks import build_networks
from uda_jax.training import hlo
from uda_jax.training.sharding import abstract, filled, split_images
from uda_jax.training.state import abstract_state, make_constants
from uda_jax.training.step import jit_step, steps_key

HERE = "here"  # the topology of this machine's own devices


class Chip(NamedTuple):
    """What Google's documentation says of a chip, as JAX counts devices.

    Attributes:
      memory: GiB.
      flops: of bfloat16 products, a second.
      hertz: cycles a second: `flops` over two times the cells of its matrix units.
    """

    memory: float
    flops: float
    hertz: float


# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; four units of 128x128 a core, two cores a chip in v4 and v5p, and two
# units of 256x256 in v6e.
CHIPS = {
    "TPU v4": Chip(32, 275e12, 1.05e9),
    "TPU v5 lite": Chip(16, 197e12, 1.5e9),
    "TPU v5": Chip(95, 459e12, 1.75e9),
    "TPU v6 lite": Chip(32, 918e12, 1.75e9),
}


class Memory(NamedTuple):
    """Bytes a device: state and batch, what is computed with, and both together with what a step returns."""

    arguments: int
    temporaries: int
    peak: int


class Forecast(NamedTuple):
    """What a compiled step needs, a device; numbers that its compiler does not give are 0.

    Attributes:
      memory: see `memory_of`.
      flops, moved: floating-point operations, and bytes read and written, as XLA's cost analysis counts them.
      operations: see `hlo.operations`.
    """

    memory: Memory
    flops: float
    moved: float
    operations: list[hlo.Operation]

    @property
    def collectives(self) -> dict[str, list[tuple[int, str]]]:
        return hlo.collectives(self.operations)

    @property
    def cycles(self) -> int:
        return sum(operation.cycles for operation in self.operations)


def devices_of(topology: str) -> Sequence[Any]:
    """The devices of a TPU topology such as "v5e:4x4", or with "here" this machine's own.

    Raises:
      UserError: there is no such topology, or no TPU compiler.
    """
    if topology == HERE:
        return jax.devices()
    if not importlib.util.find_spec("libtpu"):
        raise UserError(
            f"--topology={topology}: the TPU compiler is not installed; pip install libtpu (or the extra tpu), which "
            f"needs no TPU. --topology={HERE} takes this machine's devices."
        )
    # Off a TPU's machine the library would ask Google's metadata server, which does not answer, and wait.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    generation = topology.partition(":")[0]
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", generation)
    # A chip's two cores are one device on a pod, as they are by default in v5p's topologies, but not in v4's.
    cores = {"chip_config_name": "megacore"} if generation == "v4" else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **cores).devices
    except Exception as error:  # of the library, which has no kinds
        raise UserError(
            f"--topology={topology}: {error}; expected a generation and its sides, such as v5e:2x2, v5e:8x16 or "
            "v4:2x2x2"
        ) from error


def compile_step(config: ml_collections.ConfigDict, mesh: Mesh) -> jax.stages.Compiled:
    """The step that `loop.train` runs, for the devices of a mesh."""
    networks = build_networks(config)
    state = abstract_state(config, networks, mesh)
    sharding = split_images(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((x.shape[0], filled(x.shape[1], sharding), *x.shape[2:]), x.dtype, sharding=sharding)
        for name, x in runs.batch_of(config).items()
    }
    make = partial(make_constants, config, networks)
    constants = abstract(jax.eval_shape(make, state.params, state.batch_stats), mesh)
    key = abstract(jax.eval_shape(partial(steps_key, config)), mesh)
    return jit_step(config, networks, mesh).lower(state, batch, constants, key).compile()


def forecast(compiled: jax.stages.Compiled, parts: int = 1) -> Forecast:
    """What the compiler says of its program.

    Args:
      parts: `config.train.accumulate`: how often the step's loop over them runs, which XLA's cost analysis counts once.
        The update outside of it, a hundredth at most, is then counted too often.
    """
    cost, text = compiled.cost_analysis() or {}, compiled.as_text() or ""
    flops, moved = (parts * max(cost.get(name, 0.0), 0.0) for name in ("flops", "bytes accessed"))
    return Forecast(memory_of(compiled), flops, moved, hlo.operations(text))


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """What a program needs, zeros where its compiler does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return Memory(0, 0, 0)
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    returned = max(found.output_size_in_bytes - found.alias_size_in_bytes, 0)
    return Memory(arguments, temporaries, arguments + temporaries + returned)


def capacity(device: Any) -> float:
    """GiB of a device, 0 where neither it nor `CHIPS` says."""
    if device.device_kind in CHIPS:
        return CHIPS[device.device_kind].memory
    try:
        stats = device.memory_stats() or {}
    except Exception:  # devices that are not there have none
        stats = {}
    return stats.get("bytes_limit", 0) / 2**30


def report(found: Forecast, device: Any, top: int = 10) -> str:
    """What a person reads of a forecast: memory, work, collectives and the dearest operations, a device and step."""
    lines = [memory_line(found.memory, device)]
    work = f"{found.flops / 1e12:.3g} TFLOP, {found.moved / 2**30:.1f} GiB moved"
    chip = CHIPS.get(device.device_kind)
    if found.cycles and chip:
        seconds = found.cycles / chip.hertz
        share = found.flops / chip.flops / seconds
        work += f", {found.cycles / 1e6:.1f} M cycles estimated = {seconds:.3f} s at {chip.hertz / 1e9:.2f} GHz"
        work += f": {share:.1%} of the peak of {chip.flops / 1e12:.0f} TFLOP/s"
    lines.append(work if found.cycles else f"{work}; this compiler estimates no cycles")
    collectives = found.collectives
    for kind, each in collectives.items():
        total, (largest, shape) = sum(size for size, _ in each), each[0]
        lines.append(
            f"{kind}: {len(each)}, {total / 2**20:.2f} MiB, the largest {largest / 2**20:.2f} ({_short(shape)})"
        )
    if not collectives:
        lines.append("no collectives")
    dearest = hlo.dearest(found.operations, top)
    if dearest:
        lines.append("dearest operations, M cycles:")
        lines += [f"  {cycles / 1e6:7.2f}  {_short(shape)}  {source}" for cycles, shape, source in dearest]
    return "\n".join(lines)


def _short(shape: str) -> str:
    """A shape, of many arrays the first ones."""
    return shape if len(shape) <= 60 else f"{shape[:56]} ..."


def memory_line(memory: Memory, device: Any) -> str:
    """One line: the peak and of what it consists."""
    of = f" of {limit:.0f}" if (limit := capacity(device)) else ""
    parts = f"state and batch {memory.arguments / 2**30:.2f}, temporaries {memory.temporaries / 2**30:.2f}"
    return f"memory of a step: {memory.peak / 2**30:.2f} GiB a device{of} ({parts})"


def too_large(memory: Memory, device: Any, config: ml_collections.ConfigDict) -> str:
    """What would help where a step needs more memory than a device has; "" where it fits, or that is not known."""
    limit = capacity(device)
    return f"does not fit; {what_would_help(config)}" if limit and memory.peak > limit * 2**30 else ""


def what_would_help(config: ml_collections.ConfigDict) -> str:
    """Settings that make a step need less memory, of those that are not set yet."""
    ways = {
        "--config.model.dtype=bfloat16": config.model.dtype == "float32",
        "--config.model.remat=True": not config.model.remat,
        f"--config.mesh.space={2 * config.mesh.space} (more devices an image)": True,
        f"--config.train.accumulate={2 * config.train.accumulate}": config.train.batch_size > config.train.accumulate,
        "smaller images, or crops of them (config.data.<stream>.size and crop)": True,
    }
    return f"what would help: {', '.join(way for way, is_open in ways.items() if is_open)}"


def out_of_memory(error: Exception) -> bool:
    """Whether XLA says that a program does not fit its device."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def check_options_known(error: Exception, config: ml_collections.ConfigDict) -> None:
    """Raises UserError where `error` is a compiler's that knows one of `mesh.tpu_options` not (any more)."""
    if unknown := re.search(r"No such compile option: '?([\w.\-]+)", str(error)):
        raise UserError(
            f"config.mesh.tpu_options={tuple(config.mesh.tpu_options)}: this TPU compiler does not know {unknown[1]}; "
            "leave it out, or all of them by --config.mesh.tpu_options='()'"
        ) from error
