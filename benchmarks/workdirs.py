"""The command line of programs that report on finished runs: WORKDIR [WORKDIR ...], and no flags."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from uda_jax import cli


def report_on(program: str, description: str | None, report: Callable[[list[Path]], None]) -> NoReturn:
    """Runs `report` on the workdirs of the command line, and leaves with `cli.answered`'s exit status.

    Args:
      program: the module's name.
      description: what --help says.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", nargs="+", type=Path)
    workdirs = parser.parse_args().workdir
    sys.exit(cli.answered(lambda: report(workdirs)))
