"""PyTorch files read without PyTorch: real ones of both formats, forged ones, and ones that want to run code."""

import gzip
import io
import pickle
import runpy
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.weights.weight_files import DATA, unpack
from uda_jax.errors import UserError
from uda_jax.weights.torch_file import MAGIC, PROTOCOL, read_torch

FORMATS = ("zip", "legacy")


def write(path: Path, form: str, program: bytes, storage: bytes = b"") -> Path:
    """A file of either format around a pickle, with one storage called "0"."""
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", program)
            archive.writestr("x/data/0", storage)
        return path
    head = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True})]
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", len(storage) // 4) + storage
    path.write_bytes(b"".join(head) + program + tail)
    return path


def tensor_program(
    size: str, stride: str, offset: int = 0, total: int = 6, view: str = "", kind: str = "Float"
) -> bytes:
    """The pickle of {"x": a tensor} with these numbers ("I2\\nI3\\n"), as PyTorch would have written it."""
    storage = f"(Vstorage\nctorch\n{kind}Storage\nV0\nVcpu\nI{total}\n{view}tQ"
    numbers = f"{storage}I{offset}\n({size}t({stride}tI00\nccollections\nOrderedDict\n)R"
    return f"(dVx\nctorch._utils\n_rebuild_tensor_v2\n({numbers}tRs.".encode()


SIX = np.arange(6, dtype="<f4")


