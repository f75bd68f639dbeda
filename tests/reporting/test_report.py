"""The report's numbers, files and errors, on small workdirs in the format that training writes."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.reporting import comparison, figures
from uda_jax.reporting import page as report

CLASSES = ["road", "car", "train"]
SOURCE = {"road": 0.5, "car": 0.1, "train": None}
ADAPTED = {"road": 0.7, "car": 0.3, "train": None}
ORACLE = {"road": 0.9, "car": 0.7, "train": None}


def write_run(workdir: Path, iou: dict, classes=CLASSES, metrics=(), samples=0, **evaluation) -> Path:
    workdir.mkdir(parents=True)
    scores = {
        "step": 40,
        "dataset": "streets/camera",
        "split": "val",
        "images": 8,
        "iou": iou,
        "classes": classes,
    }
    (workdir / "evaluation.json").write_text(json.dumps(scores | evaluation))
    if metrics:
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    for i in range(samples):
        write_sample(workdir / "samples", f"frame{i}", seed=i)
    return workdir


def write_sample(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (32, 64, 3), np.uint8)).save(folder / f"{name}_image.png")
    for kind in ("truth", "prediction"):
        ids = Image.fromarray(rng.integers(0, 3, (32, 64), np.uint8))
        ids.putpalette(labels.palette().tobytes())
        ids.save(folder / f"{name}_{kind}.png")


def training_lines(steps=range(0, 60, 20), **extra) -> list[dict]:
    lines = [{"step": s, "loss_seg_main": 2 - s / 100, "loss_d_main": 0.5, "lr": 1e-3} | extra for s in steps]
    return [*lines, {"step": 40, "eval/miou": 0.4}]


@pytest.fixture
def three(tmp_path) -> dict[str, list[Path]]:
    """Source-only, adapted and oracle, one seed each, complete workdirs."""
    lines = training_lines(loss_d_main_source=0.31, loss_d_main_target=0.42, acc_d_main=0.77)
    data = {"source": {"dataset": "streets/rendered", "split": "train"}}
    runs = {}
    for label, iou in {"source-only": SOURCE, "AdaptSegNet": ADAPTED, "oracle": ORACLE}.items():
        workdir = write_run(tmp_path / label, iou, metrics=lines, samples=2)
        (workdir / "config.json").write_text(json.dumps({"method": label, "note": "a < b", "data": data}))
        facts = {"wall_s": 90.0, "train_s": 60, "versions": {"jax": "0.9.1"}, "devices": "2 x cpu"}
        (workdir / "run.json").write_text(json.dumps(facts | {"parameters": {"segmenter": 1234567}}))
        runs[label] = [workdir]
    return runs


def rows(text: str) -> dict[str, list[str]]:
    """The table's rows by first cell."""
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    return {cells[0]: cells[1:] for cells in split}


def test_a_score_that_is_older_than_its_run_is_said(three) -> None:
    assert "Caution" not in report.table(three)
    workdir = next(iter(three.values()))[0]
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "loss": 1.0}\n')
    said = f"Caution: {workdir} was scored at step 40, but has been trained to 60 since"
    assert said in report.table(three)
    (workdir / "checkpoints" / "80").mkdir(parents=True)
    assert said.replace("to 60", "to 80") in report.table(three)


def test_table_numbers(three):
    found = rows(report.table(three))
    assert found["class"] == ["source-only", "AdaptSegNet", "oracle"]
    assert found["road"] == ["50.0", "70.0", "90.0"]
    assert found["train"] == ["-", "-", "-"]
    assert found["mean"] == ["30.0", "50.0", "80.0"]  # over road and car only


def test_table_tells_the_gap_closed(three):
    assert "AdaptSegNet closes 40.0 % of the gap between source-only and oracle." in report.table(three)
    del three["oracle"]
    assert "closes" not in report.table(three)


def test_table_over_seeds(tmp_path):
    seeds = [write_run(tmp_path / str(i), {"road": v, "car": 0.2}, ["road", "car"]) for i, v in enumerate((0.4, 0.5))]
    text = report.table({"source-only": seeds})
    assert rows(text)["road"] == ["45.0 ± 7.1"]  # sample sd: 0.1 / sqrt(2)
    assert rows(text)["car"] == ["20.0 ± 0.0"]
    assert rows(text)["mean"] == ["32.5 ± 3.5"]
    assert "source-only 2" in text


