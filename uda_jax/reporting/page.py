"""Compares finished runs: an IoU table, figures, and one self-contained HTML page.

    python -m uda_jax.report --out=report "source-only=runs/a/0,runs/a/1" "AdaptSegNet=runs/b" "oracle=runs/c"

Each argument is LABEL=WORKDIR[,WORKDIR...], one workdir a seed. The labels "source-only" and "oracle" are
special: with both present, the report says which share of the gap between them adaptation closes.
"""

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from uda_jax.errors import UserError
from uda_jax.files import make_directory, write_whole
from uda_jax.paths import answering, to_path, user_path
from uda_jax.reporting import figures, selection, visda17
from uda_jax.reporting.comparison import (
    Read,
    Run,
    Runs,
    cells,
    evaluated_on,
    flat,
    mean_iou,
    percent,
    read_runs,
    remarks,
    scores,
    series,
)
from uda_jax.reporting.text import table
from uda_jax.training import health

HEALTH = "healthy discriminator loss 0.2-0.5 per domain (vanilla GAN); accuracy near 1 = collapse"
HEALTH_KEYS = ("loss_d_main_source", "loss_d_main_target", "acc_d_main")
RUN_COLUMNS = (
    "label", "run", "method", "seed", "source data", "target data", "step", "mIoU, %", "evaluated on",
    "wall time", "training", "devices", "versions", "parameters",
)  # fmt: skip


def write_report(runs: Runs, out: epath.PathLike, title: str) -> epath.Path:
    """Writes report.html (self-contained), per_class.png and, given their data, curves.png and strips.png.

    Args:
      runs: label -> workdirs, one a seed, in display order; the pictures are those of a label's first seed.
      out: directory, made if needed.
      title: the page's heading.

    Returns:
      The path of report.html.

    Raises:
      UserError: see `read_runs`; also if `out` is not a directory or a picture cannot be read.
    """
    read, out = read_runs(runs), to_path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, expected a directory for the report; choose another by --out=DIR")
    make_directory(out)
    names, ious = scores(read)
    samples = {label: seeds[0].workdir / "samples" for label, seeds in read.items()}
    drawn = {
        "per_class": figures.per_class(ious, names),
        "curves": figures.curves({label: [run.metrics for run in seeds] for label, seeds in read.items()}),
        "strips": figures.strips(samples, names[:-1]),
    }
    pictures = {}
    for name, figure in drawn.items():
        path = out / f"{name}.png"
        path.unlink(missing_ok=True)  # of an earlier report
        if figure is not None:
            drawing = io.BytesIO()
            figure.savefig(drawing, dpi=150)
            write_whole(path, drawing.getvalue())
            pictures[name] = base64.b64encode(drawing.getvalue()).decode("ascii")
    page = out / "report.html"
    write_whole(page, _page(title, read, names, ious, pictures))
    return page


CSS = """
:root { color-scheme: light dark;
        --ink: #1d1d1f; --paper: #fff; --soft: #6b6b70; --line: #e2e2e6; --card: #f6f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --paper: #17171a; --soft: #a0a0a8; --line: #36363c; --card: #222226 }
  img { filter: brightness(.9) }
}
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem;
       background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
       overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .6rem }
p { margin: .4rem 0 } .soft { color: var(--soft); font-size: .9rem }
.means { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 }
.means div { background: var(--card); border-top: 4px solid; border-radius: 6px; padding: .5rem .9rem }
.means span { color: var(--soft); font-size: .85rem }
.means b { display: block; color: var(--ink); font-size: 1.5rem; line-height: 1.3 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
.numbers :is(th, td):not(:first-child) { text-align: right }
.numbers tr:last-child td { font-weight: 600; border-top: 2px solid var(--soft) }
i.chip { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px;
         outline: 1px solid var(--line) }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px }
img.tall { max-width: 40rem; margin-top: 1.2rem } img.wide { min-width: 50rem }
details { border-bottom: 1px solid var(--line); padding: .4rem 0 } summary { cursor: pointer }
pre { background: var(--card); border-radius: 6px; padding: .8rem; overflow-x: auto;
      font-size: .8rem; line-height: 1.4 }
"""


