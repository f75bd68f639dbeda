"""The table of the VisDA-2017 slides beside runs that were scored on that set, as text, Markdown and on the page."""

from pathlib import Path

import pytest

from tests.reporting.test_report import write_run
from uda_jax.data.labels import NAMES
from uda_jax.reporting import page as report
from uda_jax.reporting import visda17

ON = {"dataset": "visda17", "split": "test", "images": 1500}
Runs = dict[str, list[Path]]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Source-only, two seeds of a method, and the oracle, all classes alike in each."""
    means = {"source-only": [0.25], "AdaptSegNet": [0.4, 0.5], "oracle": [0.65]}
    return {
        label: [
            write_run(tmp_path / f"{label}{i}", dict.fromkeys(NAMES, mean), list(NAMES), **ON)
            for i, mean in enumerate(seeds)
        ]
        for label, seeds in means.items()
    }


def slides_of(text: str) -> list[list[str]]:
    """The cells of the second table of a text."""
    lines = text.partition(visda17.TITLE)[2].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]


def test_the_published_rows_are_the_slides() -> None:
    """Each class' number is tied to its name, and the means are those of the classes."""
    source, adapt = (dict(zip([*NAMES, "mean"], row, strict=True)) for row in visda17.PUBLISHED.values())
    assert list(visda17.PUBLISHED) == ["source", "adapt"]
    assert (source["road"], source["vegetation"], source["bicycle"], source["mean"]) == (30.8, 67.8, 23.8, 30.3)
    assert (adapt["road"], adapt["vegetation"], adapt["bicycle"], adapt["mean"]) == (87.2, 77.2, 38.1, 42.4)
    for row in (source, adapt):
        assert sum(row[name] for name in NAMES) / len(NAMES) == pytest.approx(row["mean"], abs=0.05)


@pytest.mark.parametrize("markdown", [False, True])
def test_a_row_a_setting_and_a_column_a_class(markdown: bool, runs: Runs) -> None:
    header, rule, *rows = slides_of(report.table(runs, markdown))
    assert header == ["setting", "run", *NAMES, "mean"]
    assert all(cell.strip("-:") == "" for cell in rule) and ("-:" in rule[-1]) == markdown
    assert [row[:2] for row in rows] == [
        ["source", "published"],
        ["source", "source-only"],
        ["adapt", "published"],
        ["adapt", "AdaptSegNet"],
        ["oracle", "oracle"],
    ]
    assert rows[0][2:4] == ["30.8", "16.3"] and rows[0][-1] == "30.3"
    assert rows[1][2:] == ["25.0"] * 20
    assert rows[2][-1] == "42.4"
    assert rows[3][2:] == ["45.0 ± 7.1"] * 20
    assert rows[4][-1] == "65.0"


def test_the_table_of_classes_and_the_remarks_stay_above_it(runs: Runs) -> None:
    above, _, below = report.table(runs).partition(visda17.TITLE)
    assert above.startswith("class ") and "closes 50.0 ± 17.7 % of the gap" in above
    assert "class" not in below and "closes" not in below


def test_the_page_has_it_too(runs: Runs, tmp_path: Path) -> None:
    page = report.write_report(runs, tmp_path / "out", "t").read_text()
    assert f"<h2>{visda17.TITLE}, IoU in %</h2>" in page
    assert "<tr><td>adapt</td><td>published</td><td>87.2</td>" in page
    assert "<tr><td>source</td><td>source-only</td><td>25.0</td>" in page


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cityscapes", "split": "val"},
        {"dataset": "visda17", "split": "test[:100]"},
    ],
)
def test_no_published_row_beside_scores_on_other_images(other: dict[str, str], runs: Runs, tmp_path: Path) -> None:
    iou = dict.fromkeys(NAMES, 0.5)
    runs["advent"] = [write_run(tmp_path / "other", iou, list(NAMES), **(ON | other))]
    assert visda17.TITLE not in report.table(runs)
    assert visda17.TITLE not in report.write_report(runs, tmp_path / "out", "t").read_text()


def test_no_published_row_beside_other_classes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", {"road": 0.5, "car": 0.1}, ["road", "car"], **ON)
    assert visda17.TITLE not in report.table({"a": [run]})
