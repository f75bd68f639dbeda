"""What a PyTorch step needs to be raced with ours: a process that takes one on command, under a Python of its own.

It says in a line of JSON what it is; the number of parameters tells whether ours is the same network. Then it answers
every line of standard input with a step's seconds, cpu_seconds (of all threads), loss and the process's peak memory so
far, and ends with it; with --steps it takes so many unasked.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Step = Callable[[], Tensor]  # takes one, on the same batch every time, and returns the loss


def serve(
    about: str | None, size: str, prepare: Callable[[argparse.Namespace], tuple[nn.Module, Step]],
    argv: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Runs a script's command line; `size` is the default WIDTHxHEIGHT, `prepare` returns (segmenter, step)."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=_size, default=size, metavar="WIDTHxHEIGHT")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--equal", default="", metavar="NPZ", help="weights and images to start with, where it can")
    parser.add_argument("--threads", type=int, default=0, help="default: PyTorch's choice, one a core")
    parser.add_argument("--channels_last", action="store_true", help="another memory format")
    parser.add_argument("--steps", type=int, default=0, help="to take, instead of one a line of standard input")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network, step = prepare(args)
    parameters = sum(value.numel() for value in network.parameters())
    says = {"parameters": parameters, "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(says), flush=True)
    for _ in range(args.steps) if args.steps else sys.stdin:
        started = time.perf_counter(), time.process_time()
        loss = step().item()
        answer = {"seconds": time.perf_counter() - started[0], "cpu_seconds": time.process_time() - started[1]}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**answer, "loss": loss, "peak_gib": peak}), flush=True)


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return height, width