def _page(
    title: str,
    read: Read,
    names: Sequence[str],
    ious: Mapping[str, np.ndarray],
    pictures: Mapping[str, str],
) -> str:
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in remarks(read, ious))
    evaluated = "; ".join(sorted({evaluated_on(run) for run in flat(read)}))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class=soft>Intersection over union (IoU) on {html.escape(evaluated)}</p>",
        _means(ious),
        notes,
        "<h2>IoU per class, %</h2>",
        _score_table(names, ious),
        _picture(pictures, "per_class", "Bars: IoU per class for each label", css="tall"),
        _section(f"{visda17.TITLE}, IoU in %", _slides_table(read)),
        _section("Pictures", _picture(pictures, "strips", "Images, truth and predictions")),
        _section("Training", _picture(pictures, "curves", "Losses and target mIoU over steps")),
        _section("Health", _health(read)),
        _section("Choosing without target labels", _choices(read)),
        _section("Runs", _run_table(read)),
        _section("Configurations", "".join(_config(label, run) for label, run in _labelled(read))),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _labelled(read: Read) -> list[tuple[str, Run]]:
    return [(label, run) for label, seeds in read.items() for run in seeds]


def _section(heading: str, content: str) -> str:
    return f"<h2>{heading}</h2>\n{content}" if content else ""


def _means(ious: Mapping[str, np.ndarray]) -> str:
    colors = figures.label_colors(list(ious))
    cards = (
        f'<div style="border-color:{colors[label]}"><span>{html.escape(label)}</span>'
        f"<b>{percent(values[:, -1])}</b><span>mIoU, %</span></div>"
        for label, values in ious.items()
    )
    return f"<div class=means>{''.join(cards)}</div>"


def _score_table(names: Sequence[str], ious: Mapping[str, np.ndarray]) -> str:
    header, *rows = cells(names, ious)
    colors = figures.class_colors(names[:-1]).values()
    chips = [f'<i class=chip style="background:{color}"></i>' for color in colors]
    marked = [
        [chip + html.escape(row[0]), *map(html.escape, row[1:])] for chip, row in zip([*chips, ""], rows, strict=True)
    ]
    return _html_table(map(html.escape, header), marked, "numbers")


def _slides_table(read: Read) -> str:
    """That of `visda17.slides`, "" if the runs were scored on other data."""
    header, *rows = visda17.slides(read) or [[]]
    return _html_table(header, [map(html.escape, row) for row in rows], "facts") if rows else ""


