"""The log of a run: what stands in its files, and what happens when they cannot grow."""

import subprocess
import sys
from pathlib import Path

import tensorflow as tf
from tensorboardX.proto.event_pb2 import Event

from uda_jax.training.writer import Writer

# A file of events grows faster than metrics.jsonl: the limit stops it first, as a full disk does.
FULL = """
import resource, sys
from pathlib import Path
from uda_jax.training.writer import Writer

resource.setrlimit(resource.RLIMIT_FSIZE, (32768, 32768))
with Writer(Path(sys.argv[1]), 0, 9000, "full") as writer:
    for step in range(9000):
        writer.write(step, {"a": 1.0})
"""


def test_a_file_of_events_that_cannot_grow_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert "OSError: [Errno 27] File too large" in run.stderr
    assert (tmp_path / "metrics.jsonl").stat().st_size < 32768  # it was not this one


def events(workdir: Path) -> list[Event]:
    paths = [str(path) for path in sorted((workdir / "tensorboard").iterdir())]
    return [Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(paths)]


def scalars(event: Event) -> list[tuple[str, float]]:
    return [(value.tag, value.simple_value) for value in event.summary.value]


def test_every_finite_number_is_an_event(tmp_path: Path) -> None:
    with Writer(tmp_path, 0, 2, "two", ["road", "sky"]) as writer:
        writer.write(1, {"loss": 0.5, "iou": [0.25, float("nan")]})
        written = [(event.step, *scalar) for event in events(tmp_path) for scalar in scalars(event)]
        assert written == [(1, "loss", 0.5), (1, "iou/road", 0.25)]  # the first at once
        writer.write(2, {"loss": 0.75})
    assert [event.step for event in events(tmp_path) if scalars(event)] == [1, 1, 2]


def test_a_resumed_run_hides_the_events_after_its_first_step(tmp_path: Path) -> None:
    with Writer(tmp_path, 3, 9, "resumed") as writer:
        writer.write(4, {"loss": 0.5})
    starts = [event for event in events(tmp_path) if event.session_log.status == event.session_log.START]
    assert [event.step for event in starts] == [4]
