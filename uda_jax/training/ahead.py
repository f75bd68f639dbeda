"""The training step compiled ahead of time, for chips that need not be there, and what its compiler says of it."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from uda_jax import runs
from uda_jax.errors import UserError
from uda_jax.methods import build_method
from uda_jax.models.networks import Networks, build_networks
from uda_jax.training import hlo
from uda_jax.training.sharding import filled, replicated, split_images

HERE = "here"  # the topology of this machine's own devices


class Chip(NamedTuple):
    """What Google's documentation says of a chip, as JAX counts devices.

    Attributes:
      memory: GiB.
      flops: of bfloat16 products, a second.
      bandwidth: bytes a second, of that memory.
      hertz: cycles a second: `flops` over two times the cells of its matrix units.
    """

    memory: float
    flops: float
    bandwidth: float
    hertz: float


# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; four units of 128x128 a core, two cores a chip in v4 and v5p, and two
# units of 256x256 in v6e.
CHIPS = {
    "TPU v4": Chip(32, 275e12, 1.228e12, 1.05e9),
    "TPU v5 lite": Chip(16, 197e12, 0.819e12, 1.5e9),
    "TPU v5": Chip(95, 459e12, 2.765e12, 1.75e9),
    "TPU v6 lite": Chip(32, 918e12, 1.64e12, 1.75e9),
}


class Forecast(NamedTuple):
    """What a compiled step needs, a device; numbers that its compiler does not give are 0.

    Attributes:
      arguments, temporaries, peak: bytes: state and batch, what it computes with, and both with what it returns.
      flops, moved: floating-point operations, and bytes read and written, as XLA's cost analysis counts them.
      operations: see `hlo.operations`.
      collectives: see `hlo.collectives`.
    """

    arguments: int
    temporaries: int
    peak: int
    flops: float
    moved: float
    operations: list[hlo.Operation]
    collectives: dict[str, list[tuple[int, str]]]

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
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", topology.partition(":")[0])
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # of the library, which has no kinds
        raise UserError(
            f"--topology={topology}: {error}; expected a generation and its sides, such as v5e:2x2, v5e:8x16 or "
            "v4:2x2x2"
        ) from error


def compile_step(config: ml_collections.ConfigDict, mesh: Mesh) -> jax.stages.Compiled:
    """The step that `loop.train` runs, for the devices of a mesh."""
    from uda_jax.training.loop import abstract_state, jit_step

    networks = build_networks(config)
    state = abstract_state(config, networks, mesh)
    sharding = split_images(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((x.shape[0], filled(x.shape[1], sharding), *x.shape[2:]), x.dtype, sharding=sharding)
        for name, x in runs.batch_of(config).items()
    }
    return jit_step(config, networks, mesh).lower(state, batch, constants_of(config, networks, state, mesh)).compile()


def constants_of(config: ml_collections.ConfigDict, networks: Networks, state: Any, mesh: Mesh) -> Any:
    """Shapes of the method's constants."""
    make = build_method(config, networks).init_constants
    found = {} if make is None else jax.eval_shape(make, state.params, state.batch_stats)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), found)


def forecast(compiled: jax.stages.Compiled) -> Forecast:
    """What the compiler says of its program."""
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text() or ""
    arguments, temporaries = (
        (memory.argument_size_in_bytes, memory.temp_size_in_bytes) if memory is not None else (0, 0)
    )
    returned = memory.output_size_in_bytes - memory.alias_size_in_bytes if memory is not None else 0
    return Forecast(
        arguments,
        temporaries,
        arguments + temporaries + max(returned, 0),
        max(cost.get("flops", 0.0), 0.0),
        max(cost.get("bytes accessed", 0.0), 0.0),
        hlo.operations(text),
        hlo.collectives(text),
    )


def memory_of(device: Any) -> float:
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
    lines = [memory_line(found, device)]
    work = f"{found.flops / 1e12:.2f} TFLOP, {found.moved / 2**30:.1f} GiB moved"
    chip = CHIPS.get(device.device_kind)
    if found.cycles and chip:
        seconds = found.cycles / chip.hertz
        share = found.flops / chip.flops / seconds
        work += f", {found.cycles / 1e6:.1f} M cycles estimated = {seconds:.3f} s at {chip.hertz / 1e9:.2f} GHz"
        work += f": {share:.1%} of the peak of {chip.flops / 1e12:.0f} TFLOP/s"
    lines.append(work if found.cycles else f"{work}; this compiler estimates no cycles")
    for kind, each in found.collectives.items():
        total, (_, largest) = sum(size for size, _ in each), each[0]
        lines.append(f"{kind}: {len(each)}, {total / 2**20:.2f} MiB, the largest {largest}")
    if not found.collectives:
        lines.append("no collectives")
    dearest = hlo.dearest(found.operations, top)
    if dearest:
        lines.append("dearest operations, M cycles:")
        lines += [f"  {cycles / 1e6:7.2f}  {shape}  {source}" for cycles, shape, source in dearest]
    return "\n".join(lines)


def memory_line(found: Forecast, device: Any) -> str:
    """One line: the peak and of what it consists."""
    of = f" of {memory:.0f}" if (memory := memory_of(device)) else ""
    parts = f"state and batch {found.arguments / 2**30:.2f}, temporaries {found.temporaries / 2**30:.2f}"
    return f"memory of a step: {found.peak / 2**30:.2f} GiB a device{of} ({parts})"


def too_large(found: Forecast, device: Any, config: ml_collections.ConfigDict) -> str:
    """What would help where a step needs more memory than a device has; "" where it fits, or that is not known."""
    memory = memory_of(device)
    if not memory or found.peak <= memory * 2**30:
        return ""
    ways = {
        "--config.model.dtype=bfloat16": config.model.dtype != "bfloat16",
        "--config.model.remat=True": not config.model.remat,
        "smaller --config.data.<stream>.crop": True,
    }
    return f"does not fit; what would help: {', '.join(way for way, open_ in ways.items() if open_)}"
