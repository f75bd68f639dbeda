"""Batches of numpy arrays from prepared TFRecords: endless and resumable to train on, finite to evaluate on.

Which record is read when, and how it is augmented, are pure functions of (seed, domain, position), so a stream is
resumed from a count of batches alone, at once. Each process reads its own part of every batch; how many there are does
not change what a batch holds.
"""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from uda_jax.data import augment, records
from uda_jax.data.decode import decode_shrunken
from uda_jax.data.labels import IGNORE
from uda_jax.data.order import Order, make_order, stable_hash
from uda_jax.data.rare_class import RareClassOrder, make_rare_class_order
from uda_jax.errors import UserError
from uda_jax.paths import to_path

READY = 4  # batches; a fixed number, for left to itself TensorFlow takes up to half of the host's memory

Batch = dict[str, Any]
Decoder = Callable[[tf.Tensor], dict[str, tf.Tensor]]


class Piece(NamedTuple):
    """`take` records of one TFRecord file, after the first `skip`."""

    filename: str
    skip: int
    take: int


def describe(data_dir: str, dataset: str, split: str) -> dict[str, Any]:
    """{"count": images in the split, "labelled": bool, "classes": [names by train id], "ids": {name: id in its files}}.

    `dataset` may name several sets, as in "gta5+synthia", which all have the split; `split` may be a slice or a sum,
    such as "train[:100]" or "train+val" (here and in streams).

    Raises:
      UserError: there is no such dataset, no such split, the split is empty, or the sets have different classes.
    """
    return _describe(open_builders(data_dir, dataset), data_dir, split)


def _describe(builders: Mapping[str, tfds.core.DatasetBuilder], data_dir: str, split: str) -> dict[str, Any]:
    counts, labelled, classes = [], [], {}
    for name, builder in builders.items():
        info = builder.info.metadata
        counts.append(sum(piece.take for piece in _pieces(builder, name, split)))
        labelled += [info["labelled"][part.split("[")[0]] for part in split.split("+")]
        classes[name] = list(info["classes"])
    (first, names), *others = classes.items()
    for other, theirs in others:
        if theirs != names:
            raise UserError(
                f"{first} and {other} in {data_dir} have different classes ({', '.join(names)}; {', '.join(theirs)}): "
                "a stream needs sets of the same. Build one again with a --label_map to the other's."
            )
    ids = dict(next(iter(builders.values())).info.metadata.get("ids", {}))
    return {"count": sum(counts), "labelled": all(labelled), "classes": names, "ids": ids}


