"""A reader of training images as a process that is timed on command: this package's, a plain loop, or PyTorch's.

    python -m benchmarks.readers uda_jax --data=DIR --dataset=folders/NAME --size=1024x512
    python benchmarks/readers.py pillow --images=DIR --labels=DIR --size=1024x512
    python benchmarks/readers.py torch --images=DIR --labels=DIR --size=1024x512 --workers=2

It idles with its buffers full until a line with a number of seconds comes in. Then it takes more batches than it had
ready, counts those of the seconds after, and answers with a line of JSON: images, seconds, cpu_seconds and peak_memory
(bytes), of it and its workers together. `benchmarks.pipeline` starts several and commands them in turns.

All do the same work: decode the image and, where there are labels, the label map; resize them unless they are of the
size already, the image bicubically and the label to the nearest pixel; mirror at random; batches of uint8 [B, H, W, 3]
and int32 [B, H, W]. Ours also puts them on the device.

PyTorch's may run under a Python of its own, so each reader imports what it needs itself. Linux only (/proc).
"""

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DRAIN = 6 + 2 * (os.cpu_count() or 1)  # batches that are not counted: as many as a reader may have ready


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers")
    parser.add_argument("reader", choices=list(READERS))
    parser.add_argument("--size", required=True, metavar="WIDTHxHEIGHT")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--data", help="uda_jax: the data directory")
    parser.add_argument("--dataset", help="uda_jax: a prepared dataset in it")
    parser.add_argument("--dct_scaling", action="store_true", help="shrink JPEGs while decoding")
    parser.add_argument("--images", type=Path, help="pillow, torch: a directory of pictures")
    parser.add_argument("--labels", type=Path, help="pillow, torch: label maps of the same names")
    parser.add_argument("--unlabelled", action="store_true", help="uda_jax: read no labels")
    parser.add_argument("--workers", type=int, default=2, help="torch: processes")
    args = parser.parse_args(argv)
    width, height = map(int, args.size.split("x"))
    args.size = height, width
    serve(READERS[args.reader](args), args.batch_size)


def serve(batches: Iterator[Any], batch_size: int) -> None:
    """Answers the lines of standard input, and ends with it."""
    next(batches)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(DRAIN):
            next(batches)
        read, cpu, started = 0, cpu_seconds(), time.perf_counter()
        while time.perf_counter() < started + float(line):
            next(batches)
            read += batch_size
        answer = {"images": read, "seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - cpu}
        print(json.dumps({**answer, "peak_memory": peak_memory()}), flush=True)


def our_batches(args: argparse.Namespace) -> Iterator[Any]:
    import jax

    from uda_jax.config import default_config
    from uda_jax.data import pipeline
    from uda_jax.training.sharding import make_mesh, prefetch_to_mesh, split_batch

    stream = default_config().data.source
    stream.update(dataset=args.dataset, split="train", size=args.size, flip=True, dct_scaling=args.dct_scaling)
    labels = not args.unlabelled
    batches = pipeline.train_stream(args.data, stream, batch_size=args.batch_size, seed=0, labels=labels)
    return map(jax.block_until_ready, prefetch_to_mesh(batches, split_batch(make_mesh())))


class Pictures:
    """The pictures of a directory over and over, as PyTorch's dataset of the published code reads them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.images = sorted(args.images.iterdir())
        self.labels = args.labels and sorted(args.labels.iterdir())
        self.size, self.dct_scaling = args.size[::-1], args.dct_scaling

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        index %= len(self.images)
        image = Image.open(self.images[index])
        if self.dct_scaling:
            image.draft("RGB", self.size)
        arrays = [np.array(image.convert("RGB").resize(self.size, Image.Resampling.BICUBIC))]
        if self.labels:
            label = Image.open(self.labels[index]).resize(self.size, Image.Resampling.NEAREST)
            arrays.append(np.array(label, np.int32))
        if random.random() < 0.5:
            arrays = [array[:, ::-1] for array in arrays]
        return tuple(np.ascontiguousarray(array) for array in arrays)


def pillow_batches(args: argparse.Namespace) -> Iterator[Any]:
    pictures = Pictures(args)
    for start in itertools.count(0, args.batch_size):
        batch = [pictures[index] for index in range(start, start + args.batch_size)]
        yield [np.stack(arrays) for arrays in zip(*batch, strict=True)]


def torch_batches(args: argparse.Namespace) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    return iter(DataLoader(Pictures(args), args.batch_size, num_workers=args.workers))


READERS = {"uda_jax": our_batches, "pillow": pillow_batches, "torch": torch_batches}


def processes() -> list[int]:
    """This process and its children."""
    children = Path("/proc/self/task").glob("*/children")
    return [os.getpid(), *(int(pid) for file in children for pid in file.read_text().split())]


def cpu_seconds() -> float:
    """Processor time that `processes` have used, all their threads together."""
    ticks = 0
    for pid in processes():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory() -> int:
    """Peak resident memory of `processes` in bytes, added up (pages that they share count several times)."""
    status = [Path(f"/proc/{pid}/status").read_text() for pid in processes()]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in status)


if __name__ == "__main__":
    main()
