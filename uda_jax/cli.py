"""What the command-line programs share: flags, and mistakes answered without a traceback."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from uda_jax.errors import UserError


def run(command: Callable[[], None]) -> None:
    """Parses the flags and runs `command`; a user's mistake ends it with its message and status 2."""

    def main(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected arguments: {' '.join(argv[1:])}")
        logging.set_verbosity(logging.WARNING)
        try:
            command()
        except UserError as e:
            fail(str(e))

    app.run(main, flags_parser=parse)


def answered(command: Callable[[], None]) -> int:
    """The exit status of a program that has parsed its own arguments.

    That is 2, with the message, for a user's mistake and for a file or disk that does not do what is asked of it.
    """
    try:
        command()
    except (UserError, OSError) as e:
        print(printable(f"error: {e}"), file=sys.stderr)
        return 2
    return 0


def printable(message: str) -> str:
    """The message in what the terminal can show: file names and class names may hold anything."""
    encoding = sys.stdout.encoding or "utf-8"
    return message.encode(encoding, "backslashreplace").decode(encoding)


def parse(argv: Sequence[str]) -> list[str]:
    """Flags out of `argv`; the config's own complaint about an unknown name becomes a message."""
    try:
        return list(flags.FLAGS(argv))
    except (flags.Error, AttributeError, KeyError) as e:
        fail(str(e.args[0]).replace("\\'", "'") if e.args else str(e))


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
