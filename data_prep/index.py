"""Gives a prepared data set the index that training reads its records by, and its class statistics.

    python -m data_prep.index --data=data --dataset=cityscapes

Building does the same at its end; this is for sets that were built before, or whose files were replaced since. All
records are read, and the labels decoded.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from uda_jax import cli
from uda_jax.data import pipeline, records, statistics
from uda_jax.data.labels import IGNORE
from uda_jax.data.records import Index
from uda_jax.data.statistics import Statistics
from uda_jax.errors import UserError
from uda_jax.files import write_whole


def write(builder: tfds.core.DatasetBuilder) -> dict[str, Statistics]:
    """Writes the index of every split and class_statistics.json; returns the counts of the labelled splits.

    Raises:
      UserError: a file of records is damaged.
    """
    info, found = builder.info.metadata, {}
    for split in builder.info.splits:
        try:
            index = make_index(builder, split)
        except tf.errors.OpError as error:
            raise UserError(f"{builder.data_path}: the records of {split!r} cannot be read: {error.message}") from error
        write_whole(builder.data_path / records.filename(split), records.to_bytes(index))
        if info["labelled"][split]:
            found[split] = statistics.of_labels(index.pixels, index.ignored)
    write_whole(builder.data_path / statistics.FILENAME, statistics.file_text(info["classes"], found))
    return found


def make_index(builder: tfds.core.DatasetBuilder, split: str) -> Index:
    """The index of a prepared split, from reading all of its records.

    Raises:
      tf.errors.DataLossError: a file is damaged.
    """
    classes = len(builder.info.metadata["classes"])
    labelled = builder.info.metadata["labelled"][split]
    features = builder.info.features
    others = {key: tfds.decode.SkipDecoding() for key in features if key != "label"}

    def measure(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.strings.length(record)
        if not labelled:
            return length, tf.zeros([0], tf.int32)
        label = features.deserialize_example(record, decoders=others)["label"]
        return length, tf.math.bincount(tf.cast(tf.reshape(label, [-1]), tf.int32), minlength=256, maxlength=256)

    names = sorted(epath.Path(path).name for path in builder.info.splits[split].filenames)
    shard, offset, length, pixels = [], [], [], []
    with tqdm(total=builder.info.splits[split].num_examples, desc=f"index of {split}", unit=" images") as bar:
        for number, name in enumerate(names):
            end = 0
            measured = tf.data.TFRecordDataset(str(builder.data_path / name)).map(measure, tf.data.AUTOTUNE)
            for size, counts in measured.as_numpy_iterator():
                shard.append(number)
                offset.append(end)
                length.append(size)
                pixels.append(counts)
                end += records.FRAME + int(size)
                bar.update()
    counted = np.array(pixels, np.int64)
    return Index(
        np.array(names),
        np.array(shard, np.int32),
        np.array(offset, np.int64),
        np.array(length, np.int64),
        counted[:, :classes],
        counted[:, IGNORE] if labelled else np.zeros(len(shard), np.int64),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and indexes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.index", description="Index a prepared data set.")
    parser.add_argument("--data", default="data", metavar="DIR", help="the data directory (default: data)")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="such as cityscapes or folders/mine")
    args = parser.parse_args(arguments)

    def command() -> None:
        pipeline.hide_gpus()
        builder = pipeline.open_builder(args.data, args.dataset)
        write(builder)
        print(f"{builder.data_path}: indexed {', '.join(sorted(builder.info.splits))}")

    return cli.answered(command)


if __name__ == "__main__":
    sys.exit(main())