def test_markdown_table(three):
    lines = report.table(three, markdown=True).splitlines()
    assert lines[0].startswith("| class")
    assert re.fullmatch(r"\| -+ (\| -+: )+\|", lines[1])
    assert rows("\n".join(lines))["car"] == ["10.0", "30.0", "70.0"]


def test_gap_closed_pairs_seeds_and_averages_a_reference_of_another_size():
    adapted = np.array([0.5, 0.6])
    paired = comparison.gap_closed({"source-only": np.array([0.4, 0.2]), "a": adapted, "oracle": np.array([0.8, 0.7])})
    np.testing.assert_allclose(paired["a"], [0.25, 0.8])
    single = comparison.gap_closed({"source-only": np.array([0.4]), "a": adapted, "oracle": np.array([0.8])})
    np.testing.assert_allclose(single["a"], [0.25, 0.5])


def test_no_gap_to_close():
    means = {"source-only": np.array([0.5]), "a": np.array([0.6]), "oracle": np.array([0.5])}
    assert np.isnan(comparison.gap_closed(means)["a"]).all()


def test_a_gap_of_less_than_a_point_is_none():
    """Seen on real data: an oracle 0.02 points above source-only made a loss of one point "-6739 %"."""
    means = {"source-only": np.array([0.3307]), "a": np.array([0.3189]), "oracle": np.array([0.3309])}
    assert np.isnan(comparison.gap_closed(means)["a"]).all()
    means["oracle"] = np.array([0.35])
    assert np.isfinite(comparison.gap_closed(means)["a"]).all()


def test_cautions(tmp_path):
    first = write_run(tmp_path / "a", SOURCE)
    second = write_run(tmp_path / "b", ADAPTED | {"train": 0.2}, images=9)
    text = report.table({"source-only": [first], "adapted": [second]})
    assert "different images: streets/camera val, 8 images; streets/camera val, 9 images" in text
    assert "not every run's mean takes in train." in text
    assert "Caution" not in report.table({"source-only": [first]})


def test_mean_over_the_scored_classes(tmp_path):
    iou = {"road": 0.5, "car": 0.1, "train": 0.9}
    text = report.table({"a": [write_run(tmp_path / "a", iou, scored=["road", "car"])]})
    assert rows(text)["train"] == ["90.0"] and rows(text)["mean"] == ["30.0"]
    assert "The mean is over 2 classes, without train." in text


class Resources(HTMLParser):
    """Collects what a browser would load."""

    def __init__(self):
        super().__init__()
        self.sources, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in {"src", "href", "srcset", "data"}]


