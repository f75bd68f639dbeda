"""Files that others read: there as a whole or not at all; and directories that one process writes to at a time."""

import contextlib
import fcntl
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uda_jax.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Writes beside `path` and renames: who is killed meanwhile leaves the old file, or none."""
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name without the content
    scratch.replace(path)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: numbers that are not finite become null, tuples lists."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def alone(directory: Path, doing: str) -> Iterator[bool]:
    """Makes a directory and holds a lock on it, which ends with the process.

    Where the file system has no locks (some of Lustre and NFS), a warning says so, and it goes on without one.

    Args:
      doing: what is done there, for the messages, such as "training".
    Yields:
      Whether there is a lock.
    Raises:
      UserError: another process holds it, or nothing can be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory} cannot be made: {error.strerror}; choose another directory") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"{directory} cannot be written to; choose another directory, or mend its permissions")
    handle = os.open(directory, os.O_RDONLY)
    try:
        yield _lock(handle, directory, doing)
    finally:
        os.close(handle)


def _lock(handle: int, directory: Path, doing: str) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is {doing} in {directory}: wait for it, or stop it") from None
    except OSError as error:
        apart = f"so two processes {doing} there are not kept apart"
        print(f"warning: {directory} cannot be locked ({error.strerror}), {apart}", file=sys.stderr)
        return False
    return True
