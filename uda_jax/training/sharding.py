"""Device mesh and placement: parameters replicated, batches split over "data", and to train also rows over "space"."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from uda_jax.errors import UserError


def make_mesh(devices: Sequence[Any] | None = None, space: int = 1) -> Mesh:
    """The devices, by default all of all processes, along the axes "data" and "space".

    Args:
      space: how many neighbouring devices, all of one process, share an image.
    Raises:
      UserError: the devices of each process do not come in groups of `space`.
    """
    ordered = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    of_first = sum(device.process_index == ordered[0].process_index for device in ordered)
    if of_first % space:
        raise UserError(
            f"config.mesh.space={space} does not divide the {of_first} devices of a process, of which an image's rows "
            "are split over some"
        )
    grid = np.array(ordered, object).reshape(-1, space)
    return Mesh(grid, ("data", "space"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def abstract(shapes: Any, mesh: Mesh) -> Any:
    """A tree of shapes and dtypes, as from `jax.eval_shape`, with the placement of what is the same on all devices."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes)


def split_batch(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "space")))


def split_images(mesh: Mesh) -> NamedSharding:
    """Splits images [B, H, ...] by both axes: batches over "data", rows over "space"."""
    return NamedSharding(mesh, PartitionSpec("data", "space"))


def check_batch_size(batch_size: int, devices: int, name: str) -> None:
    """Raises UserError if a global batch cannot be split evenly over that many devices, groups or parts of them."""
    if batch_size < 1 or batch_size % devices:
        nearest = max(1, round(batch_size / devices)) * devices
        raise UserError(
            f"config.{name}={batch_size} is not divisible by the {devices} devices of this run (over "
            "config.mesh.space, times config.train.accumulate); "
            f"set it to a multiple of {devices}, for example --config.{name}={nearest}"
        )


def to_mesh(batch: dict[str, Any], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's part of a batch, numpy [b, ...] -> global arrays [B, ...].

    Rows that cannot be split evenly are filled up with zeros, which `unfilled` takes away again.
    """

    def place(array: np.ndarray) -> jax.Array:
        if "space" in sharding.spec:
            missing = filled(array.shape[1], sharding) - array.shape[1]
            array = np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)]) if missing else array
        return jax.make_array_from_process_local_data(sharding, array)

    return {k: place(np.asarray(v)) for k, v in batch.items()}


def filled(rows: int, sharding: NamedSharding) -> int:
    """`rows`, or the next number that can be split evenly."""
    space = sharding.mesh.shape["space"]
    return -(-rows // space) * space


def unfilled(batch: dict[str, jax.Array], rows: dict[str, int]) -> dict[str, jax.Array]:
    """The batch without what `to_mesh` has filled it up with; traced, so that no device holds the rest."""
    return {k: v if v.shape[1] == rows[k] else v[:, : rows[k]] for k, v in batch.items()}


def prefetch_to_mesh(batches: Iterable[dict[str, Any]], sharding: NamedSharding) -> Iterator[dict[str, jax.Array]]:
    """`to_mesh` one batch ahead, so that the transfer overlaps with the step before."""
    ahead = None
    for batch in batches:
        current, ahead = ahead, to_mesh(batch, sharding)
        if current is not None:
            yield current
    if ahead is not None:
        yield ahead
