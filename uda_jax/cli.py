"""What the command-line programs share: flags, and mistakes answered without a traceback."""

import difflib
import os
import re
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging

from uda_jax.errors import STOPPED, Stopped, UserError
from uda_jax.paths import REMOTE, answering


def run(command: Callable[[], None]) -> None:
    """Parses the flags and runs `command`; how that ends early is said in a message and in the exit status."""

    def main(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected arguments: {' '.join(argv[1:])}")
        logging.set_verbosity(logging.WARNING)
        if not jax.distributed.is_initialized():  # several processes have JAX's handler, and leave together
            signal.signal(signal.SIGTERM, _preempted)
        try:
            status = answered(command)
        except Exception:
            if not jax.distributed.is_initialized():
                raise
            traceback.print_exc()  # and no more: Python's own end would wait for processes that may be stuck
            status = 1
        if status:
            leave(status)

    # --help tells of the module that was started. Where that is a console script, which says nothing, of the command's.
    module = sys.modules[command.__module__]
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=parse)


def answered(command: Callable[[], None], stopped: str = "stopped") -> int:
    """Runs `command`; the exit status: 0, or with a message 2 for a user's mistake, `STOPPED` or 130 (Ctrl-C).

    What disks and object stores say is the user's to mend as well: full, read-only, not permitted.

    Args:
      stopped: the message for Ctrl-C.
    """
    try:
        with answering():
            command()
    except UserError as e:
        print(printable(f"error: {e}"), file=sys.stderr)
        return 2
    except Stopped as e:
        print(e, file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def printable(message: str) -> str:
    """The message in what the terminal can show: file names and class names may hold anything."""
    encoding = sys.stdout.encoding or "utf-8"
    return message.encode(encoding, "backslashreplace").decode(encoding)


def _preempted(*_: object) -> NoReturn:
    """SIGTERM outside of training, which has handlers of its own: while importing, or writing a report."""
    os.write(2, b"stopped; the same command goes on from there\n")  # print is not safe wherever this may come
    os._exit(STOPPED)


def leave(status: int) -> NoReturn:
    """Ends the process; a thread that is inside XLA, compiling for nobody, would hold `sys.exit` up or crash it."""
    if jax.distributed.is_initialized():
        if status == STOPPED:
            jax.distributed.shutdown()  # waits for the others, which would take this one for lost
        else:
            from uda_jax.training.processes import leave_together  # of use to few commands, and slow to import

            leave_together()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def parse(argv: Sequence[str]) -> list[str]:
    """Flags out of `argv`; what is wrong with them, or with the config's file, becomes a message."""
    argv = [_at_home(argument) for argument in argv]
    config = _config_file(argv)
    if config is not None and not os.path.isfile(config):
        if REMOTE.match(config):
            fail(f"--config={config}: only local paths are read; copy it, and give the local path")
        near = difflib.get_close_matches(config, [str(path) for path in Path("configs").glob("*.py")], n=1)
        fail(f"--config={config}: no such file; " + (f"did you mean {near[0]}?" if near else "configs/ has examples"))
    try:
        return list(flags.FLAGS(argv))
    except Exception as e:  # a config is a program: it may raise anything
        fail(_in_config(config, e) or _message(e).replace("module 'config_config'", f"--config={config}:"))


def _at_home(argument: str) -> str:
    """--config=~/x.py with the home directory, which shells put in for a "~" at the start of a word alone."""
    flag, equals, value = argument.partition("=")
    return f"{flag}={os.path.expanduser(value)}" if equals and flag in ("--config", "-config") else argument


def _config_file(argv: Sequence[str]) -> str | None:
    """The file that --config names, without what may be handed to it after a colon; None if the flag is not there."""
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = flag.partition("=")
        if name in ("--config", "-config"):
            value = value if equals else following
            return value if REMOTE.match(value) else value.partition(":")[0]
    return None


def _in_config(config: str | None, error: BaseException | None) -> str:
    """The line of the config's file from which an error comes, and the last one of a file that it imports, if any.

    "" if it does not come from there.
    """
    while config is not None and error is not None:
        if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
            return f"{error.filename}, line {error.lineno}: {error.msg}\n    {(error.text or '').strip()}"
        frames = traceback.extract_tb(error.__traceback__)
        places = [i for i, frame in enumerate(frames) if os.path.realpath(frame.filename) == os.path.realpath(config)]
        if places:
            first, *imported = [frames[places[-1]], *filter(_is_users, frames[places[-1] + 1 :])]
            lines = [f"{config}, line {first.lineno}: {type(error).__name__}: {_message(error)}\n    {first.line}"]
            lines += [f"{frame.filename}, line {frame.lineno}:\n    {frame.line}" for frame in imported[-1:]]
            return "\n".join(lines)
        error = error.__cause__ or error.__context__
    return ""


def _is_users(frame: traceback.FrameSummary) -> bool:
    """Whether a line is in a file that the user wrote, and not in a library, Python's own or this one."""
    libraries = (*sysconfig.get_paths().values(), os.path.dirname(__file__))
    return os.path.isfile(frame.filename) and not frame.filename.startswith(libraries)


def _message(error: BaseException) -> str:
    """What an error says, without the list of all settings, or the traceback, that ml_collections puts into it."""
    text = str(error).replace("\\n", "\n").replace("\\'", "'")
    missing, hint = re.search(r"""Key ["'](\w+)["'] does not exist""", text), re.search(r"Did you mean .*\?", text)
    if missing or hint:
        return " ".join([*([f"there is no setting {missing[1]!r}."] if missing else []), *([hint[0]] if hint else [])])
    return text.strip().splitlines()[-1] if "Traceback" in text else text


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
