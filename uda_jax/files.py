"""Files that others read: there as a whole or not at all; and directories that one process writes to at a time."""

import contextlib
import errno
import fcntl
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uda_jax.errors import UserError

# What file systems without locks answer (Lustre, some NFS and FUSE mounts).
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


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
def alone(directory: Path, doing: str) -> Iterator[None]:
    """Makes a directory and holds a lock on it, which ends with the process; left empty, it is removed again.

    Args:
      doing: what is done there, for the message, such as "training".
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
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is {doing} in {directory}: wait for it, or stop it") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(
                f"warning: the disk of {directory} has no locks: never be {doing} there twice at once", file=sys.stderr
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it is not empty
                directory.rmdir()
    finally:
        os.close(handle)
