"""Where training says what it does: metrics.jsonl, TensorBoard events and a progress bar."""

import json
import math
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from uda_jax.files import to_json, write_whole

SCORE = "eval/miou"  # the name of an evaluation among the metrics


class Writer:
    """Writes scalars from process 0; the other processes stay silent. Use as a context manager."""

    def __init__(self, workdir: Path, start: int, steps: int, title: str) -> None:
        self.active = jax.process_index() == 0
        self.evaluated: set[int] = set()  # steps up to `start` whose evaluation is in the log; process 0 knows
        self.bar = tqdm(total=steps, initial=start, desc=title, unit="step", disable=not self.active, mininterval=1)
        if self.active:
            kept = _drop_after(workdir / "metrics.jsonl", start)
            self.evaluated = {line["step"] for line in kept if SCORE in line}
            self.file = (workdir / "metrics.jsonl").open("a")
            self.events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
        if self.active:
            self.file.close()
            self.events.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line of metrics.jsonl and one event a scalar; what is not finite is null, and no event."""
        if not self.active:
            return
        self.file.write(to_json({"step": step, **scalars}) + "\n")
        self.file.flush()
        for name, value in scalars.items():
            if math.isfinite(value):
                self.events.add_scalar(name, value, step)

    def progress(self, steps: int, **shown: float) -> None:
        """Moves the bar on, with the numbers to show beside it."""
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in shown.items()}, refresh=False)
        self.bar.update(steps)

    def say(self, text: str) -> None:
        if self.active:
            tqdm.write(text)


def _drop_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Removes lines beyond `step`, and a half-written last one: a resumed run writes those steps again.

    Returns what is kept.
    """
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            content = json.loads(line)
            if content["step"] <= step:
                kept.append(content)
    write_whole(path, "".join(to_json(content) + "\n" for content in kept))
    return kept
