"""Where training says what it does: metrics.jsonl, TensorBoard events and a progress bar."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm


class Writer:
    """Writes scalars from process 0; the other processes stay silent. Use as a context manager."""

    def __init__(self, workdir: Path, start: int, steps: int, title: str) -> None:
        self.active = jax.process_index() == 0
        self.bar = tqdm(total=steps, initial=start, desc=title, unit="step", disable=not self.active, mininterval=1)
        if self.active:
            _drop_after(workdir / "metrics.jsonl", start)
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
        """One line of metrics.jsonl and one event a scalar."""
        if not self.active:
            return
        self.file.write(json.dumps({"step": step, **scalars}) + "\n")
        self.file.flush()
        for name, value in scalars.items():
            self.events.add_scalar(name, value, step)

    def progress(self, steps: int, **shown: float) -> None:
        """Moves the bar on, with the numbers to show beside it."""
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in shown.items()}, refresh=False)
        self.bar.update(steps)

    def say(self, text: str) -> None:
        if self.active:
            tqdm.write(text)


def _drop_after(path: Path, step: int) -> None:
    """Removes lines beyond `step`, and a half-written last one: a resumed run writes those steps again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            continue
    path.write_text("".join(line + "\n" for line in kept))