def _html_table(header: Iterable[str], rows: Iterable[Iterable[str]], css: str) -> str:
    """A table in a scrolling box; the cells are HTML, escaped by the caller."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<div class=scroll><table class={css}>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"


def _picture(pictures: Mapping[str, str], name: str, alt: str, css: str = "wide") -> str:
    if name not in pictures:
        return ""
    return f'<div class=scroll><img class={css} alt="{alt}" src="data:image/png;base64,{pictures[name]}"></div>'


def _choices(read: Read) -> str:
    """What label-free scores would have picked; "" if no run has such."""
    chosen = selection.rows(read)
    return _html_table(selection.HEADER, [map(html.escape, row) for row in chosen], "") if chosen else ""


def _health(read: Read) -> str:
    """The last measured discriminator values of each run that has any, and the warnings of each; "" if none has."""
    rows, warned = [], []
    for label, run in _labelled(read):
        warned += [
            f"<li>{html.escape(f'{label}, {run.workdir}, steps {first:.0f} to {last:.0f}: {text}')}</li>"
            for first, last, text in health.history(run.metrics)
        ]
        measured = [series(run.metrics, key) for key in HEALTH_KEYS]
        last = [f"{values[-1]:.3f}" if len(values) else "-" for _, values in measured]
        step = max((steps[-1] for steps, _ in measured if len(steps)), default=None)
        if step is not None:
            rows.append([html.escape(label), html.escape(str(run.workdir)), *last, f"{step:.0f}"])
    listed = f"<p>Warnings of the log:</p><ul>{''.join(warned)}</ul>" if warned else ""
    if not rows:
        return listed
    header = ["label", "run", *HEALTH_KEYS, "at step"]
    return f"<p>{html.escape(HEALTH)}</p>" + _html_table(header, rows, "facts") + listed


def _run_table(read: Read) -> str:
    rows = [[html.escape(str(cell)) for cell in _run_row(label, run)] for label, run in _labelled(read)]
    return _html_table(RUN_COLUMNS, rows, "facts")


def _run_row(label: str, run: Run) -> list[object]:
    return [
        label,
        run.workdir,
        run.config.get("method", "-"),
        run.config.get("seed", "-"),
        _trained_on(run.config, "source"),
        _trained_on(run.config, "target"),
        run.evaluation.get("step", "-"),
        percent(np.array([mean_iou(run)])),
        evaluated_on(run),
        _duration(run.facts.get("wall_s")),
        _duration(run.facts.get("train_s")),
        run.facts.get("devices", "-"),
        _pairs(run.facts.get("versions")),
        _pairs(run.facts.get("parameters")),
    ]


def _trained_on(config: Mapping[str, Any], domain: str) -> str:
    """Dataset and split of `config.data.<domain>`, "-" if the config does not tell."""
    data = config.get("data")
    stream = data.get(domain) if isinstance(data, dict) else None
    return f"{stream.get('dataset', '-')} {stream.get('split', '')}" if isinstance(stream, dict) else "-"


def _duration(seconds: object) -> str:
    if not isinstance(seconds, int | float):
        return "-"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _pairs(value: object) -> str:
    """ "jax 0.10.2, flax 0.12" for a dict; numbers get thousands separators."""
    if not isinstance(value, dict):
        return "-" if value is None else str(value)
    shown = {key: f"{item:,}" if isinstance(item, int) else item for key, item in value.items()}
    return ", ".join(f"{key} {item}" for key, item in shown.items())


def _config(label: str, run: Run) -> str:
    if not run.config:
        return ""
    text = html.escape(json.dumps(run.config, indent=2))
    name = html.escape(f"{label}: {run.workdir}")
    return f"<details><summary>{name}</summary><pre>{text}</pre></details>\n"


def parse_runs(arguments: Sequence[str]) -> dict[str, list[epath.Path]]:
    """ "LABEL=DIR[,DIR...]" arguments as label -> workdirs.

    Raises:
      UserError: an argument has no label or no directory, or a label comes twice.
    """
    runs: dict[str, list[epath.Path]] = {}
    for argument in arguments:
        label, _, directories = argument.partition("=")
        paths = [user_path(part.strip(), label.strip()) for part in directories.split(",") if part.strip()]
        if not label.strip() or not paths:
            raise UserError(f'{argument!r}: expected LABEL=WORKDIR[,WORKDIR...], as in "source-only=runs/a"')
        if label.strip() in runs:
            raise UserError(f"{argument!r}: label {label.strip()!r} comes twice; join its seeds by commas")
        runs[label.strip()] = paths
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m uda_jax.report", description="Compare finished runs.")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--title", default="Domain adaptation report", help="heading of the page")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("runs", nargs="+", metavar="LABEL=WORKDIR[,WORKDIR...]", help="one workdir a seed")
    flags = parser.parse_args(arguments)
    try:
        with answering():
            runs = parse_runs(flags.runs)
            page = write_report(runs, user_path(flags.out, "--out"), flags.title)
            print(table(runs, flags.markdown))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {page}", file=sys.stderr)
    return 0
