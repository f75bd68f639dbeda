"""What the documents point to is there, and what the quick start tells people to type runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import jax
import pytest

from tests.conftest import shrink
from tests.data_prep import raw_trees
from uda_jax.config import check_config, default_config
from uda_jax.errors import UserError
from uda_jax.methods import METHODS
from uda_jax.models.networks import build_networks
from uda_jax.runs import batch_of
from uda_jax.training.state import create_state
from uda_jax.training.step import build_step

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOLDERS = "uda_jax|data_prep|configs|docs|tests|benchmarks"


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings have."""
    text = FENCED.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    return broken


def test_the_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/house.md", "docs/quickstart.md"} <= set(NAMES)


def test_broken_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b: c\n[x](page.md#a-b-c) [x](#a-b-c) [x](https://x.y/z) [x](gone.md) [x](#gone)\n")
    assert broken_links(page) == ["gone.md", "#gone"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_and_commands_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    if page.name != "CHANGELOG.md":  # knows what has gone
        modules = set(re.findall(r"python -m ((?:uda_jax|data_prep)[\w.]*\w)", text))
        assert not [module for module in modules if importlib.util.find_spec(module) is None]


def test_the_guides_method_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that CONTRIBUTING.md shows, as `sure.py`: its settings are checked, and its step is traced."""
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL))
    sure = ModuleType("sure")
    exec(dedent(code), sure.__dict__)
    monkeypatch.setitem(METHODS, "sure", sure)
    config = shrink(default_config())
    config.method, config.sure.trust = "sure", "linear"
    check_config(config)
    networks = build_networks(config)
    state = jax.eval_shape(lambda: create_state(config, networks))
    _, metrics = jax.eval_shape(build_step(config, networks), state, batch_of(config))
    assert metrics.keys() >= {"loss_seg_main", "loss_sure"}
    config.sure.trust = "lineal"
    with pytest.raises(UserError, match="did you mean 'linear'"):
        check_config(config)


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path: Path) -> None:
    """Its commands, from an empty folder, with pictures drawn for the part on one's own."""
    for folder, count in (("source", 4), ("target", 4), ("val", 2)):
        for i in range(count):
            seed = 10 * len(folder) + i  # no picture twice
            raw_trees.picture(tmp_path / folder / "images" / f"{i}.png", seed)
            raw_trees.truth(tmp_path / folder / "labels" / f"{i}.png", seed)
    page = (ROOT / "docs" / "quickstart.md").read_text()
    blocks = [code for language, code in FENCED.findall(page) if language == "bash" and "pip install" not in code]
    commands = "set -ex\n" + "".join(blocks)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "(64, 128) of road, sidewalk" in result.stdout
    assert "from step 30" in result.stdout + result.stderr
    made = ["sheet.png", "runs/compare/report.html", "runs/report/report.html", "runs/own/evaluation.json"]
    assert not [file for file in made if not (tmp_path / file).is_file()]
