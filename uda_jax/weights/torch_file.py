"""Reads the tensors of PyTorch checkpoints, without PyTorch and without running anything that is in them.

A checkpoint is a pickle, which is a program that may call any function it names, beside the raw bytes of its
storages. Here it may name only what tensors are made of (`GLOBALS`), and these names stand for functions of this file
that write down what is asked for and do nothing else; any other name ends the reading before it is looked up.

Two formats: a zip archive (PyTorch 1.6 and later), and pickles and storages one after the other (before 1.6; most
published segmenters).
"""

import functools
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from uda_jax.errors import UserError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what a file of the older format begins with
LEGACY_START = b"\x80\x02\x8a\n" + MAGIC.to_bytes(10, "little")
BFLOAT16 = "BFloat16Storage"  # NumPy has no such type: read as the equal float32
STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", BFLOAT16: "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1",
    "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip
CONTAINERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights beside other things


class Storage(NamedTuple):
    """Numbers `first` to `first + length` of the file's storage `key`."""

    kind: str
    key: str
    first: int
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Global(NamedTuple):
    """What a name in the pickle stands for. Immutable: a pickle may set attributes of whatever it gets hold of."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Table(dict):
    """An OrderedDict of the file; the attributes that it came with (versions of modules) are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    numbers = (offset, *size, *stride)
    if type(storage) is not Storage or any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
        raise ValueError(f"it has a tensor of the strange size {size}, stride {stride} and offset {offset}")
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


GLOBALS = {
    "collections.OrderedDict": Global(Table),
    "torch.Size": Global(tuple),
    "torch._utils._rebuild_tensor": Global(_tensor),
    "torch._utils._rebuild_tensor_v2": Global(_tensor),
    "torch._utils._rebuild_parameter": Global(_parameter),
    **{f"{module}.{kind}": kind for module in ("torch", "torch.cuda") for kind in STORAGES},
}


