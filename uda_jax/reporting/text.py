"""The IoU tables as plain text or Markdown."""

from collections.abc import Sequence

from uda_jax.reporting import visda17
from uda_jax.reporting.comparison import Runs, cells, read_runs, remarks, scores


def table(runs: Runs, markdown: bool = False) -> str:
    """IoU per class in percent, a column a label, with the share of the gap that adaptation closes below it.

    Of runs that were scored on VisDA-2017 the table of its slides follows.

    Args:
      runs: label -> workdirs, one a seed, in display order.
      markdown: a Markdown table instead of plain text for the terminal.

    Raises:
      UserError: see `read_runs`.
    """
    read = read_runs(runs)
    names, ious = scores(read)
    text = aligned(cells(names, ious), markdown, last_apart=True)
    if notes := remarks(read, ious):
        text += "\n" + ("\n\n" if markdown else "\n").join(notes) + "\n"
    if grid := visda17.slides(read):
        text += f"\n{visda17.TITLE}, IoU in %:\n\n{aligned(grid, markdown, left=2)}"
    return text


def aligned(grid: Sequence[Sequence[str]], markdown: bool = False, left: int = 1, last_apart: bool = False) -> str:
    """A table, its first row the header.

    Args:
      left: how many columns are aligned to the left; the others hold numbers.
      last_apart: a line above the last row, in plain text.
    """
    grid = [[cell.replace("|", r"\|") if markdown else cell for cell in row] for row in grid]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    rule = ["-" * width for width in widths]
    if markdown:
        rule[left:] = ["-" * max(2, width - 1) + ":" for width in widths[left:]]
    rows = [grid[0], rule, *grid[1:]]
    if last_apart and not markdown:
        rows.insert(len(rows) - 1, rule)
    lines = [
        " | ".join(
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "".join(f"| {line} |\n" if markdown else f"{line}\n" for line in lines)
