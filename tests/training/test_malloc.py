"""What compilers had is given back before a step wants its own memory."""

import ctypes
import resource

import pytest

from uda_jax.training import malloc

BLOCKS, SIZE = 100_000, 1000  # too large for Python's own allocator, too small for pages of their own


def resident() -> int:
    """Bytes of this process that are in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    blocks = [bytes(SIZE) for _ in range(BLOCKS)]
    last = blocks[-1]  # the C library gives back by itself only what nothing lies above
    del blocks
    before = resident()
    malloc.trim()
    assert before - resident() > 0.8 * BLOCKS * SIZE
    assert len(last) == SIZE