def train_stream(
    data_dir: str,
    stream: ConfigDict,
    *,
    batch_size: int,
    seed: int,
    domain: str = "source",
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    labels: bool = True,
    views: Sequence[str] = ("image",),
) -> Iterator[Batch]:
    """Yields shuffled, augmented batches of this process forever; batches run across epoch borders.

    Args:
      stream: {dataset: "streets/rendered", weights: (), split: "train", size: (H, W), crop: () or (h, w),
        scale: (lo, hi), flip: bool, jitter: float, dct_scaling: bool, sampling: "uniform", rare_temperature: float,
        rare_pixels: int, rare_crop_ratio: float}. Of several sets, as in "gta5+synthia", `weights` says how often each
        is drawn from; () is by size. Images are resized to `size`, then augmented: see `augment.augment`; `crop` ()
        stands for `size`. With `dct_scaling`, JPEGs stored at twice `size` or more are shrunken while they are
        decoded (see `decode.decode_shrunken`): faster, and other pixels. `sampling` "rare_class" draws images by the
        classes that they show (see `rare_class`), all sets together and without `weights`, and seeks crops with more
        than `rare_pixels` * `rare_crop_ratio` pixels of the class that was drawn; a ratio of 0 takes any.
      batch_size: of all processes together.
      domain: sets this stream's randomness apart from that of others with the same seed.
      start: batches consumed before; the stream is that from 0 after `start` batches, bit for bit.
      labels: whether to read the labels.
      views: "image", "weak" or "strong", see `augment.view`.
    Yields:
      {view: uint8 [b, h, w, 3] RGB, "label": int32 [b, h, w]} with b = batch_size // process_count.
    Raises:
      UserError: dataset, split or index missing, no labels, or label ids out of range; or as `check_sampling`.
    """
    builders, info = _open(data_dir, stream, labels)
    share = _share(batch_size, process_count)
    sets = _select(builders, data_dir, stream)
    order = _order(stream, sets, info["classes"], labels, seed, domain)
    decode = _decoder(builders, labels, tuple(stream.size) if stream.dct_scaling else None)
    crop = tuple(stream.crop) or tuple(stream.size)
    root = tf.constant([seed, stable_hash(domain)], tf.int64)

    def position(number: Any) -> Any:
        """Where in the stream of all processes this one's number-th example is."""
        return number // share * batch_size + process_index * share + number % share

    def at_positions(find: Callable[[np.ndarray], np.ndarray]) -> tf.data.Dataset:
        return records.look_up(lambda numbers: find(position(numbers)), start * share)

    @records.as_written
    def example(number: tf.Tensor, record: tf.Tensor, rare: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        stored = decode(record)
        image, label = augment.resize(stored["image"], stored.get("label"), tuple(stream.size))
        image = tf.ensure_shape(image, (*stream.size, 3))
        key = tf.random.fold_in(root, position(number))
        sought = None if rare is None else augment.Sought(rare, int(stream.rare_pixels * stream.rare_crop_ratio))
        image, label = augment.augment(
            image, label, key, crop=crop, scale=tuple(stream.scale), flip=stream.flip, sought=sought
        )
        seen = {view: augment.view(image, key, view, stream.jitter) for view in views}
        if label is not None:
            seen["label"] = label[..., 0]
        return {name: part[tf.newaxis] for name, part in seen.items()} if share == 1 else seen  # a batch, uncopied

    columns = [tf.data.Dataset.counter(start * share), records.read(records.join(sets), at_positions(order.records))]
    if isinstance(order, RareClassOrder) and stream.rare_crop_ratio:
        columns.append(at_positions(order.classes_at))
    dataset = tf.data.Dataset.zip(tuple(columns)).map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if share > 1:
        dataset = dataset.batch(share, drop_remainder=True)
    dataset = dataset.prefetch(READY)
    batches = records.readable(dataset, data_dir, stream.dataset, stream.split)
    return (_checked(batch, stream, info["classes"]) for batch in batches)


def check_sampling(data_dir: str, stream: ConfigDict, labels: bool, domain: str) -> None:
    """Looks into the index whether images can be drawn by their classes, if they are to be; reads no record.

    Raises:
      UserError: the labels are not read, or a class that occurs is shown by no image well enough.
    """
    if stream.sampling == "rare_class":
        builders, info = _open(data_dir, stream, labels)
        _order(stream, _select(builders, data_dir, stream), info["classes"], labels, 0, domain)


def _select(
    builders: Mapping[str, tfds.core.DatasetBuilder], data_dir: str, stream: ConfigDict
) -> list[records.Records]:
    """The records of each set."""
    return [
        records.select(builder, stream.split, f"--data={data_dir} --dataset={name}")
        for name, builder in builders.items()
    ]


def _order(
    stream: ConfigDict, sets: Sequence[records.Records], classes: Sequence[str], labels: bool, seed: int, domain: str
) -> Order | RareClassOrder:
    if stream.sampling == "uniform":
        return make_order([len(one.shard) for one in sets], tuple(stream.weights), seed, domain)
    if not labels:  # and the index counts them: to draw by it would be to use what the method must not know
        raise UserError(
            f"config.data.{domain}.sampling={stream.sampling!r} draws images by their labels, and the method does not "
            "read those; leave it at 'uniform'"
        )
    pixels = np.concatenate([pixels for one in sets for pixels in one.pixels])
    try:
        return make_rare_class_order(pixels, classes, stream.rare_temperature, stream.rare_pixels, seed, domain)
    except UserError as error:
        raise UserError(f"{stream.dataset} ({stream.split}): {error}") from error


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
    builders, info = _open(data_dir, stream, labels)
    share = _share(batch_size, process_count)
    size, label_size = tuple(stream.size), tuple(stream.label_size) or tuple(stream.size)
    pieces = [piece for name, builder in builders.items() for piece in _pieces(builder, name, stream.split)]
    count = min(limit or info["count"], info["count"])
    mine = _slice_of(_cut(pieces, 0, count), process_index, process_count)
    decode = _decoder(builders, labels)

    @records.as_written
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
    batches = records.readable(dataset, data_dir, stream.dataset, stream.split)
    return (_checked(batch, stream, info["classes"]) for batch in batches)


def stored_examples(data_dir: str, dataset: str, split: str, limit: int = 0) -> Iterator[Batch]:
    """Yields the first `limit` (0: all) labelled images of a split as they are stored, in order.

    Yields:
      {"image": uint8 [H, W, 3] RGB, "label": int32 [H, W], "id": str}; sizes may differ from one to the next.
    Raises:
      UserError: as `train_stream`.
    """
    stream = ConfigDict({"dataset": dataset, "split": split})
    builders, info = _open(data_dir, stream, labels=True)
    pieces = [piece for name, builder in builders.items() for piece in _pieces(builder, name, split)]
    pieces = _cut(pieces, 0, limit or info["count"])
    found = _records(pieces).map(_decoder(builders, labels=True)).prefetch(READY)
    for stored in records.readable(found, data_dir, dataset, split):
        label = stored["label"][..., 0]
        yield _checked({"image": stored["image"], "label": label, "id": [stored["id"]]}, stream, info["classes"])


def _open(
    data_dir: str, stream: ConfigDict, labels: bool
) -> tuple[dict[str, tfds.core.DatasetBuilder], dict[str, Any]]:
    hide_gpus()
    builders = open_builders(data_dir, stream.dataset)
    info = _describe(builders, data_dir, stream.split)
    if labels and not info["labelled"]:
        raise UserError(
            f"{stream.dataset} in {data_dir}: split {stream.split!r} has no labels, which are needed here. "
            "Use a labelled split, or build it again with --split NAME=IMAGES,LABELS."
        )
    return builders, info


def hide_gpus() -> None:
    """TensorFlow only feeds; left alone it would take the accelerator's memory from JAX."""
    with contextlib.suppress(RuntimeError):  # TensorFlow has started already: too late to choose
        tf.config.set_visible_devices([], "GPU")


def open_builders(data_dir: str, dataset: str) -> dict[str, tfds.core.DatasetBuilder]:
    """The sets that `dataset` names, as in "gta5+synthia"; raises as `open_builder`."""
    return {name: open_builder(data_dir, name) for name in dataset.split("+")}


def open_builder(data_dir: str, dataset: str) -> tfds.core.DatasetBuilder:
    """The newest version of a prepared dataset; raises UserError with the command that makes it, or mends it."""
    root = to_path(os.path.expanduser(data_dir)) / dataset
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


@records.as_written
def _read(filename: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(filename).skip(skip).take(take)


def _records(pieces: Sequence[Piece]) -> tf.data.Dataset:
    names, skips, takes = zip(*pieces, strict=True) if pieces else ((), (), ())
    columns = tf.constant(names, tf.string), tf.constant(skips, tf.int64), tf.constant(takes, tf.int64)
    return tf.data.Dataset.from_tensor_slices(columns).flat_map(_read)


def _decoder(
    builders: Mapping[str, tfds.core.DatasetBuilder], labels: bool, size: tuple[int, int] | None = None
) -> Decoder:
    """Record -> stored features, without the label unless `labels`; with `size` JPEGs may be shrunken towards it."""
    features = next(iter(builders.values())).info.features  # all sets store the same
    encoded = [*([] if labels else ["label"]), *(["image"] if size else [])]
    decoders = {key: tfds.decode.SkipDecoding() for key in encoded}

    @records.as_written
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
