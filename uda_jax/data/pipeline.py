"""Batches of numpy arrays from prepared TFRecords: endless and resumable to train on, finite to evaluate on.

The order of a training stream is a pure function of (seed, epoch), an augmentation one of (seed, process,
index of the example), so a stream is resumed from a count of batches alone: what was consumed is skipped as
encoded records, without decoding. Each process reads its own slice of the records, in any number of files.
"""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from uda_jax.data import augment
from uda_jax.data.decode import decode_shrunken
from uda_jax.data.labels import IGNORE
from uda_jax.errors import UserError

OPEN_FILES = 8  # read in turns, so that neighbours in a file do not stay neighbours in a batch
READY = 4  # batches; a fixed number, for left to itself TensorFlow takes up to half of the host's memory

Batch = dict[str, Any]
Decoder = Callable[[tf.Tensor], dict[str, tf.Tensor]]


class Piece(NamedTuple):
    """`take` records of one TFRecord file, after the first `skip`."""

    filename: str
    skip: int
    take: int


def describe(data_dir: str, dataset: str, split: str) -> dict[str, Any]:
    """{"count": images in the split, "labelled": bool, "classes": [names by train id]}.

    `split` may be a slice or a sum, such as "train[:100]" or "train+val" (here and in streams).

    Raises:
      UserError: there is no such dataset, no such split, or the split is empty.
    """
    builder = open_builder(data_dir, dataset)
    info = builder.info.metadata
    return {
        "count": sum(piece.take for piece in _pieces(builder, dataset, split)),
        "labelled": all(info["labelled"][part.split("[")[0]] for part in split.split("+")),
        "classes": list(info["classes"]),
    }


