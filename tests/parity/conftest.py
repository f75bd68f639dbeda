"""All parity tests run in float64, and can write the table of errors that docs/parity.md ends with."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.parity import reference

MARK = "<!-- The table below is written by the command above. -->\n"


@pytest.fixture(autouse=True, scope="module")
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-table", metavar="FILE", help="replace the table at the end of this Markdown file")


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--parity-table", default=None)
    if file and reference.WORST:
        text = Path(file).read_text().partition(MARK)[0]
        Path(file).write_text(text + MARK + "\n" + table())


def table() -> str:
    """The worst error of every group that was checked in this session, in Markdown."""
    rows = ["| file | arrays | worst error | tolerance |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {file} | {group} | {worst:.1e} | {tolerance:.0e} |"
        for (file, group), (worst, tolerance) in sorted(reference.WORST.items())
    ]
    return "\n".join(rows) + "\n"
