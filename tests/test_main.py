"""The commands as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from uda_jax.cli import answered

ROOT = Path(__file__).parents[1]
TINY = [
    "--config=configs/demo.py",
    "--config.model.width=4",
    "--config.model.stem_width=4",
    "--config.discriminator.width=4",
    "--config.data.source.size=(32, 64)",
    "--config.data.target.size=(32, 64)",
    "--config.data.oracle.size=(32, 64)",
    "--config.data.eval.size=(32, 64)",
    "--config.train.batch_size=2",
    "--config.train.steps=2",
    "--config.train.log_every=1",
]
# After TINY: fewer operations to compile than a ResNet has, where a test needs several methods.
VGG = [
    "--config.model.backbone=vgg16",
    "--config.model.stem=imagenet",
    "--config.model.stem_width=64",
    "--config.model.affine=frozen",
]


def run(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"uda_jax.{module}", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))


@pytest.mark.slow
def test_train_stop_and_resume(data_dir: Path, tmp_path: Path) -> None:
    args = [*TINY, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}/x"]
    first = run("main", *args)
    assert first.returncode == 0, first.stderr
    assert "mean" in first.stdout + first.stderr
    second = run("main", *args, "--config.train.steps=3")
    assert second.returncode == 0, second.stderr
    assert "from step 2" in second.stdout + second.stderr


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("--config.train.stpes=5", 'Did you mean "steps"'),
        ("--config.train.steps=many", "--config.train.steps=many"),
        ("--config.data.dir=/nowhere", "python -m data_prep.build --dataset=streets --out=/nowhere"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(arg: str, words: str, tmp_path: Path) -> None:
    result = run("main", "--config=configs/demo.py", f"--workdir={tmp_path}/x", arg)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert words in result.stderr + result.stdout
    assert not (tmp_path / "x").exists()


BROKEN = {
    "typo": (
        "    config.model.widht = 3\n",
        ["line 5", "no setting 'widht'", 'Did you mean "width"', "config.model.widht = 3"],
    ),
    "type": ('    config.train.steps = "many"\n', ["line 5", "TypeError", 'config.train.steps = "many"']),
    "name": ("    config.seed = sede\n", ["line 5", "NameError: name 'sede' is not defined"]),
    "syntax": ("    config.seed = = 1\n", ["line 5", "invalid syntax", "config.seed = = 1"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_mistakes_in_a_config_file_keep_their_line(fault: str, tmp_path: Path) -> None:
    line, words = BROKEN[fault]
    path = tmp_path / "mine.py"
    start = "from uda_jax.config import default_config\n\ndef get_config():\n    config = default_config()\n"
    path.write_text(f"{start}{line}    return config\n")
    result = run("main", f"--config={path}", f"--workdir={tmp_path}/x")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in [str(path), *words]), result.stderr


def test_a_config_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells expand a "~" at the start of a word alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("def get_config():\n    return sede\n")
    result = run("main", "--config=~/mine.py", f"--workdir={tmp_path}/x")
    assert result.returncode == 2
    assert f"error: {tmp_path}/mine.py, line 2: NameError" in result.stderr


def test_mistakes_in_a_config_that_another_imports_show_both_lines(tmp_path: Path) -> None:
    start = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    (tmp_path / "base_config.py").write_text(
        "from uda_jax.config import default_config\n\ndef get_config():\n"
        "    config = default_config()\n    config.model.widht = 3\n    return config\n"
    )
    path = tmp_path / "mine.py"
    path.write_text(f"{start}import base_config\n\ndef get_config():\n    return base_config.get_config()\n")
    result = run("main", f"--config={path}", f"--workdir={tmp_path}/x")
    assert result.stderr == (
        f"error: {path}, line 6: AttributeError: there is no setting 'widht'. Did you mean \"width\" instead of "
        f'"widht"?\n    return base_config.get_config()\n'
        f"{tmp_path}/base_config.py, line 5:\n    config.model.widht = 3\n"
    )
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1\n", "error: --config={path}: has no attribute 'get_config'"),
        (
            "def get_config():\n    return {{}}\n",
            "error: the config lacks adaptsegnet.gan, adaptsegnet.lambda_adv_aux,",
        ),
    ],
)
def test_files_that_are_no_config(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content.format())
    result = run("main", f"--config={path}", f"--workdir={tmp_path}/x")
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert words.format(path=path) in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--config=configs/demo.py", "--config.data.source.size=(32,"], "--config.data.source.size=(32,"),
        (["--config=configs/dmo.py"], "--config=configs/dmo.py: no such file; did you mean configs/demo.py?"),
        (["--config", "/nowhere/x.py"], "--config=/nowhere/x.py: no such file"),
        (["--config=configs/demo.py:x"], "get_config() takes 0 positional arguments"),
        (["--config=configs/demo.py", "--workdir=gs:bucket/x"], "--workdir=gs:bucket/x: did you mean gs://bucket/x?"),
        (["--config=gs://bucket/x.py"], "--config=gs://bucket/x.py: only local paths"),
        (
            ["--config=configs/demo.py", "--config.model.pretrained=s3://bucket/x.npz"],
            "--config.model.pretrained=s3://bucket/x.npz: local paths and gs:// are read",
        ),
    ],
)
def test_commands_that_cannot_start(args: list[str], words: str, tmp_path: Path) -> None:
    result = run("main", f"--workdir={tmp_path}/x", *args)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert words in result.stderr
    assert not (tmp_path / "x").exists() and not (ROOT / "gs:").exists()


@pytest.mark.parametrize("program", ["uda_jax.main", pytest.param("uda_jax.compare", marks=pytest.mark.slow)])
def test_a_workdir_that_cannot_be_made(program: str, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run(program.removeprefix("uda_jax."), *TINY, f"--config.data.dir={data_dir}", f"--workdir={workdir}")
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
        assert f"error: {workdir}" in result.stderr and "cannot be made" in result.stderr
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_the_system_says_of_a_disk_is_answered(capsys: pytest.CaptureFixture) -> None:
    def command() -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    assert answered(command) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


def test_compare_checks_every_run_before_the_first_one_trains(data_dir: Path, tmp_path: Path) -> None:
    args = [*TINY, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}/x", "--config.data.oracle.split=tarin"]
    result = run("compare", *args)
    assert result.returncode == 2
    assert "streets/camera has no split 'tarin'" in result.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_compare_trains_three_and_reports(data_dir: Path, tmp_path: Path) -> None:
    args = [*TINY, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}", "--config.few_labels.split=train[:2]"]
    first = run("compare", *args)
    assert first.returncode == 0, first.stderr
    configs = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("seed0/*/config.json")}
    labels = {label: config["few_labels"]["split"] for label, config in configs.items()}
    assert labels == {"source-only": "", "adaptsegnet": "train[:2]", "oracle": ""}  # the method's alone
    assert all(label in first.stdout for label in ("source-only", "adaptsegnet", "oracle", "mean"))
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert (tmp_path / "strips.png").exists()
    again = run("compare", *args)  # nothing left to train
    assert again.returncode == 0, again.stderr
    assert "resuming" not in again.stdout
