"""Runs, weights and reports in gs:// by the real clients of TensorFlow, TensorStore and Google; the store is faked."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from ml_collections import ConfigDict

from tests import object_store
from tests.object_store import Store
from tests.test_main import ROOT, TINY, run
from tests.training.test_train import assert_equal
from uda_jax import export, report
from uda_jax.api import load_segmenter
from uda_jax.errors import Stopped, UserError
from uda_jax.files import Growing, alone, entries, fetched, sent, write_whole
from uda_jax.paths import user_path
from uda_jax.training import checkpoint, writer
from uda_jax.training.loop import train
from uda_jax.weights import convert as weights
from uda_jax.weights.arrays import read_arrays


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with object_store.serving(tmp_path_factory.mktemp("store")) as (store, found_by), pytest.MonkeyPatch.context() as m:
        for name, value in found_by.items():
            m.setenv(name, value)
        yield store


@pytest.fixture
def place(store: Store, request: pytest.FixtureRequest) -> Iterator[epath.Path]:
    """A place of the test's own in the bucket."""
    yield user_path(f"gs://bucket/{request.node.name}", "--workdir")
    store.refusing = ()


def names(store: Store, place: epath.Path) -> list[str]:
    return [name.removeprefix(f"{place.name}/") for name in sorted(store.objects) if name.startswith(f"{place.name}/")]


def log(text: str) -> list[dict]:
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_s"} for line in text.splitlines()]


def test_files_are_put_whole_and_only_when_they_are(store: Store, place: epath.Path) -> None:
    del store.log[:]
    write_whole(place / "a.txt", "one")
    with sent(place / "b.bin") as here:
        here.write_bytes(b"half")
        assert names(store, place) == ["a.txt"]
        here.write_bytes(b"whole")
    with pytest.raises(ValueError, match="broken"), sent(place / "c.bin") as here:
        here.write_bytes(b"half")
        raise ValueError("broken")
    assert store.log == [f"PUT {place.name}/a.txt", f"PUT {place.name}/b.bin"]
    with fetched(place / "b.bin") as here:
        assert here.read_bytes() == b"whole"
    with pytest.raises(UserError, match=rf"^{place}/b.bin is no"), fetched(place / "b.bin") as here:
        raise UserError(f"{here} is no")
    assert [path.name for path in entries(place)] == ["a.txt", "b.bin"]
    assert entries(place / "nowhere") == []


def test_what_grows_is_put_now_and_then(store: Store, place: epath.Path) -> None:
    del store.log[:]
    logs = Growing(place)
    (logs.here / "below").mkdir()
    (logs.here / "a").write_text("1")
    logs.put(every=1000)
    assert store.log == []
    (logs.here / "below" / "b").write_text("2")
    logs.put()
    assert sorted(store.log) == [f"PUT {place.name}/a", f"PUT {place.name}/below/b"]
    (logs.here / "a").write_text("12")
    logs.close()
    assert store.log[2:] == [f"PUT {place.name}/a"]
    assert store.text(f"{place.name}/a") == "12"
    assert not logs.here.exists()


def test_a_store_has_no_locks_and_says_so(store: Store, place: epath.Path, capsys: pytest.CaptureFixture) -> None:
    with alone(place, "training") as locked:
        assert not locked
    assert "cannot be locked (an object store has no locks), so two processes training there" in capsys.readouterr().err
    assert names(store, place) == []


def test_a_run_that_may_not_write_says_so_before_it_trains(store: Store, place: epath.Path, data_dir: Path) -> None:
    """In a process of its own: TensorFlow's file, closed in vain, would hold the GIL and wait for the store."""
    store.refusing = ("POST",)
    result = run("main", *TINY, f"--config.data.dir={data_dir}", f"--workdir={place}")
    assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    assert f"error: {place} cannot be written to: " in result.stderr and "code 403" in result.stderr
    assert names(store, place) == []


