"""Paths and text files that a user names: local paths alone, text in whatever Unicode form it was saved."""

import codecs
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uda_jax.errors import UserError

# gs://bucket, and gs:/bucket, which pathlib makes of it. A single letter is a drive of Windows.
REMOTE = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
# A mark of UTF-32 begins with one of UTF-16, so it is looked for first.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def local(text: str | Path, flag: str) -> Path:
    """The path that `flag` was given, with a "~" expanded, which shells leave alone in --out=~/data.

    Raises:
      UserError: empty, an address such as gs://bucket/data, or with a character that no path can have.
    """
    text = str(text)
    if not text.strip():
        raise UserError(f"{flag}={text}: expected a path, found nothing (is a variable of the shell unset?)")
    if REMOTE.match(text):
        raise UserError(
            f"{flag}={text}: only local paths are read and written. Mount the storage (gcsfuse, rclone mount) or copy "
            f"it, and give the local path; a local directory of that name is {flag}=./{text.strip()}"
        )
    if "\0" in text:
        raise UserError(f"{flag}={text!r}: a path cannot hold a NUL character")
    path = Path(os.path.expanduser(text))
    return Path.cwd() / path if str(path).startswith("~") else path  # TensorFlow would expand what ./~ became


def records_dir(text: str | Path, flag: str) -> Path:
    """`local`, for a directory that TensorFlow reads or writes; raises UserError also for a name that is no UTF-8."""
    path = local(text, flag)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{flag}={ascii(str(path))[1:-1]}: TensorFlow needs names in UTF-8; rename it") from None
    return path


@contextmanager
def answering() -> Iterator[None]:
    """Turns what files and disks refuse inside into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; lines end in "\\n".

    Raises:
      UserError: it cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in content:
        raise UserError(f"{path} is no text, or in UTF-16 without a byte order mark (BOM). Save it as UTF-8.")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        advice = f" (encoding of Windows or Latin-1?). Save it as UTF-8: iconv -f latin1 -t utf-8 {path.name}"
        raise UserError(
            f"{path} is not in {encoding.removesuffix('-sig').upper()}: {error.reason} in line {line}"
            f"{advice if encoding.startswith('utf-8') else '. Save it as UTF-8.'}"
        ) from error
    if "\0" in text:
        raise UserError(f"{path} is no text: it holds NUL characters.")
    return text.replace("\r\n", "\n").replace("\r", "\n")