@pytest.mark.parametrize("form", FORMATS)
def test_kinds_and_views_as_pytorch_wrote_them(form: str, tmp_path: Path) -> None:
    found = read_torch(unpack(f"kinds_{form}.pth", tmp_path))
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    thirds = grid / np.float32(3)
    expected = {
        "half": grid.astype(np.float16),
        "double": grid.astype(np.float64) / 3,
        "long": np.array(-7),
        "transposed": grid.T,
        "part": grid[1:3, 2:5],
        "parameter": np.array([1.5, -2.5], np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert found.keys() == expected.keys() | {"bfloat16"}
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert found["bfloat16"].dtype == np.float32
    np.testing.assert_allclose(found["bfloat16"], thirds, rtol=2**-8)
    assert (found["bfloat16"].view(np.uint32) & 0xFFFF == 0).all()


@pytest.mark.parametrize("form", FORMATS)
def test_a_forged_file_reads_like_a_real_one(form: str, tmp_path: Path) -> None:
    program = tensor_program("I3\nI2\n", "I1\nI3\n")
    found = read_torch(write(tmp_path / "x.pth", form, program, SIX.tobytes()))
    np.testing.assert_array_equal(found["x"], SIX.reshape(2, 3).T)


def test_a_storage_may_be_a_view_of_another(tmp_path: Path) -> None:
    program = tensor_program("I2\n", "I1\n", offset=1, view="(Vview\nI2\nI3\nt")
    found = read_torch(write(tmp_path / "x.pth", "legacy", program, SIX.tobytes()))
    np.testing.assert_array_equal(found["x"], [3, 4])


# Programs that write a file called `marker` when a pickle runs them.
ATTACKS = {
    "os.system": b"cos\nsystem\n(V{command}\ntR.",
    "posix.system": b"(Vx\nVy\niposix\nsystem\n.",
    "builtins.eval": b"cbuiltins\neval\n(V{code}\ntR.",
    "__builtin__.eval": b"c__builtin__\neval\n(V{code}\ntR.",
    "builtins.getattr": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93(V{code}\ntR.",
    "torch.load": b"(dVx\nctorch\nload\n(V{code}\ntRs.",
    "torch._utils.__builtins__": b"ctorch._utils\n__builtins__\n.",
    "numpy.core.multiarray.scalar": b"cnumpy.core.multiarray\nscalar\n.",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_that_a_file_asks_for_is_run(name: str, form: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    program = ATTACKS[name].replace(b"{command}", command.encode()).replace(b"{code}", code.encode())
    path = write(tmp_path / "x.pth", form, program)
    with pytest.raises(UserError, match=f"asks for {name}, .* nothing was run"):
        read_torch(path)
    assert not marker.exists()


def test_the_attack_is_real(tmp_path: Path) -> None:
    """What the test above refuses does write its file when Python's own unpickler reads it."""
    marker = tmp_path / "marker"
    pickle.loads(ATTACKS["os.system"].replace(b"{command}", f"touch {marker}".encode()))
    assert marker.exists()


class Bomb:
    """Pickles itself as a call of `exec`, as a hostile model file would."""

    def __init__(self, marker: Path) -> None:
        self.code = f"open({str(marker)!r}, 'w')"

    def __reduce__(self) -> tuple:
        return exec, (self.code,)


@pytest.mark.parametrize("place", ["weights", "header", "keys"])
def test_no_pickle_of_a_legacy_file_is_run(place: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(marker), 2)
    head = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True})]
    weights, keys = tensor_program("I6\n", "I1\n"), pickle.dumps(["0"], 2)
    head, weights, keys = {
        "header": ([head[0], bomb, head[2]], weights, keys),
        "weights": (head, bomb, keys),
        "keys": (head, weights, bomb),
    }[place]
    (tmp_path / "x.pth").write_bytes(b"".join(head) + weights + keys)
    with pytest.raises(UserError, match=r"asks for __builtin__.exec"):
        read_torch(tmp_path / "x.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(dVfunction\nVx\nsb.",  # an attribute of what a name stands for
        b"ctorch._utils\n_rebuild_tensor_v2\n(N(dV__defaults__\nNstb.",  # the same as a slot
        b"ccollections\nOrderedDict\n(dV__setstate__\nVx\nsb.",
        b"ctorch\nFloatStorage\n(V1\ntR.",  # a call of a name that is no function
        b"ctorch.Size\n\n.",
        b"(dVx\nVstorage\nPx\ns.",  # a storage by a text
    ],
)
def test_names_cannot_be_bent(program: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        read_torch(write(tmp_path / "x.pth", "zip", program))
    good = write(tmp_path / "y.pth", "zip", tensor_program("I6\n", "I1\n"), SIX.tobytes())
    np.testing.assert_array_equal(read_torch(good)["x"], SIX)


BIG = 10**12
OUTSIDE = {
    "too long": {"size": "I7\n", "stride": "I1\n"},
    "offset": {"size": "I6\n", "stride": "I1\n", "offset": 1},
    "negative offset": {"size": "I2\n", "stride": "I1\n", "offset": -1},
    "stride": {"size": "I2\nI2\n", "stride": f"I{BIG}\nI1\n"},
    "negative stride": {"size": "I2\n", "stride": "I-1\n", "offset": 1},
    "negative size": {"size": "I-2\nI-3\n", "stride": "I3\nI1\n"},
    "repeated without end": {"size": f"I{BIG}\n", "stride": "I0\n"},
    "overflow": {"size": f"I{2**62}\nI{2**62}\n", "stride": "I0\nI4\n"},
    "ranks differ": {"size": "I2\nI3\n", "stride": "I1\n"},
    "no number": {"size": "V6\n", "stride": "I1\n"},
    "storage larger than its bytes": {"size": "I6\n", "stride": "I1\n", "total": 600},
    "storage of other numbers": {"size": "I3\n", "stride": "I1\n", "kind": "Double"},
    "view outside": {"size": "I6\n", "stride": "I1\n", "view": "(Vview\nI3\nI4\nt"},
    "negative view": {"size": "I2\n", "stride": "I1\n", "view": "(Vview\nI-3\nI3\nt"},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", OUTSIDE)
def test_tensors_outside_their_storage_are_refused(case: str, form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", form, tensor_program(**OUTSIDE[case]), SIX.tobytes())
    with pytest.raises(UserError, match="is damaged, or no PyTorch checkpoint"):
        read_torch(path)


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_anywhere(form: str, tmp_path: Path) -> None:
    path = Path(unpack(f"kinds_{form}.pth", tmp_path))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(len(whole) // 97, 1)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=str(path)):
            read_torch(path)


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    """A damaged file is refused or read; nothing but UserError comes out."""
    rng = np.random.default_rng(0)
    for form in FORMATS:
        path = Path(unpack(f"kinds_{form}.pth", tmp_path))
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        refused = 0
        for _ in range(200):
            damaged = whole.copy()
            damaged[rng.integers(len(whole), size=3)] = rng.integers(256, size=3)
            path.write_bytes(damaged.tobytes())
            try:
                read_torch(path)
            except UserError:
                refused += 1
        assert refused > 20


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content, words in ((b"\x80\x04K\x01.", "a file of another kind"), (b"", "a file of another kind")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_torch(path)
    with pytest.raises(UserError, match="no file"):
        read_torch(tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"no tensors by name.*it holds epoch, args"):
        read_torch(write(path, "zip", pickle.dumps({"epoch": 1, "args": {}}, 2)))
    with pytest.raises(UserError, match=r"no tensors by name.*it holds a list"):
        read_torch(write(path, "zip", pickle.dumps([1], 2)))


@pytest.mark.parametrize(
    ("record", "content", "words"),
    [
        ("x/constants.pkl", b"", "a TorchScript program"),
        ("x/byteorder", b"big", "big-endian"),
        ("x/other", b"", "without a PyTorch pickle"),
        ("x/data.pkl", b"}.", "compressed"),
    ],
)
def test_other_archives(record: str, content: bytes, words: str, tmp_path: Path) -> None:
    kind = zipfile.ZIP_DEFLATED if words == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(tmp_path / "x.pth", "w", kind) as archive:
        archive.writestr(record, content)
        if "byteorder" in record:
            archive.writestr("x/data.pkl", b"}.")
    with pytest.raises(UserError, match=words):
        read_torch(tmp_path / "x.pth")


def test_the_files_are_what_torch_writes(tmp_path: Path) -> None:
    """With PyTorch at hand: the script beside them writes the same arrays anew, and PyTorch reads the same."""
    torch = pytest.importorskip("torch")
    runpy.run_path(str(DATA / "make_torch_files.py"))["make"](tmp_path)
    for stored in sorted(DATA.glob("*.pth.gz")):
        name = stored.name.removesuffix(".gz")
        ours = read_torch(unpack(name, tmp_path))
        theirs = torch.load(io.BytesIO((tmp_path / name).read_bytes()), weights_only=True)
        theirs = theirs.get("state_dict", theirs)
        (tmp_path / name).write_bytes(gzip.decompress((tmp_path / f"{name}.gz").read_bytes()))
        anew = read_torch(tmp_path / name)
        assert ours.keys() == theirs.keys() == anew.keys()
        for key, array in ours.items():
            np.testing.assert_array_equal(array, anew[key])
            np.testing.assert_array_equal(array, theirs[key].detach().to(torch.from_numpy(array).dtype).numpy())