def train_stream(
    data_dir: str,
    stream: ConfigDict,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    labels: bool = True,
    views: Sequence[str] = ("image",),
    shuffle_buffer: int = 1024,
) -> Iterator[Batch]:
    """Yields shuffled, augmented batches of this process forever; batches run across epoch borders.

    Args:
      stream: {dataset: "streets/rendered", split: "train", size: (H, W), crop: () or (h, w), scale: (lo, hi),
        flip: bool, jitter: float, dct_scaling: bool}. Images are resized to `size`, then augmented: see
        `augment.augment`; `crop` () stands for `size`. With `dct_scaling`, JPEGs stored at twice `size` or more
        are shrunken while they are decoded (see `decode.decode_shrunken`): faster, and other pixels.
      batch_size: of all processes together.
      start: batches consumed before; the stream is that from 0 after `start` batches, bit for bit.
      labels: whether to read the labels.
      views: "image", "weak" or "strong", see `augment.view`.
      shuffle_buffer: encoded records held for shuffling.
    Yields:
      {view: uint8 [b, h, w, 3] RGB, "label": int32 [b, h, w]} with b = batch_size // process_count.
    Raises:
      UserError: dataset or split missing, fewer records than processes, no labels, or label ids out of range.
    """
    builder, info = _open(data_dir, stream, labels)
    share = _share(batch_size, process_count)
    if info["count"] < process_count:
        raise UserError(
            f"{stream.dataset} ({stream.split}) has {info['count']} images for {process_count} processes: "
            "every process needs at least one. Use fewer processes."
        )
    pieces = _slice_of(_pieces(builder, stream.dataset, stream.split), process_index, process_count)
    count = sum(piece.take for piece in pieces)
    epoch, consumed = divmod(start * share, count)
    root = tf.constant([seed, process_index], tf.int64)
    decode = _decoder(builder, labels, tuple(stream.size) if stream.dct_scaling else None)
    crop = tuple(stream.crop) or tuple(stream.size)

    def example(index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        stored = decode(record)
        image, label = augment.resize(stored["image"], stored.get("label"), tuple(stream.size))
        image = tf.ensure_shape(image, (*stream.size, 3))
        key = tf.random.fold_in(root, index)
        image, label = augment.augment(image, label, key, crop=crop, scale=tuple(stream.scale), flip=stream.flip)
        seen = {view: augment.view(image, key, view, stream.jitter) for view in views}
        return seen if label is None else {**seen, "label": label[..., 0]}

    dataset = _shuffled_records(pieces, seed, epoch, shuffle_buffer).skip(consumed)
    dataset = dataset.enumerate(start * share)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(share, drop_remainder=True).prefetch(READY)
    return (_checked(batch, stream, info["classes"]) for batch in dataset.as_numpy_iterator())


def eval_batches(
    data_dir: str,
    stream: ConfigDict,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int = 0,
    labels: bool = True,
) -> Iterator[Batch]:
    """Yields one ordered pass; all processes yield equally many batches, padded where images run out.

    Args:
      stream: {dataset, split, size: (H, W), label_size: () or (H, W)}; () keeps labels at `size`.
      batch_size: of all processes together.
      limit: use only the first `limit` images of the split (0: all).
      labels: whether to read the labels.
    Yields:
      {"image": uint8 [b, H, W, 3], "label": int32 [b, h, w], "mask": bool [b], "id": list of b str};
      padding is black, all 255, False and "".
    Raises:
      UserError: as `train_stream`.
    """
    builder, info = _open(data_dir, stream, labels)
    share = _share(batch_size, process_count)
    size, label_size = tuple(stream.size), tuple(stream.label_size) or tuple(stream.size)
    pieces = _pieces(builder, stream.dataset, stream.split)
    count = min(limit or info["count"], info["count"])
    mine = _slice_of(_cut(pieces, 0, count), process_index, process_count)
    decode = _decoder(builder, labels)

    def example(record: tf.Tensor) -> dict[str, tf.Tensor]:
        stored = decode(record)
        image, _ = augment.resize(stored["image"], None, size)
        out = {"image": tf.ensure_shape(image, (*size, 3)), "id": stored["id"], "mask": tf.constant(True)}
        if labels:
            label = augment.resize_label(stored["label"], label_size)
            out["label"] = tf.ensure_shape(label[..., 0], label_size)
        return out

    dataset = _records(mine).map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    padding = tf.data.Dataset.from_tensors(_padding(size, label_size if labels else None)).repeat()
    batches = math.ceil(count / (share * process_count))
    dataset = dataset.concatenate(padding).batch(share, drop_remainder=True).take(batches)
    dataset = dataset.prefetch(READY)
    return (_checked(batch, stream, info["classes"]) for batch in dataset.as_numpy_iterator())


def _open(data_dir: str, stream: ConfigDict, labels: bool) -> tuple[tfds.core.DatasetBuilder, dict[str, Any]]:
    hide_gpus()
    info = describe(data_dir, stream.dataset, stream.split)
    if labels and not info["labelled"]:
        raise UserError(
            f"{stream.dataset} in {data_dir}: split {stream.split!r} has no labels, which are needed here. "
            "Use a labelled split, or build it again with --split NAME=IMAGES,LABELS."
        )
    return open_builder(data_dir, stream.dataset), info


def hide_gpus() -> None:
    """TensorFlow only feeds; left alone it would take the accelerator's memory from JAX."""
    with contextlib.suppress(RuntimeError):  # TensorFlow has started already: too late to choose
        tf.config.set_visible_devices([], "GPU")


def open_builder(data_dir: str, dataset: str) -> tfds.core.DatasetBuilder:
    """The newest version of a prepared dataset; raises UserError with the command that makes it, or mends it."""
    root = Path(os.path.expanduser(data_dir)) / dataset
    infos = root.glob("*/dataset_info.json")
    versions = [info.parent for info in infos if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)]
    if not versions:
        raise UserError(
            f"no prepared dataset {dataset!r} in {data_dir} (looked for {root}/<version>/dataset_info.json). "
            f"Make it with\n  {_build_command(data_dir, dataset)}"
        )
    newest = max(versions, key=lambda path: [int(number) for number in path.name.split(".")])
    again = "Build it again with --overwrite."
    try:
        builder = tfds.builder_from_directory(newest)
        known = {"labelled", "classes"} <= set(builder.info.metadata or {}) and builder.info.splits
    except Exception as error:  # TFDS raises a dozen kinds on damaged files
        what = type(error).__name__
        raise UserError(f"{newest} cannot be read ({what} in one of its .json files). {again}") from error
    if not known:
        raise UserError(f"{newest} cannot be read: its .json files lack splits or classes. {again}")
    return builder


def _build_command(data_dir: str, dataset: str) -> str:
    group, _, name = dataset.partition("/")
    if group == "folders":
        return (
            f"python -m data_prep.build --dataset=folders --name={name or 'NAME'} "
            f"--split train=IMAGES[,LABELS] --out={data_dir}"
        )
    if group in ("gta5", "synthia", "cityscapes", "visda17"):
        return f"python -m data_prep.build --dataset={group} --raw=DOWNLOADED --out={data_dir}"
    if group == "streets":
        return f"python -m data_prep.build --dataset=streets --out={data_dir}"
    return "python -m data_prep.build --help"


