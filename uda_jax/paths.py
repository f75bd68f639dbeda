"""Paths and text files that a user names: on disks and in object stores, text in whatever Unicode form it was saved."""

import codecs
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from etils import epath

from uda_jax.errors import UserError

# gs://bucket, also as pathlib makes of it (gs:/bucket) or mistyped (gs:bucket). A single letter is a drive of Windows.
REMOTE = re.compile(r"\s*(?:([a-z][a-z0-9+.-]+):/|(gs|s3):)", re.IGNORECASE)
ANSWER_S = 30.0  # a client that finds neither credentials nor the store tries again for minutes
CREDENTIALS = (
    "Credentials come from gcloud auth application-default login, from GOOGLE_APPLICATION_CREDENTIALS or from the "
    "machine's service account"
)
# A mark of UTF-32 begins with one of UTF-16, so it is looked for first.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def to_path(path: epath.PathLike) -> epath.Path:
    """The path as epath has it, except that /gs/x stays a directory of this machine, where some mount buckets."""
    text = os.fspath(path)
    return epath.Path(f"/{text}" if text.startswith("/") and is_remote(epath.Path(text)) else text)


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path object lies in an object store: no directories, no locks, nothing appended or renamed."""
    return "://" in os.fspath(path)


def user_path(text: epath.PathLike, flag: str) -> epath.Path:
    """The path that `flag` was given, on a disk (as `local`) or in Google's object store, which must answer.

    Raises:
      UserError: as `local` for what is no path; an address that is mistyped or of another store, or a store that
        refuses or does not answer within `ANSWER_S`.
    """
    text = os.fspath(text)
    match = REMOTE.match(text)
    if match is None:
        return to_path(local(text, flag))
    scheme = (match[1] or match[2]).lower()
    if scheme != "gs":
        raise UserError(
            f"{flag}={text}: local paths and gs:// are read and written, {scheme}:// is not (by TensorFlow and Orbax). "
            f"Mount that storage and give the local path; a local directory of that name is {flag}=./{text.strip()}"
        )
    rest = text.strip()[len("gs:") :].lstrip("/")
    if text != f"gs://{rest}" or not rest:
        raise UserError(
            f"{flag}={text}: did you mean gs://{rest or 'BUCKET/...'}? A local path is {flag}=./{text.strip()}"
        )
    path = epath.Path(text)
    _check_answers(path, f"{flag}={text}")
    return path


def _check_answers(path: epath.Path, what: str) -> None:
    import tensorflow  # noqa: F401, takes seconds: before the clock starts

    answer: Future[bool] = Future()

    def ask() -> None:
        try:
            answer.set_result(path.exists())
        except BaseException as error:  # raised again where it is waited for
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()  # which may go on trying for minutes
    try:
        answer.result(ANSWER_S)
    except TimeoutError:
        raise UserError(
            f"{what}: no answer within {ANSWER_S:g} s. Is there a network, or a proxy? {CREDENTIALS}"
        ) from None
    except Exception as error:
        raise UserError(f"{what} cannot be read: {' '.join(str(error).split())}. {CREDENTIALS}") from error


def local(text: epath.PathLike, flag: str) -> Path:
    """The path on a disk that `flag` was given, with a "~" expanded, which shells leave alone in --out=~/data.

    Raises:
      UserError: empty, an address such as gs://bucket/data, or with a character that no path can have.
    """
    text = os.fspath(text)
    if not text.strip():
        raise UserError(f"{flag}={text}: expected a path, found nothing (is a variable of the shell unset?)")
    if REMOTE.match(text):
        raise UserError(
            f"{flag}={text}: only local paths are taken here. Copy from there before, or to there afterwards (gcloud "
            f"storage cp -r), or mount the storage; a local directory of that name is {flag}=./{text.strip()}"
        )
    if "\0" in text:
        raise UserError(f"{flag}={text!r}: a path cannot hold a NUL character")
    path = Path(os.path.expanduser(text))
    return Path.cwd() / path if str(path).startswith("~") else path  # TensorFlow would expand what ./~ became


def records_dir(text: epath.PathLike, flag: str) -> Path:
    """`local`, for a directory that TensorFlow reads or writes; raises UserError also for a name that is no UTF-8."""
    path = local(text, flag)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{flag}={ascii(str(path))[1:-1]}: TensorFlow needs names in UTF-8; rename it") from None
    return path


@contextmanager
def answering() -> Iterator[None]:
    """Turns what disks and object stores refuse inside into a UserError."""
    try:
        yield
    except refusals() as error:
        file = getattr(error, "filename", None)
        raise UserError(f"{file}: {getattr(error, 'strerror', error)}" if file else str(error)) from error


def refusals() -> tuple[type[Exception], ...]:
    """The exceptions with which disks and object stores refuse; TensorFlow has its own for the latter."""
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return (OSError,)
    kinds = ("PermissionDenied", "Unauthenticated", "NotFound", "FailedPrecondition", "Unavailable", "Aborted")
    return (OSError, *(getattr(tf.errors, f"{kind}Error") for kind in kinds))


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
