"""Device mesh and placement: parameters replicated, batches split over the "data" axis."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from uda_jax.errors import UserError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices, by default all of all processes, along the axis "data"."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, name: str) -> None:
    """Raises UserError if a global batch cannot be split evenly over the mesh."""
    devices = mesh.devices.size
    if batch_size < 1 or batch_size % devices:
        nearest = max(1, round(batch_size / devices)) * devices
        raise UserError(
            f"config.{name}={batch_size} is not divisible by the {devices} devices of this run; "
            f"set it to a multiple of {devices}, for example --config.{name}={nearest}"
        )


def to_mesh(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch, numpy [b, ...] -> global arrays [B, ...] on the mesh."""
    sharding = split_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}


def prefetch_to_mesh(batches: Iterable[dict[str, Any]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """`to_mesh` one batch ahead, so that the transfer overlaps with the step before."""
    ahead = None
    for batch in batches:
        current, ahead = ahead, to_mesh(batch, mesh)
        if current is not None:
            yield current
    if ahead is not None:
        yield ahead
