"""Looks a data set over before hours are spent on it: every file is read, and every fault is listed.

  python -m data_prep.verify --dataset=gta5 --raw=DIR                       # gta5, synthia, cityscapes, visda17
  python -m data_prep.verify --dataset=folders --split train=DIR --split val=IMAGES,LABELS
  python -m data_prep.verify --dataset=cityscapes --data=data               # prepared by data_prep.build

Counts and pairing are of all files; --limit=N reads only N scenes, evenly spaced. --sheet=FILE draws images with
their labels over them: look at it. Exit status: 0 fine (warnings and notes at most), 1 faults found, 2 cannot run.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_prep import build, pictures
from data_prep.files import Files, folder_files
from data_prep.label_map import TRAIN_IDS, LabelMap, convert, load
from data_prep.raw import RAW_SETS, RawSet
from data_prep.verify import ids, rules, scan, sheet
from data_prep.verify.rules import FAULT, SEVERITIES, Finding, Report
from data_prep.verify.scan import Item, Label, Spec
from uda_jax import cli
from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.paths import local, records_dir

# (height, width) of the images as published.
SIZES = {
    "gta5": ((1052, 1914), (1046, 1914)),
    "synthia": ((760, 1280),),
    "cityscapes": ((1024, 2048),),
    "visda17": ((720, 1280),),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0 fine, 1 faults found, 2 cannot run."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    found: list[Finding] = []

    def command() -> None:
        report = verify(args)
        found.extend(report.findings)
        print(cli.printable(text(report, args.show)))
        if args.json:
            with sheet.whole(Path(args.json)) as scratch:
                scratch.write_text(json.dumps(as_json(report), indent=1) + "\n")
        if args.sheet:
            sheet.save(sheet.draw(report.scenes, report.spec.names), Path(args.sheet))

    return cli.answered(command) or exit_status(found)


def exit_status(findings: Iterable[Finding]) -> int:
    return int(any(finding.severity == FAULT for finding in findings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help=f"{', '.join(RAW_SETS)}, folders, or a prepared set's name")
    parser.add_argument("--raw", metavar="DIR", help="the set as it was downloaded")
    parser.add_argument("--split", action="append", default=[], metavar="SPLIT=DIR|IMAGES[,LABELS]", help="of folders")
    parser.add_argument("--label_map", metavar="FILE", help="of folders, as for data_prep.build")
    parser.add_argument("--data", metavar="DIR", help="the data directory of prepared sets")
    parser.add_argument("--complete", action="store_true", help="a count other than the published one is a fault")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="read only N scenes, evenly spaced")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that read")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="files listed of each finding, 0: all")
    parser.add_argument("--json", metavar="FILE", help="write all findings, with every file")
    parser.add_argument("--sheet", metavar="FILE", help="write a PNG of scenes with their labels over them")
    parser.add_argument("--sheet_scenes", type=int, default=12, metavar="N")
    return parser


def verify(args: argparse.Namespace) -> Report:
    """Reads and judges what the arguments name; raises UserError if that cannot be done."""
    _check(args)
    if args.data:
        from data_prep.verify import prepared  # imports TensorFlow

        return prepared.verify(args)
    if args.dataset == "folders":
        spec, files, where = _folders(args)
    else:
        raw = RAW_SETS[args.dataset]
        spec, files, where = spec_of(raw), raw.locate(build.raw_root(args.raw, raw.name)), args.raw
    images = {split: len(found.images) for split, found in files.items()}
    items = [item for split, found in files.items() for item in _items(split, found)]
    chosen = sheet.evenly(items, args.limit or len(items))
    facts = list(scan.measure(partial(scan.scan, spec), chosen, len(chosen), args.workers))
    found = rules.counts(spec, images, args.complete) + rules.others(files.values())
    for split in files:
        found += rules.pairing(split, files[split], strict=args.dataset != "folders")
    found += rules.findings(spec, facts) + rules.sampled(len(chosen), len(items))
    picked = sheet.evenly([item for item in chosen if item.label] or chosen, args.sheet_scenes)
    return Report(
        spec,
        where,
        images,
        {split: len(found.labels or {}) for split, found in files.items()},
        facts,
        rules.by_severity(found),
        [scene for item in picked if (scene := _scene(spec, item))] if args.sheet else [],
    )


def _check(args: argparse.Namespace) -> None:
    given = [flag for flag in ("raw", "split", "data") if getattr(args, flag)]
    for flag in ("raw", "json", "sheet"):
        if getattr(args, flag) is not None:
            setattr(args, flag, str(local(getattr(args, flag), f"--{flag}")))
    if args.data:
        args.data = str(records_dir(args.data, "--data"))
    wanted = "data" if args.data else "split" if args.dataset == "folders" else "raw"
    if given != [wanted]:
        raise UserError(
            f"--dataset={args.dataset} with {' and '.join(f'--{flag}' for flag in given) or 'no place to look'}: give "
            "--raw=DIR for a set as downloaded, --split NAME=DIR for folders, or --data=DIR for a prepared set."
        )
    if wanted == "raw" and args.dataset not in RAW_SETS:
        raise UserError(f"--dataset={args.dataset}: with --raw it is one of {', '.join(RAW_SETS)}")
    for flag, least in (("limit", 0), ("show", 0), ("workers", 1), ("sheet_scenes", 1)):
        if getattr(args, flag) < least:
            raise UserError(f"--{flag}={getattr(args, flag)}: expected {least} or more")


def spec_of(raw: RawSet) -> Spec:
    """What a published set should be."""
    read = partial(_read_raw, read=raw.read_label, convert=raw.to_train_ids)
    table = raw.name if raw.name in labels.TABLES else "cityscapes"
    return Spec(raw.name, raw.published, read, raw.names, table, SIZES.get(raw.name, ()), raw.mixed_sizes)


def _read_raw(path: Path, read: Callable, convert: Callable) -> Label:
    stored = read(path)
    return Label(stored, *convert(stored))


def _folders(args: argparse.Namespace) -> tuple[Spec, dict[str, Files], str]:
    label_map = TRAIN_IDS if args.label_map is None else load(args.label_map)
    table = label_map.name if label_map.name in labels.TABLES else None
    spec = Spec("folders", {}, partial(_read_mapped, label_map=label_map), label_map.classes, table)
    splits = build.parse_splits(args.split)
    files = {split: folder_files(*directories) for split, directories in splits.items()}
    return spec, files, ", ".join(str(images) for images, *_ in splits.values())


def _read_mapped(path: Path, label_map: LabelMap) -> Label:
    values, train_ids, unknown = convert(path, label_map)
    return Label(values.values, train_ids, unknown, values.colored)


def _items(split: str, files: Files) -> list[Item]:
    maps = files.labels or {}
    return [Item(split, name, path, maps.get(name)) for name, path in sorted(files.images.items())]


def _scene(spec: Spec, item: Item) -> sheet.Scene | None:
    """A scene of the contact sheet; None if it cannot be read."""
    try:
        label = None if item.label is None else spec.read_label(item.label).train_ids
        return f"{item.split}: {item.id}", pictures.read_image(item.image)[1], label
    except (UserError, OSError):
        return None


def text(report: Report, show: int) -> str:
    """The report to print: what is there, class shares, findings with at most `show` files each (0: all)."""
    spec, found = report.spec, report.findings
    lines = [f"{spec.name} in {report.where}: {len(report.facts):,} scenes read"]
    lines += [f"  {split}: {n:,} images, {report.labels[split]:,} labels" for split, n in report.images.items()]
    lines += _share_lines(report)
    for finding in found:
        lines += ["", f"{finding.severity}: {finding.what} [{finding.kind}]"]
        shown = finding.places[: show or None]
        lines += [f"    {place.file}{': ' if place.remark else ''}{place.remark}" for place in shown]
        if len(shown) < len(finding.places):
            lines.append(f"    ... and {len(finding.places) - len(shown):,} more (--show=0 or --json)")
        lines.append(f"  -> {finding.advice}")
    totals = [sum(finding.severity == severity for finding in found) for severity in SEVERITIES]
    parts = (f"{n} {severity}{'' if n == 1 else 's'}" for n, severity in zip(totals, SEVERITIES, strict=True))
    return "\n".join([*lines, "", ", ".join(parts)])


def class_pixels(report: Report) -> dict[int, int]:
    """Train id -> pixels in all labels read."""
    return ids.add(f.classes for f in report.facts)


def _share_lines(report: Report) -> list[str]:
    pixels = class_pixels(report)
    total = sum(pixels.values())
    if not total:
        return []
    published = ids.SHARES.get(report.spec.name)
    lines = ["  share of the pixels, %" + (" (published)" if published else "")]
    for k, name in enumerate(report.spec.names):
        known = f"  ({published[k]:.2f})" if published else ""
        lines.append(f"    {100 * pixels.get(k, 0) / total:6.2f}{known}  {name}")
    return [*lines, f"    {100 * pixels.get(labels.IGNORE, 0) / total:6.2f}  (ignored)"]


def as_json(report: Report) -> dict[str, Any]:
    """The report for other programs."""
    pixels = class_pixels(report)
    return {
        "dataset": report.spec.name,
        "where": report.where,
        "images": dict(report.images),
        "labels": dict(report.labels),
        "scenes_read": len(report.facts),
        "class_pixels": {name: pixels.get(k, 0) for k, name in enumerate(report.spec.names)},
        "ignored_pixels": pixels.get(labels.IGNORE, 0),
        "findings": [{**f._asdict(), "places": [p._asdict() for p in f.places]} for f in report.findings],
        "status": exit_status(report.findings),
    }
