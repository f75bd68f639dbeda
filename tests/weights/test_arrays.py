"""Files of arrays: what is written is read, and damage is told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from uda_jax.errors import UserError
from uda_jax.weights import arrays as module
from uda_jax.weights.arrays import read_arrays, write_arrays

METADATA = {"classes": ["Straße", "sky"], "sizes": {"eval": [512, 1024]}}


def some() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "conv1.weight": rng.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "file": rng.standard_normal((3, 2)),  # np.savez has an argument of this name
        "half": rng.standard_normal(3).astype(np.float16),
        "steps": np.asarray(7),
        "none": np.zeros((0, 5), np.float32),
        "transposed": rng.standard_normal((2, 3, 4)).astype(np.float32).transpose(2, 0, 1)[::2],
        "mask": np.array([True, False]),
    }


def safetensors(header: object, data: bytes = b"") -> bytes:
    """The bytes of a .safetensors file."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"w{suffix}"
    write_arrays(path, some(), METADATA)
    arrays, metadata = read_arrays(str(path))
    assert metadata == METADATA
    assert arrays.keys() == some().keys()
    for name, array in some().items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
        assert arrays[name].flags.writeable
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    write_arrays(tmp_path / "w.safetensors", some(), METADATA)
    theirs = load_file(tmp_path / "w.safetensors")
    assert theirs.keys() == some().keys()
    for name, array in some().items():
        np.testing.assert_array_equal(theirs[name], array, strict=True)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_bfloat16_is_written_as_the_equal_float32(suffix: str, tmp_path: Path) -> None:
    array = jnp.asarray([1.0, 3.140625, -1e-30], jnp.bfloat16)
    write_arrays(tmp_path / f"w{suffix}", {"x": np.asarray(array), "big": np.arange(3, dtype=">f4")}, {})
    arrays, _ = read_arrays(tmp_path / f"w{suffix}")
    assert arrays["x"].dtype == arrays["big"].dtype == np.dtype("<f4")
    np.testing.assert_array_equal(arrays["x"], np.asarray(array, np.float32))
    np.testing.assert_array_equal(arrays["big"], [0, 1, 2])


def test_files_of_others(tmp_path: Path) -> None:
    """numpy.savez without metadata; the safetensors layout byte by byte, with a bfloat16 and foreign metadata."""
    np.savez(tmp_path / "w.npz", x=np.arange(3))
    assert read_arrays(tmp_path / "w.npz")[1] == {}
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [1, 5]},
        "u": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
    }
    (tmp_path / "w.safetensors").write_bytes(safetensors(header, b"\x07\x80\x3f\x49\x40"))
    arrays, metadata = read_arrays(tmp_path / "w.safetensors")
    assert metadata == {}
    assert arrays["u"] == 7
    np.testing.assert_array_equal(arrays["b"], np.array([1.0, 3.140625], np.float32), strict=True)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 100, -100, -1])
def test_truncated_files(suffix: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    write_arrays(path, {"x": np.zeros(1000, np.float32), "y": np.ones(1000, np.float32)}, METADATA)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"w{suffix} is not a readable {suffix}"):
        read_arrays(path)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "w.npz", x=np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match=r"not a readable \.npz of plain arrays"):
        read_arrays(tmp_path / "w.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}}, "lies at bytes 0 to 16 of 8"),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "lies at bytes -8 to 0"),
        ({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "8 bytes, which is not"),
        ({"x": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, "8 bytes, which is not"),
        ({"x": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, "unknown type F8_E4M3"),
        ({"x": {"dtype": "F32"}}, "x has no dtype, shape and data_offsets"),
        ({"x": 5}, "x has no dtype, shape and data_offsets"),
        ([1], "not a readable"),
        ({"__metadata__": {"uda_jax": "[1]"}}, "metadata is no JSON object"),
        ({"__metadata__": {"uda_jax": "{"}}, "not a readable"),
    ],
)
def test_headers_that_lie(header: object, words: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(safetensors(header, bytes(8)))
    with pytest.raises(UserError, match=words):
        read_arrays(tmp_path / "w.safetensors")


def test_other_formats(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read_arrays(tmp_path / "w.npz")
    for name, content in (("w.npz", b"\x89PNG\r\n\x1a\n" + bytes(99)), ("w.safetensors", b"hello" * 99)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not a readable"):
            read_arrays(tmp_path / name)
    np.savez(tmp_path / "text.npz", x=np.asarray("hello"))
    with pytest.raises(UserError, match="x holds <U5, which is no plain number"):
        read_arrays(tmp_path / "text.npz")
    for call in (lambda: read_arrays("w.pth"), lambda: write_arrays("w.pth", {}, {})):
        with pytest.raises(UserError, match=r"w.pth: the format .pth is unknown; expected .npz or .safetensors"):
            call()


def test_a_failed_write_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    write_arrays(path, {"x": np.ones(3)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="x holds object"):
        write_arrays(path, {"x": np.array([{}], dtype=object)}, {})
    with pytest.raises(UserError, match="cannot be written"):
        write_arrays(path / "w.npz", {"x": np.ones(3)}, {})  # a file in place of the directory
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_arrays(tmp_path / "d.npz", {"x": np.ones(3)}, {})
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz", "w.npz"]


def test_the_file_alone_reads_weights_with_numpy_alone(tmp_path: Path) -> None:
    shutil.copy(str(module.__file__), tmp_path / "copied.py")
    code = (
        "import sys; sys.modules |= dict.fromkeys(['uda_jax', 'jax', 'flax', 'safetensors'])\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from copied import read_arrays\n"
    )
    for name in ("w.npz", "w.safetensors"):
        write_arrays(tmp_path / name, some(), METADATA)
        code += f"arrays, metadata = read_arrays({str(tmp_path / name)!r}); print(len(arrays), metadata['sizes'])\n"
    code += "try: read_arrays('none.npz')\nexcept ValueError as e: print(e)"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == 2 * "7 {'eval': [512, 1024]}\n" + "there is no file none.npz\n", result.stderr
