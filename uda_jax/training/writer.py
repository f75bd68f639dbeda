"""Where training says what it does: metrics.jsonl, TensorBoard events and a progress bar."""

import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from uda_jax.files import AnyPath, Growing, to_json, write_whole
from uda_jax.training import health

PUT_S = 60.0  # how old the log in an object store may become, where every put writes it whole
FLUSH_S = 30.0  # how old the events on the disk may become: to flush them takes up to a tenth of a second
SCORE = "eval/miou"  # the name of an evaluation among the metrics


class Writer:
    """Writes numbers from process 0; the other processes stay silent. Use as a context manager."""

    def __init__(self, workdir: AnyPath, start: int, steps: int, title: str, classes: Sequence[str] = ()) -> None:
        self.active, self.classes = jax.process_index() == 0, classes
        self.evaluated: set[int] = set()  # steps up to `start` whose evaluation is in the log; process 0 knows
        self.bar = tqdm(total=steps, initial=start, desc=title, unit="step", disable=not self.active, mininterval=1)
        if self.active:
            self.logs = Growing(workdir)
            kept, path = _up_to(start, workdir / "metrics.jsonl"), self.logs.here / "metrics.jsonl"
            write_whole(path, "".join(to_json(content) + "\n" for content in kept))
            self.evaluated = {line["step"] for line in kept if SCORE in line}
            self.judged = deque(health.of_training(kept), maxlen=health.BEFORE + 1)
            self.wrong = frozenset(health.warnings(self.judged) if self.judged else ())
            self.file = path.open("a")
            self.events = _events(self.logs.here / "tensorboard", start + 1)
            self.flushed = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
        if self.active:
            self.file.close()
            self.events.close()
            self.logs.close()

    def write(self, step: int, numbers: Mapping[str, Any]) -> dict[str, float]:
        """One line of metrics.jsonl and one event a scalar; what is not finite is null, and no event.

        Args:
          numbers: scalars, or arrays [classes], which become "<name>/<class>" each.
        Returns:
          The scalars of the line.
        Raises:
          OSError: a file cannot grow.
        """
        scalars = dict(self._scalars(numbers))
        if not self.active:
            return scalars
        self.file.write(to_json({"step": step, **scalars}) + "\n")
        self.file.flush()
        for name, value in scalars.items():
            if math.isfinite(value):
                self.events.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() > self.flushed + FLUSH_S:
            self.events.flush()
            self.flushed = time.monotonic()
        self.logs.put(PUT_S)
        return scalars

    def _scalars(self, numbers: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        for name, value in numbers.items():
            if np.ndim(value):
                yield from ((f"{name}/{of}", float(x)) for of, x in zip(self.classes, value, strict=True))
            else:
                yield name, float(value)

    def judge(self, step: int, scalars: Mapping[str, float]) -> None:
        """Says what looks wrong since this line of the log, and did not at the one before."""
        if not self.active:
            return
        self.judged.append({"step": step, **scalars})
        found = health.warnings(self.judged)
        for kind in sorted(found.keys() - self.wrong):
            self.say(f"warning at step {step}: {found[kind]}")
        self.wrong = frozenset(found)

    def put(self) -> None:
        """Has the log stand in the workdir before a checkpoint does: a resumed run writes no step again before it."""
        if self.active:
            self.events.flush()
            self.logs.put()

    def progress(self, steps: int, **shown: float) -> None:
        """Moves the bar on, with the numbers to show beside it."""
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in shown.items()}, refresh=False)
        self.bar.update(steps)

    def say(self, text: str) -> None:
        if self.active:
            tqdm.write(text)


def _events(directory: AnyPath, start: int) -> EventsWriter:
    """A new file of TensorBoard events, which hides those from step `start` on of files before it.

    Not a SummaryWriter: its thread dies where the disk is full, and the run waits for it for ever.
    """
    directory.mkdir(parents=True, exist_ok=True)
    events = EventsWriter(str(directory / "events"))
    session = SessionLog(status=SessionLog.START)
    events.write_event(Event(wall_time=time.time(), step=start, session_log=session))
    return events


def _up_to(step: int, path: AnyPath) -> list[dict[str, Any]]:
    """The whole lines of a log that are not beyond `step`: a resumed run writes those steps again."""
    kept = []
    for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            content = json.loads(line)
            if content["step"] <= step:
                kept.append(content)
    return kept