@pytest.mark.slow
def test_a_run_is_stopped_resumed_exported_reported_and_done(
    least: ConfigDict, store: Store, place: epath.Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least.train.update(checkpoint_every=1, keep=2)
    whole = train(least, tmp_path / "whole")
    for file in (path for path in data_dir.rglob("*") if path.is_file()):
        store.put(f"data/{file.relative_to(data_dir)}", file.read_bytes())
    least.data.dir = "gs://bucket/data"

    real, calls = writer.Writer.put, []

    def put_then_signal(self: writer.Writer) -> None:
        real(self)
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(writer.Writer, "put", put_then_signal)
    with pytest.raises(Stopped, match="stopped at step 2"):
        train(least, place / "run")
    monkeypatch.undo()
    assert checkpoint.steps(place / "run") == [1, 2]

    saved, real_save = [], checkpoint.save

    def save_and_look(manager: Any, step: int, *rest: Any) -> None:
        saved.append((step, log(store.text(f"{place.name}/run/metrics.jsonl"))[-1]["step"]))
        real_save(manager, step, *rest)

    monkeypatch.setattr(checkpoint, "save", save_and_look)
    assert_equal(train(least, place / "run"), whole)
    assert saved[:2] == [(3, 3), (4, 4)]  # a run that is killed after a checkpoint has the log up to it
    monkeypatch.undo()
    assert checkpoint.steps(place / "run") == [3, 4]  # the others are removed
    assert checkpoint.read_about(place / "run", 4)["records"] == {"source": 8}
    assert log(store.text(f"{place.name}/run/metrics.jsonl")) == log((tmp_path / "whole/metrics.jsonl").read_text())
    for name in ("evaluation.json", "samples/val_000000_truth.png"):
        assert store.objects[f"{place.name}/run/{name}"][0] == (tmp_path / "whole" / name).read_bytes()
    assert sum("run/tensorboard/events" in name for name in names(store, place)) == 2  # one a process

    del store.log[:]
    assert_equal(train(least, place / "run"), whole)
    assert [change for change in store.log if ".writable" not in change] == []  # it is done

    monkeypatch.setattr("jax.config.update", lambda *_: None)
    assert export.main([f"--checkpoint={place}/run"]) == 0
    export.export(tmp_path / "whole", out=tmp_path / "w.npz")
    with fetched(place / "run" / "weights-4.npz") as here:
        assert_equal(read_arrays(here)[0], read_arrays(tmp_path / "w.npz")[0])
    assert report.main([f"--out={place}/report", f"a={place}/run"]) == 0
    assert "data:image/png;base64" in store.text(f"{place.name}/report/report.html")
    assert "report/strips.png" in names(store, place)


def forgotten(path: epath.Path) -> None:
    """Waits until TensorFlow, which remembers what it saw for 5 s, sees that a file was taken away."""
    until = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.2)


@pytest.mark.slow
def test_a_checkpoint_that_was_not_whole_is_written_again(
    least: ConfigDict, store: Store, place: epath.Path, capsys: pytest.CaptureFixture
) -> None:
    """Without renaming, half a checkpoint lies under its name; what says that it is whole comes last."""
    least.train.update(steps=2, checkpoint_every=1)
    whole = train(least, place)
    for name in (f"{place.name}/checkpoints/2/commit_success.txt", f"{place.name}/evaluation.json"):
        del store.objects[name]
    forgotten(place / "checkpoints" / "2" / "commit_success.txt")
    assert checkpoint.steps(place) == [1]
    capsys.readouterr()
    assert_equal(train(least, place), whole)
    assert "from step 1" in capsys.readouterr().out
    assert checkpoint.steps(place) == [1, 2]


def test_weights_come_from_there_and_go_there(
    least: ConfigDict, store: Store, place: epath.Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    least.train.steps = 0
    train(least, tmp_path / "run")
    export.export(tmp_path / "run", out=place / "w.safetensors")
    assert weights.main([f"--from={place}/w.safetensors", f"--to={place}/v.npz"]) == 0
    assert f"{place}/v.npz, from {place}/w.safetensors:" in capsys.readouterr().out
    assert load_segmenter(f"{place}/w.safetensors").size == (32, 64)
    least.model.pretrained = f"{place}/v.npz"
    train(least, tmp_path / "pretrained")
    assert f"{place}/v.npz: loaded" in capsys.readouterr().out
    least.model.pretrained = f"{place}/u.npz"
    store.put(f"{place.name}/u.npz", b"no archive")
    with pytest.raises(UserError, match=rf"^{place}/u.npz is not a readable .npz"):
        train(least, tmp_path / "damaged")
    assert weights.main([f"--from={place}/nowhere.npz", f"--to={place}/v.npz"]) == 2
    assert f"there is no file {place}/nowhere.npz" in capsys.readouterr().err


def test_what_is_missing_is_said_with_the_command(place: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(UserError, match=rf"^{place}: checkpoints in gs:// need .*: pip install google-cloud-storage"):
        checkpoint.steps(place)


def test_what_googles_client_refuses_is_said(
    place: epath.Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("403: no storage.buckets.get access")

    monkeypatch.setattr(checkpoint.ocp, "CheckpointManager", refuse)
    with pytest.raises(UserError, match=rf"^{place}/checkpoints cannot be opened: 403: no storage.buckets.get access"):
        checkpoint.make_manager(place)
    with pytest.raises(RuntimeError):  # on a disk that would be a fault of ours
        checkpoint.make_manager(tmp_path)


SLOW = "import sys; from uda_jax import export, paths; paths.ANSWER_S = 1; sys.exit(export.main(sys.argv[1:]))"


def test_a_store_that_does_not_answer_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found_by = {"https_proxy": f"http://127.0.0.1:{silent.getsockname()[1]}", "NO_GCE_CHECK": "true"}
        result = subprocess.run(
            [sys.executable, "-c", SLOW, "--checkpoint=gs://bucket/run"],
            cwd=ROOT, env={**os.environ, **found_by}, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    assert "error: --checkpoint=gs://bucket/run: no answer within 1 s." in result.stderr
    assert "gcloud auth application-default login" in result.stderr


def test_a_store_that_refuses_is_quoted(store: Store, place: epath.Path) -> None:
    store.refusing = ("GET",)
    with pytest.raises(UserError, match=r"^--workdir=gs://bucket/x cannot be read: .*403.*Credentials come from"):
        user_path("gs://bucket/x", "--workdir")