def test_report_is_self_contained(three, tmp_path):
    page = report.write_report(three, tmp_path / "out" / "deep", "Night & day <1>").read_text()
    found = Resources()
    found.feed(page)
    assert len(found.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert not found.tags & {"script", "link", "iframe"}
    assert not re.search(r"https?://|@import|url\(", page)
    assert "<h1>Night &amp; day &lt;1&gt;</h1>" in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_report_tells_the_facts(three, tmp_path):
    page = report.write_report(three, tmp_path / "out", "t").read_text()
    expected = ["closes 40.0 %", "streets/camera val, 8 images", "jax 0.9.1", "2 x cpu", "1.5 min", "1.0 min"]
    expected += [
        "segmenter 1,234,567",
        "a &lt; b",
        "<details>",
        "<td>streets/rendered train</td>",
        report.HEALTH,
        "0.310",
        "0.420",
        "0.770",
    ]
    assert [text for text in expected if text not in page] == []


def test_pictures_have_sane_sizes(three, tmp_path):
    report.write_report(three, tmp_path / "out", "t")
    for name in ("curves", "per_class", "strips"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert 300 < pixels.shape[0] < 4000 and 900 < pixels.shape[1] < 4000, name
        assert pixels.std() > 5, f"{name} is blank"


def test_strips_show_the_predicted_colours(tmp_path):
    workdir = write_run(tmp_path / "a", SOURCE)
    write_sample(workdir / "samples", "x", seed=0)
    only_cars = Image.new("L", (64, 32), 13)  # a grey file: the report colours it
    only_cars.save(workdir / "samples" / "x_prediction.png")
    figure = figures.strips({"a": workdir / "samples"}, labels.NAMES)
    image, _, prediction = (axis.get_images()[0].get_array() for axis in figure.axes)
    assert image.shape == (32, 64, 3)
    assert (prediction == labels.CLASSES[13].color).all()


def test_bare_runs_are_enough(tmp_path):
    workdir = write_run(tmp_path / "a", SOURCE)
    out = tmp_path / "out"
    out.mkdir()
    (out / "strips.png").write_bytes(b"of an earlier report")
    page = report.write_report({"only": [workdir]}, out, "t").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["per_class.png", "report.html"]
    assert report.HEALTH not in page and "<details>" not in page


def test_metrics_without_evaluation_and_a_torn_line(tmp_path):
    workdir = write_run(tmp_path / "a", SOURCE, metrics=[{"step": 0, "loss_seg_main": 1.0}])
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "loss_se')
    (run,) = comparison.read_runs({"a": [workdir]})["a"]
    assert run.metrics == [{"step": 0, "loss_seg_main": 1.0}]
    assert report.write_report({"a": [workdir]}, tmp_path / "out", "t").is_file()
    assert (tmp_path / "out" / "curves.png").is_file()


def test_curve_panels_in_order():
    lines = [
        {"step": 0, "loss_d_main": 1, "loss_adv_main": 1, "loss_seg_main": 1, "lr": 1},
        {"eval/miou": 0.1},
    ]
    assert figures.curve_keys({"a": [lines]}) == [
        "loss_seg_main",
        "loss_adv_main",
        "loss_d_main",
        "eval/miou",
    ]


def test_series_of_a_resumed_run_counts_a_step_once():
    lines = [{"step": 0, "x": 5}, {"step": 20, "x": 4}, {"step": 0, "x": 1}, {"step": 30, "y": 9}]
    steps, values = comparison.series(lines, "x")
    assert steps.tolist() == [0, 20] and values.tolist() == [1, 4]


def test_mean_line_averages_seeds_and_long_runs():
    steps, values = figures.mean_line(
        [(np.array([0.0, 1]), np.array([2.0, np.nan])), (np.array([0.0]), np.array([4.0]))]
    )
    assert steps.tolist() == [0] and values.tolist() == [3]
    long = np.arange(5000.0)
    steps, values = figures.mean_line([(long, 2 * long)])
    assert len(steps) == figures.MAX_POINTS
    np.testing.assert_allclose(values, 2 * steps)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "not found"),
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ('{"classes": ["road"]}', 'expected "classes"'),
        ('{"classes": ["road"], "iou": {"car": 0.1}}', 'expected "classes"'),
        ('{"classes": ["road"], "iou": {"road": 42.1}}', "expected 0..1 or null"),
        ('{"classes": ["road"], "iou": {"road": 0.4}, "scored": ["car"]}', "expected some of ['road']"),
    ],
)
def test_bad_evaluation_is_named(tmp_path, text, message):
    path = tmp_path / "evaluation.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        report.table({"a": [tmp_path]})
    assert message in str(caught.value)


def test_different_classes_are_refused(tmp_path):
    first = write_run(tmp_path / "a", SOURCE)
    second = write_run(tmp_path / "b", {"road": 0.1}, ["road"])
    with pytest.raises(UserError, match=r"b/evaluation\.json: classes") as caught:
        report.table({"source-only": [first], "oracle": [second]})
    assert "a/evaluation.json" in str(caught.value)


def test_broken_picture_is_named(three, tmp_path):
    broken = three["oracle"][0] / "samples" / "frame0_prediction.png"
    broken.write_bytes(b"not a PNG")
    with pytest.raises(UserError, match=re.escape(str(broken))):
        report.write_report(three, tmp_path / "out", "t")


def test_command_line(three, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [f"{label}={','.join(map(str, seeds))}" for label, seeds in three.items()]
    assert report.main([f"--out={out}", *arguments]) == 0
    assert rows(capsys.readouterr().out)["mean"] == ["30.0", "50.0", "80.0"]
    assert (out / "report.html").is_file()


def test_command_line_errors(tmp_path, capsys):
    assert report.main([f"--out={tmp_path / 'out'}", f"a={tmp_path}"]) == 2
    assert "evaluation.json: not found" in capsys.readouterr().err
    for bad in (["runs/a"], ["=runs/a"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(UserError, match=re.escape(bad[-1])):
            report.parse_runs(bad)
    assert report.parse_runs(["a=x,y"]) == {"a": [Path("x"), Path("y")]}


def test_out_must_not_be_a_file(tmp_path):
    workdir = write_run(tmp_path / "a", SOURCE)
    with pytest.raises(UserError, match="expected a directory"):
        report.write_report({"a": [workdir]}, workdir / "evaluation.json", "t")
