"""Verifies a prepared set: every record is read and decoded, then judged by the same rules as raw files."""

import argparse
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from data_prep import decoding, pictures
from data_prep.raw import RAW_SETS
from data_prep.verify import ids, rules, scan, sheet
from data_prep.verify.rules import FAULT, Finding, Place, Report
from data_prep.verify.scan import Facts, Label, Spec
from uda_jax.data import labels, pipeline, statistics
from uda_jax.data.records import read_index
from uda_jax.errors import UserError

AGAIN = "Build the set again (--overwrite)."


class Record(NamedTuple):
    """One example as stored; `label` is None in a split without labels."""

    split: str
    id: str
    image: bytes
    label: bytes | None
    original_size: tuple[int, int]


def verify(args: argparse.Namespace) -> Report:
    """The report on `args.dataset` in `args.data`; raises UserError if there is no such set."""
    pipeline.hide_gpus()
    builder = pipeline.open_builder(args.data, args.dataset)
    info = builder.info
    labelled = dict(info.metadata["labelled"])
    images = {split: info.splits[split].num_examples for split in info.splits}
    total = sum(images.values())
    chosen = set(sheet.evenly(range(total), args.limit or total))
    picked = set(sheet.evenly(sorted(chosen), args.sheet_scenes)) if args.sheet else set()
    kept: list[Record] = []
    found: list[Finding] = []
    spec = spec_of(args.dataset, tuple(info.metadata["classes"]))
    records = read(builder, labelled, chosen, picked, kept, found)
    facts = list(scan.measure(partial(scan_record, spec), records, len(chosen), args.workers))
    found += rules.counts(spec, images, args.complete) + rules.findings(spec, facts)
    found += repeated_ids(facts) + rules.sampled(len(facts), total)
    if not any(finding.kind == "damaged-file" for finding in found):
        found += other_index(builder, args)
    if len(chosen) == total:
        found += other_statistics(Path(builder.data_dir) / statistics.FILENAME, args, facts, labelled)
    return Report(
        spec,
        str(builder.data_dir),
        images,
        {split: images[split] if labelled[split] else 0 for split in images},
        facts,
        rules.by_severity(found),
        [scene for record in kept if (scene := _scene(record))],
    )


def spec_of(dataset: str, names: tuple[str, ...]) -> Spec:
    """What a prepared set should be: as published if it is a published one, else what its classes say."""
    published = RAW_SETS[dataset].published if dataset in RAW_SETS else {}
    return Spec(dataset, published, _no_file, names, "train" if names == labels.NAMES else None)


def _no_file(path: Path) -> Label:
    raise UserError(f"{path}: prepared labels are records, not files")


def read(
    builder: tfds.core.DatasetBuilder,
    labelled: dict[str, bool],
    chosen: Collection[int],
    picked: Collection[int],
    kept: list[Record],
    found: list[Finding],
) -> Iterator[Record]:
    """Yields the chosen examples, in the order of splits and files.

    Args:
      chosen: indices among all examples of all splits.
      picked: of those, the ones to add to `kept`.
      found: receives a finding for every file that is damaged or has another number of records than recorded.
    """
    index = 0
    for split, split_info in builder.info.splits.items():
        for path, length in zip(split_info.filepaths, split_info.shard_lengths, strict=True):
            count = 0
            try:
                for count, serialized in enumerate(_serialized(path), start=1):
                    at = index + count - 1
                    if at in chosen and count <= length:
                        record = _parse(builder, split, labelled[split], serialized)
                        if at in picked:
                            kept.append(record)
                        yield record
            except (tf.errors.OpError, KeyError, ValueError) as error:
                found.append(_damaged(path, f"unreadable after record {count}: {_line(error)}"))
            else:
                if count != length:
                    found.append(_damaged(path, f"{count} records, {length} recorded"))
            index += length


def _serialized(path: Any) -> Iterator[bytes]:
    return tf.data.TFRecordDataset(str(path), buffer_size=1 << 20).as_numpy_iterator()


