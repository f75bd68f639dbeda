import gzip
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from uda_jax.errors import UserError
from uda_jax.training.loop import train
from uda_jax.training.profiling import parse_steps, profiler


def test_steps_to_profile() -> None:
    assert parse_steps("", 5) == range(0)
    assert list(parse_steps("1:3", 3)) == [1, 2]
    for text in ("3", "a:b", "1:", "2:2", "3:1", "-1:2", "1:4"):
        with pytest.raises(UserError, match=f"--profile={text}: expected FIRST:END, .* within 0:3"):
            parse_steps(text, 3)


def events(directory: Path) -> list[dict]:
    """What a profile shows, of the one that is there."""
    (file,) = directory.glob("plugins/profile/*/*.trace.json.gz")
    return json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]


@pytest.mark.slow
def test_a_run_leaves_a_profile_of_the_steps_asked_for(least: ConfigDict, tmp_path: Path) -> None:
    least.train.update(steps=4, eval_every=3)
    train(least, tmp_path, "1:3")
    found = events(tmp_path / "profile")
    steps = [int(e["args"]["step_num"]) for e in found if e.get("name") == "train" and "step_num" in e.get("args", {})]
    assert sorted(set(steps)) == [1, 2]
    assert {"data", "save", "evaluate"} <= {e.get("name") for e in found}


def test_a_profile_that_is_cut_short_is_written_and_one_that_never_began_is_told_of(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), profiler(tmp_path / "cut", range(1, 9), said.append) as at:
        at(0, jnp.zeros(()))
        at(1, jnp.zeros(()))
        raise KeyboardInterrupt
    assert events(tmp_path / "cut")
    with profiler(tmp_path / "none", range(1, 3), said.append) as at:
        at(3, jnp.zeros(()))
    assert said == [f"profile: {tmp_path}/cut", "no profile: none of the steps 1:3 was run now"]
    assert not (tmp_path / "none").exists()