def _pieces(builder: tfds.core.DatasetBuilder, dataset: str, split: str) -> list[Piece]:
    splits = builder.info.splits
    try:
        instructions = splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{dataset} has no split {split!r} ({builder.data_dir}); its splits: {', '.join(sorted(splits))}"
        ) from error
    pieces = [Piece(i.filename, i.skip, i.take) for i in instructions if i.take]
    if not pieces:
        raise UserError(f"the split {split!r} of {dataset} is empty ({builder.data_dir})")
    return pieces


def _cut(pieces: Sequence[Piece], first: int, last: int) -> list[Piece]:
    """Records first .. last - 1 of the concatenated pieces."""
    cut, before = [], 0
    for filename, skip, take in pieces:
        low, high = max(first - before, 0), min(last - before, take)
        if low < high:
            cut.append(Piece(filename, skip + low, high - low))
        before += take
    return cut


def _slice_of(pieces: Sequence[Piece], index: int, count: int) -> list[Piece]:
    """The index-th of `count` contiguous, disjoint and nearly equal slices."""
    total = sum(piece.take for piece in pieces)
    return _cut(pieces, total * index // count, total * (index + 1) // count)


def _share(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch size {batch_size} must be a positive multiple of the {process_count} processes")
    return batch_size // process_count


def _read(filename: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(filename).skip(skip).take(take)


def _tensors(pieces: Sequence[Piece]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    return (
        tf.constant([piece.filename for piece in pieces], tf.string),
        tf.constant([piece.skip for piece in pieces], tf.int64),
        tf.constant([piece.take for piece in pieces], tf.int64),
    )


def _records(pieces: Sequence[Piece]) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(_tensors(pieces)).flat_map(_read)


def _shuffled_records(pieces: Sequence[Piece], seed: int, first_epoch: int, buffer: int) -> tf.data.Dataset:
    """Encoded records forever, epoch after epoch from `first_epoch`, each in its own order."""
    columns = _tensors(pieces)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.cast(seed, tf.int64), number])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(pieces)), key)
        shuffle_seed = tf.random.stateless_uniform([], key, maxval=2**31 - 1, dtype=tf.int64)
        shuffled = tuple(tf.gather(column, order) for column in columns)
        files = tf.data.Dataset.from_tensor_slices(shuffled)
        records = files.interleave(_read, OPEN_FILES, 1, num_parallel_calls=OPEN_FILES, deterministic=True)
        return records.shuffle(buffer, seed=shuffle_seed, reshuffle_each_iteration=False)

    return tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(epoch)


def _decoder(builder: tfds.core.DatasetBuilder, labels: bool, size: tuple[int, int] | None = None) -> Decoder:
    """Record -> stored features, without the label unless `labels`; with `size` JPEGs may be shrunken towards it."""
    features = builder.info.features
    encoded = [*([] if labels else ["label"]), *(["image"] if size else [])]
    decoders = {key: tfds.decode.SkipDecoding() for key in encoded}

    def decode(record: tf.Tensor) -> dict[str, tf.Tensor]:
        stored = features.deserialize_example(record, decoders=decoders)
        if size:
            stored["image"] = decode_shrunken(stored["image"], size)
        return {key: value for key, value in stored.items() if labels or key != "label"}

    return decode


def _padding(size: tuple[int, int], label_size: tuple[int, int] | None) -> dict[str, tf.Tensor]:
    padding = {"image": tf.zeros((*size, 3), tf.uint8), "id": tf.constant(""), "mask": tf.constant(False)}
    if label_size is not None:
        padding["label"] = tf.fill(label_size, tf.constant(IGNORE, tf.uint8))
    return padding


def _checked(batch: Batch, stream: ConfigDict, classes: Sequence[str]) -> Batch:
    """The numpy batch as callers get it; raises UserError on a label id that is no class."""
    if "label" in batch:
        label = batch["label"]
        highest = int((label + np.uint8(1)).max()) - 1  # 255, ignored, wraps to 0
        if highest >= len(classes):
            raise UserError(
                f"{stream.dataset} ({stream.split}): found label id {highest}, expected train ids "
                f"0..{len(classes) - 1} or {IGNORE} (ignore). Map the labels to train ids and build again."
            )
        batch["label"] = label.astype(np.int32)
    if "id" in batch:
        batch["id"] = [name.decode() for name in batch["id"]]
    return batch