def _parse(builder: tfds.core.DatasetBuilder, split: str, labelled: bool, serialized: bytes) -> Record:
    skip = {key: tfds.decode.SkipDecoding() for key in ("image", "label")}
    stored = builder.info.features.deserialize_example_np(serialized, decoders=skip)
    height, width = stored["original_size"].tolist()
    return Record(split, stored["id"].decode(), stored["image"], stored["label"] if labelled else None, (height, width))


def _damaged(path: Any, remark: str) -> Finding:
    return Finding(FAULT, "damaged-file", "a file of records is damaged", (Place(str(path), remark),), AGAIN)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def scan_record(spec: Spec, record: Record) -> Facts:
    """Decodes a record in full."""
    name = f"{record.split}/{record.id}"
    facts = Facts(record.split, record.id, name, "" if record.label is None else name, raw_size=record.original_size)
    try:
        image = _decode_image(record)
        _check_readable(record.image, image)
        facts = facts._replace(oddities=scan.oddities(record.image), **scan.measure_image(image))
    except Exception as error:  # decoders raise a dozen kinds on broken data
        facts = facts._replace(image_error=scan.reason(error, Path(record.id)))
    if record.label is None:
        return facts
    try:
        label = _decode_label(record, len(spec.names))
        _check_readable(record.label, label.train_ids)
        measured = scan.measure_label(label, spec.ids)
    except Exception as error:  # as above
        return facts._replace(label_error=scan.reason(error, Path(record.id)))
    return facts._replace(**measured)


def _check_readable(encoded: bytes, pixels: np.ndarray) -> None:
    """Raises UserError where training would read something else, or nothing."""
    if reason := decoding.disagreement(encoded, pixels):
        raise UserError(reason)


def _decode_image(record: Record) -> np.ndarray:
    return pictures.as_rgb(pictures.open_picture(Path(record.id), record.image))


def _decode_label(record: Record, classes: int) -> Label:
    picture = pictures.open_picture(Path(record.id), record.label or b"")
    if picture.mode not in ("L", "P"):
        raise UserError(f"stored as {picture.mode}, expected 8-bit train ids")
    train_ids = np.asarray(picture)
    values = np.unique(train_ids)
    return Label(
        train_ids.astype(np.int32), train_ids, values[(values >= classes) & (values != labels.IGNORE)].tolist()
    )


def _scene(record: Record) -> sheet.Scene | None:
    try:
        label = None if record.label is None else np.asarray(pictures.open_picture(Path(record.id), record.label))
        return f"{record.split}: {record.id}", _decode_image(record), label
    except UserError:
        return None


def repeated_ids(facts: list[Facts]) -> list[Finding]:
    """Ids that occur more than once in a split."""
    count = Counter(f.image for f in facts)
    repeated = tuple(Place(name, f"{n} times") for name, n in count.items() if n > 1)
    what = f"{len(repeated)} ids occur more than once in a split"
    return [Finding(FAULT, "repeated-id", what, repeated, AGAIN)] if repeated else []


def other_index(builder: tfds.core.DatasetBuilder, args: argparse.Namespace) -> list[Finding]:
    """Splits whose records training could not find."""
    reasons = []
    for split in builder.info.splits:
        try:
            read_index(builder, split, f"--data={args.data} --dataset={args.dataset}")
        except UserError as error:
            reasons.append(Place(split, str(error)))
    what = f"{len(reasons)} splits have no index of their records, or one of other files"
    return [Finding(FAULT, "index", what, tuple(reasons), "Run the command that it names.")] if reasons else []


def other_statistics(
    path: Path, args: argparse.Namespace, facts: list[Facts], labelled: dict[str, bool]
) -> list[Finding]:
    """Splits whose class statistics are not those of the labels; a set without statistics has none to compare."""
    if not path.is_file():
        return []
    wrong = []
    for split in (split for split, known in labelled.items() if known):
        recorded = statistics.read_statistics(args.data, args.dataset, split)
        pixels = ids.add(f.classes for f in facts if f.split == split)
        counted = [pixels.get(k, 0) for k in range(len(recorded.pixels))]
        if recorded.pixels.tolist() != counted or recorded.ignored != pixels.get(labels.IGNORE, 0):
            wrong.append(split)
    what = f"the class statistics of {', '.join(wrong)} are not those of the labels"
    return [Finding(FAULT, "statistics", what, (Place(str(path)),), AGAIN)] if wrong else []
