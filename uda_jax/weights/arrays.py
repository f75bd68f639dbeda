"""Named arrays in a file, .npz or .safetensors: the one place that reads and writes both.

Reading needs NumPy alone, and this file can be copied out of the package: `read_arrays("weights.npz")` gives what
`python -m uda_jax.export` wrote. docs/weights.md describes names, layouts and metadata.
"""

import json
import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

try:
    from uda_jax.errors import UserError
except ImportError:  # copied out of the package
    UserError = ValueError  # type: ignore[assignment, misc]

Arrays = dict[str, np.ndarray]
METADATA = "__metadata__"  # the name that both formats keep it under
SUFFIXES = (".npz", ".safetensors")
# The .safetensors names of NumPy's types. NumPy has no bfloat16: "BF16" is read as the equal float32.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def read_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Every array of a file by name, in its own dtype (bfloat16 as float32), and the file's metadata, {} if none.

    Nothing in the file is executed: pickled objects are refused.

    Raises:
      UserError: no such file, another format, or damaged.
    """
    return _read(path, wanted=True)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata alone, {} if the file has none; raises UserError as `read_arrays`."""
    return _read(path, wanted=False)[1]


def _read(path: str | Path, wanted: bool) -> tuple[Arrays, dict[str, Any]]:
    """`read_arrays`, without the arrays unless they are wanted."""
    path = check_suffix(path)
    read = _read_npz if path.suffix == ".npz" else _read_safetensors
    try:
        with path.open("rb") as file:  # our own handle: numpy leaves its open where the archive is damaged
            arrays, text = read(file, wanted)
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no JSON object")
    except FileNotFoundError as e:
        raise UserError(f"there is no file {path}") from e
    except Exception as e:  # numpy, zipfile and json raise many kinds for a damaged file
        raise UserError(f"{path} is not a readable {path.suffix} of plain arrays: {e}") from e
    return arrays, metadata


def write_arrays(path: str | Path, arrays: Arrays, metadata: dict[str, Any]) -> None:
    """Writes plain arrays and metadata (anything JSON can hold); under `path` there is never half a file.

    bfloat16 arrays are written as float32, which holds the same values.

    Raises:
      UserError: another format, or the file cannot be written.
      TypeError: an array of objects, text or another type that is no number.
    """
    path = check_suffix(path)
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    write = _write_npz if path.suffix == ".npz" else _write_safetensors
    text = json.dumps(metadata)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file, plain, text)
        partial.replace(path)
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e}") from e
    finally:
        if partial.exists():
            partial.unlink()


def check_suffix(path: str | Path) -> Path:
    """The path, or UserError if its suffix names no format of ours."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path}: the format {path.suffix or '(no suffix)'} is unknown; expected {' or '.join(SUFFIXES)}"
        )
    return path


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """Little-endian numbers."""
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.newbyteorder("<").str not in DTYPES.values():
        raise TypeError(f"{name} holds {array.dtype}, which is no plain number")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _read_npz(file: IO[bytes], wanted: bool) -> tuple[Arrays, str]:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no zip archive, or ends too early")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if wanted or name == METADATA}
    text = arrays.pop(METADATA, np.asarray("{}"))
    strange = [f"{name} holds {array.dtype}" for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if strange:
        raise ValueError(f"{strange[0]}, which is no plain number")
    return arrays, str(text)


def _write_npz(file: IO[bytes], arrays: Arrays, text: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # as np.savez does, for arrays of any name
        for name, array in {**arrays, METADATA: np.asarray(text)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read_safetensors(file: IO[bytes], wanted: bool) -> tuple[Arrays, str]:
    """Eight bytes with the length of a JSON header, the header, and the raw arrays at the offsets that it gives."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if not 2 <= length <= size - 8:
        raise ValueError(f"its header should have {length} bytes, the file has {size}")
    header = json.loads(file.read(length))
    text = header.pop(METADATA, {}).get("uda_jax", "{}")  # what others keep there is none of ours
    tensors = header if wanted else {}
    return {name: _read_tensor(file, name, entry, start, size) for name, entry in tensors.items()}, text


def _read_tensor(file: IO[bytes], name: str, entry: dict[str, Any], start: int, size: int) -> np.ndarray:
    """The array that a header's entry describes, from a file of `size` bytes whose data begin at `start`."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{name} has no dtype, shape and data_offsets")
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in (*DTYPES, "BF16"):
        raise ValueError(f"{name} has the unknown type {dtype}")
    kind = np.dtype("<u2" if dtype == "BF16" else DTYPES[dtype])
    if not 0 <= begin <= end <= size - start:
        raise ValueError(f"{name} lies at bytes {begin} to {end} of {size - start}")
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != end - begin:
        raise ValueError(f"{name} has {end - begin} bytes, which is not {shape} of {dtype}")
    file.seek(start + begin)
    array = np.frombuffer(bytearray(file.read(end - begin)), kind).reshape(shape)
    return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array


def _write_safetensors(file: IO[bytes], arrays: Arrays, text: str) -> None:
    from safetensors.numpy import save  # here, since reading needs NumPy alone

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # it copies memory as it lies
    file.write(save(whole, {"uda_jax": text}))