class _Unpickler(pickle.Unpickler):
    """Knows `GLOBALS` alone, and keeps a list of the storages that the pickle refers to."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file, encoding="utf-8")  # of the strings of Python 2
        self.path = path
        self.kinds: dict[str, tuple[str, int]] = {}  # key -> kind, total

    def find_class(self, module: str, name: str) -> Any:
        try:
            return GLOBALS[f"{module}.{name}"]
        except KeyError:
            raise UserError(
                f"{self.path} asks for {module}.{name}, which plain weights have no need of; nothing was run. It holds "
                "more than weights, or is not to be trusted. Ask for the weights alone: a .safetensors file, or what "
                "torch.save(model.state_dict(), FILE) writes."
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        tag, kind, key, _, total, *view = pid
        if tag != "storage" or kind not in STORAGES or type(total) is not int or total < 0:
            raise ValueError(f"it refers to {pid}, which is no storage")
        key = str(key)
        if self.kinds.setdefault(key, (kind, total)) != (kind, total):
            raise ValueError(f"it refers to the storage {key} as two different ones")
        _, first, length = view[0] if view and view[0] is not None else (None, 0, total)
        if type(first) is not int or type(length) is not int or min(first, length, total - first - length) < 0:
            raise ValueError(f"it refers to {length} numbers from {first} on of a storage of {total}")
        return Storage(kind, key, first, length)


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint's state dict by name, in their own layout and dtype (bfloat16 as float32).

    The state dict is the file itself, or one of its `CONTAINERS`.

    Raises:
      UserError: no such file, another format, damaged, no tensors, or a pickle that asks for anything else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            tree, fetch = _read_zip(file, path) if zipfile.is_zipfile(file) else _read_legacy(file, path)
            return {name: _array(tensor, fetch) for name, tensor in _state_dict(tree, path).items()}
    except FileNotFoundError as e:
        raise UserError(f"there is no file {path}") from e
    except UserError:
        raise
    except Exception as e:  # pickle and zipfile raise many kinds for a damaged file
        raise UserError(f"{path} is damaged, or no PyTorch checkpoint: {e}. Fetch it again.") from e


Fetch = Callable[[Storage], np.ndarray]  # a storage's numbers, 1-D


def _read_zip(file: IO[bytes], path: Path) -> tuple[Any, Fetch]:
    archive = zipfile.ZipFile(file)
    # The first folder is called after the file that was saved.
    records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "constants.pkl" in records:
        _refuse(path, "a TorchScript program")
    if "data.pkl" not in records:
        _refuse(path, "a zip archive without a PyTorch pickle")
    if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
        raise ValueError("its records are compressed, which PyTorch never does")
    if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
        _refuse(path, "a checkpoint of a big-endian machine")

    @functools.cache
    def read(key: str) -> np.ndarray:
        kind, total = unpickler.kinds[key]
        info, dtype = records[f"data/{key}"], np.dtype(STORAGES[kind])
        if info.file_size != total * dtype.itemsize:
            raise ValueError(f"its storage {key} has {info.file_size} bytes, expected {total * dtype.itemsize}")
        return np.frombuffer(archive.read(info), dtype)

    unpickler = _Unpickler(io.BytesIO(archive.read(records["data.pkl"])), path)
    tree = unpickler.load()
    return tree, _slices(read)


def _read_legacy(file: IO[bytes], path: Path) -> tuple[Any, Fetch]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(LEGACY_START)) != LEGACY_START:
        _refuse(path, "a file of another kind")
    file.seek(0)
    magic, protocol, system = (_Unpickler(file, path).load() for _ in range(3))
    if (magic, protocol) != (MAGIC, PROTOCOL) or not system["little_endian"]:
        _refuse(path, f"of protocol {protocol} and from {system}")
    unpickler = _Unpickler(file, path)
    tree = unpickler.load()
    storages = {}
    for key in _Unpickler(file, path).load():
        kind, total = unpickler.kinds[key]
        dtype, stored = np.dtype(STORAGES[kind]), int.from_bytes(file.read(8), "little")
        if stored != total or total * dtype.itemsize > size - file.tell():
            raise ValueError(f"its storage {key} of {total} numbers is not there in full")
        storages[key] = np.frombuffer(file.read(total * dtype.itemsize), dtype)
    return tree, _slices(storages.__getitem__)


def _slices(read: Callable[[str], np.ndarray]) -> Fetch:
    return lambda s: read(s.key)[s.first : s.first + s.length]


def _refuse(path: Path, what: str) -> NoReturn:
    raise UserError(f"{path} is {what}; expected what torch.save(model.state_dict(), FILE) writes")


def _state_dict(tree: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors of the unpickled object."""
    tables = [tree, *(tree.get(name) for name in CONTAINERS)] if isinstance(tree, dict) else []
    for table in tables:
        if isinstance(table, dict):
            tensors = {k: v for k, v in table.items() if isinstance(k, str) and type(v) is Tensor}
            if tensors:
                return tensors
    found = ", ".join(map(str, tree)) if isinstance(tree, dict) else f"a {type(tree).__name__}"
    raise UserError(f"{path} has no tensors by name, at its top or under {', '.join(CONTAINERS)}; it holds {found}")


def _array(tensor: Tensor, fetch: Fetch) -> np.ndarray:
    """A copy of the tensor's view of its storage, which must lie inside it and not repeat it."""
    numbers = fetch(tensor.storage)
    _, offset, size, stride = tensor
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size:
        array = np.zeros(size, numbers.dtype)
    elif last >= len(numbers) or math.prod(size) > len(numbers):
        raise ValueError(f"it has a tensor of size {size}, stride {stride} in a storage of {len(numbers)} numbers")
    else:
        steps = [step * numbers.itemsize for step in stride]
        array = np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False).copy()
    return (array.astype("<u4") << 16).view("<f4") if tensor.storage.kind == BFLOAT16 else array
