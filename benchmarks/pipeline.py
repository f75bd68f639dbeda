"""Images per second of the input: this package's pipeline, a plain Pillow loop and PyTorch's DataLoader, in turns.

    python -m benchmarks.pipeline --data=DIR --domain=source [--torch_python=PATH]
    python -m benchmarks.pipeline --data=DIR --domain=target [--torch_python=PATH]

"source" is a labelled set of 1914x1052 pictures read at 1280x720 (as GTA5), "target" an unlabelled one of 2048x1024
read at 1024x512 (as Cityscapes). Pictures are drawn into DIR the first time (minutes), with grain that makes a PNG
weigh what a real one does, in four storages:

    raw png, raw jpeg   as they come from the download or a camera; every reader resizes them each time
    png, jpeg           resized once, as `data_prep.build` stores them without and with --encoding=jpeg

Every reader is a process (see `benchmarks.readers`). Of a storage all of them read the same bytes, ours from TFRecords
and the others from files. In every round each reads for some seconds, one after the other, so that what else the
machine does meets all; the table has medians over rounds. PyTorch need not be installed here: --torch_python names a
Python that has it, and without one its rows are left out.

--before=CHECKOUT races another version of this package, too, on the same bytes. --latency=MS makes every read of a file
wait, as an object store does; that needs a C compiler, and Linux.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_prep import folders
from data_prep.pictures import encode_image, resize_image, resize_label
from data_prep.prepare import in_parallel
from data_prep.streets import generate
from uda_jax import cli
from uda_jax.errors import UserError

GRAIN = 0.7  # standard deviation of the grain: a 1914x1052 PNG then weighs 2.3 MB, as GTA5's do (57 GB / 24,966)
REPOSITORY = Path(__file__).parent.parent


class Domain(NamedTuple):
    """Sizes are (height, width)."""

    look: str
    raw: tuple[int, int]
    size: tuple[int, int]
    labelled: bool
    dct_scaling: bool  # whether it can do anything: sizes are at least 2 : 1


class Contestant(NamedTuple):
    reader: str
    storage: str
    dct_scaling: bool = False

    def name(self) -> str:
        return self.reader + (", DCT scaling" if self.dct_scaling else "")


DOMAINS = {
    "source": Domain("rendered", (1052, 1914), (720, 1280), True, False),
    "target": Domain("camera", (1024, 2048), (512, 1024), False, True),
}
STORAGES = ("raw png", "raw jpeg", "png", "jpeg")
READERS = ("uda_jax", "before", "pillow", "torch")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def command() -> None:
        contestants = choose(args)
        write_pictures(args.data, args.domain, args.images)
        print(f"{os.cpu_count()} cores, load average {load()} before", flush=True)
        rounds = race(contestants, args)
        print(f"load average {load()} after; medians of {args.rounds} rounds\n")
        print(table(contestants, rounds))

    return cli.answered(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="where the pictures are, or will be drawn")
    parser.add_argument("--domain", choices=list(DOMAINS), required=True)
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES, metavar="STORAGE")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS, metavar="READER")
    parser.add_argument("--torch_python", default=sys.executable, help="a Python that has PyTorch, Pillow and NumPy")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another version of this package to race")
    parser.add_argument("--latency", type=int, default=0, metavar="MS", help="what every read waits for")
    parser.add_argument("--images", type=positive, default=16, help="pictures to draw, the first time")
    parser.add_argument("--batch_size", type=positive, default=1, help="default 1, as the published recipes")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each reader in each round")
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def choose(args: argparse.Namespace) -> list[Contestant]:
    """Who reads what; raw JPEGs are read with DCT scaling too where that makes a difference."""
    readers = list(args.readers)
    if "torch" in readers and not has_torch(args.torch_python):
        print(f"{args.torch_python} has no PyTorch: its rows are left out; --torch_python=PATH names one that has")
        readers.remove("torch")
    if "before" in readers and not args.before:
        readers.remove("before")
    contestants = [Contestant(reader, storage) for storage in args.storages for reader in readers]
    if "raw jpeg" in args.storages and DOMAINS[args.domain].dct_scaling:
        contestants += [Contestant(reader, "raw jpeg", dct_scaling=True) for reader in readers]
    return contestants


def has_torch(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("torch") is not None
    try:
        return subprocess.run([python, "-c", "import torch, PIL"], capture_output=True).returncode == 0
    except OSError as error:
        raise UserError(f"--torch_python={python}: cannot be run ({error.strerror})") from error


def write_pictures(data: Path, domain: str, images: int) -> None:
    """Draws the pictures of a domain, unless they are there, and prepares a dataset of each storage of them."""
    if not (data / domain).is_dir():
        scratch = data / f"unfinished_{domain}"
        for _ in in_parallel(partial(draw, domain, scratch), range(images), os.cpu_count() or 1):
            pass
        scratch.rename(data / domain)
    for storage in STORAGES:
        name = dataset(domain, storage)
        if not (data / "folders" / name).is_dir():
            files = data / domain / storage
            folders.build(data, name, {"train": (files / "images", files / "labels")})


def draw(domain: str, directory: Path, number: int) -> None:
    """Writes one scene in all storages."""
    look, raw, size, *_ = DOMAINS[domain]
    image, label = generate(look, number, raw)
    grain = np.random.default_rng(number).normal(0, GRAIN, image.shape)
    image = (image + grain).round().clip(0, 255).astype(np.uint8)
    pictures = {"raw": (image, label), "stored": (resize_image(image, size), resize_label(label, size))}
    for storage in STORAGES:
        picture, ids = pictures["raw" if storage.startswith("raw") else "stored"]
        encoding = storage.split()[-1]
        for kind in ("images", "labels"):
            (directory / storage / kind).mkdir(parents=True, exist_ok=True)
        suffix = {"png": "png", "jpeg": "jpg"}[encoding]
        (directory / storage / "images" / f"{number:03}.{suffix}").write_bytes(encode_image(picture, encoding))
        Image.fromarray(ids).save(directory / storage / "labels" / f"{number:03}.png")


def dataset(domain: str, storage: str) -> str:
    return f"{domain}_{storage.replace(' ', '_')}"


def command(contestant: Contestant, args: argparse.Namespace) -> list[str]:
    """The command line of a reader."""
    domain = DOMAINS[args.domain]
    options = [f"--size={domain.size[1]}x{domain.size[0]}", f"--batch_size={args.batch_size}"]
    options += ["--dct_scaling"] * contestant.dct_scaling
    if contestant.reader in ("uda_jax", "before"):
        name = dataset(args.domain, contestant.storage)
        options += [f"--data={args.data.resolve()}", f"--dataset=folders/{name}"]
        options += ["--unlabelled"] * (not domain.labelled)
        return [sys.executable, "-m", "benchmarks.readers", "uda_jax", *options]
    files = args.data.resolve() / args.domain / contestant.storage
    options += [f"--images={files / 'images'}"] + [f"--labels={files / 'labels'}"] * domain.labelled
    python = args.torch_python if contestant.reader == "torch" else sys.executable
    options += [f"--workers={os.cpu_count()}"] * (contestant.reader == "torch")
    return [python, str(REPOSITORY / "benchmarks" / "readers.py"), contestant.reader, *options]


def race(contestants: Sequence[Contestant], args: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """Answers of all contestants, [rounds][contestants], read in turns and in alternating order."""
    rounds = []
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(started(contestant, args)) for contestant in contestants]
        for reader in readers:
            answer(reader)  # all start at once, and are waited for
        for number in range(args.rounds):
            answers: dict[int, dict[str, Any]] = {}
            for i in range(len(readers))[:: -1 if number % 2 else 1]:
                print(args.seconds, file=readers[i].stdin, flush=True)
                answers[i] = json.loads(answer(readers[i]))
            rounds.append([answers[i] for i in range(len(readers))])
    return rounds


@contextlib.contextmanager
def started(contestant: Contestant, args: argparse.Namespace) -> Any:
    reader = subprocess.Popen(
        command(contestant, args),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=args.before if contestant.reader == "before" else REPOSITORY,
        env=os.environ | slow_reads(args.data.resolve(), args.latency),
    )
    with reader:  # closes its input, at which it ends, and waits for it
        yield reader


@cache
def slow_reads(data: Path, latency: int) -> dict[str, str]:
    """The environment in which reads of files below `data` take `latency` ms longer; {} for none."""
    if not latency:
        return {}
    library = data / "slow_reads.so"
    build = ["cc", "-shared", "-fPIC", "-o", str(library), str(REPOSITORY / "benchmarks" / "slow_reads.c"), "-ldl"]
    try:
        subprocess.run(build, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"--latency={latency}: needs a C compiler on Linux; {' '.join(build)}: {error}") from error
    return {"LD_PRELOAD": str(library), "SLOW_READS_BELOW": str(data), "SLOW_READS_MS": str(latency)}


def answer(reader: "subprocess.Popen[str]") -> str:
    assert reader.stdout is not None
    line = reader.stdout.readline()
    if not line:
        raise UserError(f"a reader ended, with status {reader.wait()}: {reader.args!r}")
    return line


def table(contestants: Sequence[Contestant], rounds: Sequence[Sequence[dict[str, Any]]]) -> str:
    """A Markdown table; ratios are medians of the ratios within a round."""
    rate = [[one["images"] / one["seconds"] for one in answers] for answers in rounds]

    def ratio(i: int, other: Contestant) -> str:
        if other not in contestants:
            return ""
        j = contestants.index(other)
        return f"{statistics.median(row[i] / row[j] for row in rate):.2f}"

    paired = any(contestant.reader == "before" for contestant in contestants)
    lines = [
        "| storage | reader | images/s | lowest, highest | images per core-second | cores busy | peak memory, GiB "
        "| x torch, same bytes | x torch, raw png |" + " x before |" * paired,
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |" + " ---: |" * paired,
    ]
    for i, contestant in enumerate(contestants):
        rates, answers = [row[i] for row in rate], [row[i] for row in rounds]
        a_core = statistics.median(one["images"] / one["cpu_seconds"] for one in answers)
        busy = statistics.median(one["cpu_seconds"] / one["seconds"] for one in answers)
        memory = max(one["peak_memory"] for one in answers) / 2**30
        same, raw = (ratio(i, other) for other in (contestant._replace(reader="torch"), Contestant("torch", "raw png")))
        before = f" {ratio(i, contestant._replace(reader='before'))} |" * paired
        lines.append(
            f"| {contestant.storage} | {contestant.name()} | {statistics.median(rates):.1f} | {min(rates):.1f}, "
            f"{max(rates):.1f} | {a_core:.1f} | {busy:.2f} | {memory:.2f} | {same} | {raw} |{before}"
        )
    return "\n".join(lines)


def load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
