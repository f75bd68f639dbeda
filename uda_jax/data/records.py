"""Random access to the records of a prepared split, by an index that lies beside its TFRecord files.

`<split>.index.npz` has an entry for every record, in the order of the files:

    files [F]               names of the TFRecord files
    shard [N]               which of them
    offset, length [N]      where its frame begins, and the bytes that it holds
    pixels [N, classes]     pixels a class of its label, as stored; [N, 0] where the split has no labels
    ignored [N]             pixels without a class
"""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from uda_jax.errors import UserError

READS = 32  # in flight: an object store answers each after some 20 ms
FRAME = 16  # bytes around a record: its length, and two checksums
CHUNK = 256  # positions that are looked up at a time
# For functions given to tf.data: none of ours branches on tensors in Python, which TensorFlow would look for in all
# that they call: 1.5 s of a run's start.
as_written = tf.autograph.experimental.do_not_convert


class Index(NamedTuple):
    """What the file holds; see the module."""

    files: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    pixels: np.ndarray
    ignored: np.ndarray


class Records(NamedTuple):
    """Records to be read: arrays of one length, but for `files`, which are whole paths, and `pixels`.

    Attributes:
      pixels: int64 [n, classes], or [n, 0] of splits without labels, for the records one after the other.
    """

    files: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    pixels: tuple[np.ndarray, ...]


def filename(split: str) -> str:
    return f"{split}.index.npz"


def to_bytes(index: Index) -> bytes:
    """The content of the file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **index._asdict())
    return buffer.getvalue()


def read_index(builder: tfds.core.DatasetBuilder, split: str, flags: str) -> Index:
    """The index of a whole split.

    Args:
      flags: those that name the set, for the command that makes an index.
    Raises:
      UserError: there is none, or it is not of the files that are there.
    """
    path = builder.data_path / filename(split)
    command = f"Make it with\n  python -m data_prep.index {flags}"
    if not path.exists():
        raise UserError(f"{path}: not found; this set was built before records had an index. {command}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            index = Index(**{name: arrays[name] for name in Index._fields})
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not the index that was written ({error!r}). {command}") from error
    for number, name in enumerate(index.files):
        mine = index.shard == number
        end = int((index.offset[mine] + index.length[mine]).max() + FRAME) if mine.any() else 0
        file = builder.data_path / str(name)
        found = file.stat().length if file.exists() else 0
        if found != end:
            raise UserError(f"{path} is of another {name}, of {end} bytes and not {found}. {command}")
    return index


def select(builder: tfds.core.DatasetBuilder, split: str, flags: str) -> Records:
    """The records of a split, or of slices and sums of splits such as "train[:100]+val"; raises as `read_index`."""
    parts = {part.split("[")[0]: None for part in split.split("+")}
    index = {name: read_index(builder, name, flags) for name in parts}
    where = {str(name): (of_split, number) for of_split in parts for number, name in enumerate(index[of_split].files)}
    files: list[str] = []
    shard, offset, length, pixels = [], [], [], []
    for piece in builder.info.splits[split].file_instructions:
        of_split, number = where[epath.Path(piece.filename).name]
        found = index[of_split]
        first = int(np.searchsorted(found.shard, number)) + piece.skip
        chosen = slice(first, first + piece.take)
        shard.append(np.full(piece.take, len(files), np.int64))
        files.append(piece.filename)
        offset.append(found.offset[chosen])
        length.append(found.length[chosen])
        pixels.append(found.pixels[chosen])
    return Records(tuple(files), np.concatenate(shard), np.concatenate(offset), np.concatenate(length), tuple(pixels))


def join(parts: list[Records]) -> Records:
    """Several sets, one after the other."""
    files = tuple(name for part in parts for name in part.files)
    before = np.cumsum([0, *(len(part.files) for part in parts)])
    shard = np.concatenate([part.shard + n for part, n in zip(parts, before, strict=False)])
    offset, length = (np.concatenate([part[i] for part in parts]) for i in (2, 3))
    return Records(files, shard, offset, length, tuple(pixels for part in parts for pixels in part.pixels))


def look_up(find: Callable[[np.ndarray], np.ndarray], first: int) -> tf.data.Dataset:
    """What `find`, int64 [n] -> int64 [n], finds for the numbers from `first` on, int64 [] each, endlessly."""

    @as_written
    def some(chunk: tf.Tensor) -> tf.Tensor:
        numbers = first + chunk * CHUNK + tf.range(CHUNK, dtype=tf.int64)
        return tf.ensure_shape(tf.numpy_function(find, [numbers], tf.int64, stateful=False), [CHUNK])

    # Of a generator, images would be put into fresh memory each time: 2 ms more for one of 1280x720.
    return tf.data.Dataset.range(np.iinfo(np.int64).max).map(some).unbatch()


def readable(examples: tf.data.Dataset, data_dir: str, dataset: str, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a prepared set as numpy has them.

    Raises:
      UserError: a record's checksum is wrong, its file is cut off or gone, or it holds no picture; says how to find it.
    """
    try:
        yield from examples.as_numpy_iterator()
    except tf.errors.OpError as error:
        what = re.sub(r"{{.*?}} *| *\[Op:.*", "", str(error.message)).strip().partition("\n")[0]
        checks = "\n".join(f"  python -m data_prep.verify --data={data_dir} --dataset={n}" for n in dataset.split("+"))
        raise UserError(
            f"{dataset} ({split}) in {data_dir} cannot be read any more: {what}. A checkpoint, if there was one, is "
            f"kept. This names the file:\n{checks}\nBring that file back, or build the set again; then rerun."
        ) from error


def read(records: Records, numbers: tf.data.Dataset) -> tf.data.Dataset:
    """Encoded records of these `numbers`, int64 [] each, in order; many reads are in flight."""
    files, offset, length = (tf.constant(column) for column in (records.files, records.offset, records.length))
    shard = tf.constant(records.shard)

    @as_written
    def one(number: tf.Tensor) -> tf.data.Dataset:
        size = tf.gather(length, number)
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(files, tf.gather(shard, number))],
            compression_type="",
            buffer_size=size + FRAME,  # one read
            byte_offsets=[tf.gather(offset, number)],
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)

    return numbers.interleave(one, READS, 1, num_parallel_calls=READS, deterministic=True)
