"""Files that others read: there as a whole or not at all; and directories that one process writes to at a time."""

import contextlib
import fcntl
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from uda_jax.errors import UserError
from uda_jax.paths import is_remote, refusals

AnyPath: TypeAlias = Path | epath.Path


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Writes beside `path` and renames, or puts one object: who is killed meanwhile leaves the old file, or none."""
    encoded = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(encoded)
        return
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as file:
        file.write(encoded)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name without the content
    scratch.replace(path)


def make_directory(path: AnyPath) -> None:
    """Makes a directory, and those above it, where there are such."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def entries(directory: AnyPath) -> list[Any]:
    """What lies in a directory, sorted; nothing if there is none."""
    return sorted(directory.iterdir()) if directory.is_dir() else []


@contextlib.contextmanager
def fetched(path: AnyPath) -> Iterator[Path]:
    """The file on this machine's disk, for what reads here and there in it; messages name where it came from."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch) / path.name
        epath.Path(path).copy(here)
        try:
            yield here
        except UserError as error:
            raise UserError(str(error).replace(str(here), str(path))) from error


@contextlib.contextmanager
def sent(path: AnyPath) -> Iterator[Path]:
    """A file to write on this machine's disk: `path` itself, or what becomes it at the end, whole."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield (here := Path(scratch) / path.name)
        epath.Path(here).copy(path, overwrite=True)


class Growing:
    """Files of a directory that grow line by line.

    To an object nothing can be appended: there the files grow on this machine's disk, and `put` writes those that have
    grown since whole. A process that is killed takes what was not put yet with it.

    Attributes:
      here: the directory to write to.
    """

    def __init__(self, directory: AnyPath) -> None:
        self.there = directory
        self.scratch = tempfile.TemporaryDirectory() if is_remote(directory) else None
        self.here: AnyPath = directory if self.scratch is None else Path(self.scratch.name)
        self.sizes: dict[Path, int] = {}
        self.last = time.monotonic()

    def put(self, every: float = 0.0) -> None:
        """Has all that was written stand in the directory, unless that was done within the last `every` seconds."""
        if self.scratch is None or time.monotonic() - self.last < every:
            return
        for path in Path(self.here).rglob("*"):
            size = path.stat().st_size
            if path.is_file() and size != self.sizes.get(path):
                epath.Path(path).copy(self.there / path.relative_to(self.here), overwrite=True)
                self.sizes[path] = size
        self.last = time.monotonic()

    def close(self) -> None:
        self.put()
        if self.scratch is not None:
            self.scratch.cleanup()


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: numbers that are not finite become null, tuples lists."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def read_json_lines(path: AnyPath) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, [] of none; lines that are not whole are skipped: a killed run leaves such."""
    lines = []
    for line in path.read_bytes().decode(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                lines.append(value)
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def alone(directory: AnyPath, doing: str) -> Iterator[bool]:
    """Makes a directory and holds a lock on it, which ends with the process.

    Where there are no locks (object stores, some of Lustre and NFS), a warning says so, and it goes on without one.

    Args:
      doing: what is done there, for the messages, such as "training".
    Yields:
      Whether there is a lock.
    Raises:
      UserError: another process holds it, or nothing can be written there.
    """
    if is_remote(directory):
        _check_writable(directory)
        yield _unlocked(directory, doing, "an object store has no locks")
        return
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


def _check_writable(directory: AnyPath) -> None:
    """Writes and removes an object: who may read there need not be allowed to, and finds out late otherwise."""
    probe = directory / ".writable"
    try:
        probe.write_bytes(b"-")
        probe.unlink()
    except refusals() as error:
        raise UserError(
            f"{directory} cannot be written to: {' '.join(str(error).split())}; choose another directory, or have the "
            "permission to create and delete objects (role Storage Object User)"
        ) from error


def _lock(handle: int, directory: AnyPath, doing: str) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is {doing} in {directory}: wait for it, or stop it") from None
    except OSError as error:
        return _unlocked(directory, doing, error.strerror)
    return True


def _unlocked(directory: AnyPath, doing: str, why: str | None) -> bool:
    apart = f"so two processes {doing} there are not kept apart"
    print(f"warning: {directory} cannot be locked ({why}), {apart}", file=sys.stderr)
    return False
