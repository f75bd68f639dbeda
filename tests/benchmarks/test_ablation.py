import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation, attack_direction
from configs import demo, streets_apoda
from tests.test_main import TINY, VGG
from tests.training import forked
from uda_jax.config import check_config
from uda_jax.errors import UserError

ATTACKS = {"eps_discriminator": 0.01, "eps_source": 0.002, "eps_target": 0.011}


def test_what_the_variants_switch() -> None:
    runs = ablation.variants(streets_apoda.get_config())
    for run in runs.values():
        check_config(run)
    sizes = {label: tuple(run.apoda[name] for name in ATTACKS) for label, run in runs.items()}
    everything = tuple(ATTACKS.values())
    assert sizes["warm-up, then no attack"] == (0, 0, 0)
    assert sizes["+ D attack"] == (0.01, 0, 0)
    assert sizes["+ F attack on source"] == (0, 0.002, 0)
    assert sizes["+ F attack on target"] == (0, 0, 0.011)
    assert sizes["sequential, F on source alone"] == (0.01, 0.002, 0)
    assert [label for label, run in runs.items() if run.apoda.attack_order == "sequential"] == [
        "sequential, F on source alone"
    ]
    recollected = runs["recollected weights"].apoda
    assert (recollected.lambda_perturbed_source, recollected.lambda_consistency) == (0.2, 0.002)
    assert sizes["all"] == sizes["all + entropy"] == sizes["random signs instead"] == sizes["K = 5"] == everything
    entropy = {label for label, run in runs.items() if run.method == "apoda" and run.apoda.lambda_ent_main}
    kept = {"adversarial loss kept", "kept, no attack", "kept, eps x 4", "kept, eps x 4, backbone too"}
    assert entropy == {"all + entropy", "random signs instead", "whole-map instead", "K = 1", "K = 5"} | kept | {
        "sequential, F on source alone",
        "recollected weights",
    }
    ours = {label: run.apoda for label, run in runs.items() if run.method == "apoda"}
    assert {label for label, c in ours.items() if c.adversarial_after_warmup} == kept
    assert sizes["kept, no attack"] == (0, 0, 0)
    assert [runs[label].apoda.attack_steps for label in ("K = 1", "all", "K = 5")] == [1, 3, 5]
    assert runs["adversarial loss kept"] == streets_apoda.get_config()
    config = streets_apoda.get_config()
    config.apoda.eps_discriminator = 0.02  # as from the command line
    runs = ablation.variants(config)
    larger = [runs[label].apoda.eps_discriminator for label in ("+ D attack", "adversarial loss kept", "kept, eps x 4")]
    assert larger == [0.02, 0.02, 0.08]
    for game in (runs["AdaptSegNet"].adaptsegnet, ours["all"]):
        assert (game.gan, game.lambda_adv_main) == ("least_squares", 0.05)


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"config.method='adaptsegnet'; use configs/streets_apoda.py"):
        ablation.choose(demo.get_config(), ())
    with pytest.raises(UserError, match=r"'K = 4' is not one of 'source-only', 'AdaptSegNet'"):
        ablation.choose(streets_apoda.get_config(), ["all", "K = 4"])


def write_run(directory: Path, ious: list[float | None], lines: list[dict[str, float]]) -> Path:
    """A finished run on four classes, which hold 60, 35, 5 and 0 % of the pixels."""
    names, pixels = ["road", "car", "sign", "train"], [60, 35, 5, 0]
    directory.mkdir(parents=True)
    evaluation = {
        "step": 40,
        "dataset": "streets/camera",
        "split": "val",
        "images": 5,
        "classes": names,
        "scored": names[:3],
        "iou": dict(zip(names, ious, strict=True)),
        "miou": sum(x for x in ious if x is not None) / 3,
        "confusion": [[n if i == j else 0 for j in range(4)] for i, n in enumerate(pixels)],
    }
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def test_the_table_of_finished_runs(tmp_path: Path) -> None:
    def line(step: int, **rms: float) -> dict[str, float]:
        logged = dict.fromkeys(ablation.DIAGNOSTICS, 0.5) | {"predicted_source/car": 0.2, "flipped_source/car": 0.05}
        return {"step": step, **logged, **rms}

    lines = [line(10, rms_source=9), line(25, rms_source=9), line(30, rms_source=0.02), line(40, rms_source=0.04)]
    finished = {
        "source-only": [write_run(tmp_path / "a", [0.6, 0.4, 0.2, None], [{"step": 40, "loss": 1.0}])],
        "all": [
            write_run(tmp_path / "b", [0.8, 0.6, 0.1, None], lines),
            write_run(tmp_path / "c", [0.8, 0.6, 0.3, None], lines),
        ],
    }
    results = ablation.collect(finished, warmup_steps=20)
    assert (results["head"], results["tail"]) == (["road", "car"], ["sign"])
    assert results["variants"]["source-only"][0]["head"] == pytest.approx(0.5)
    assert results["variants"]["source-only"][0]["diagnostics"] == {}
    found = results["variants"]["all"][1]["diagnostics"]
    assert found["rms_source"] == pytest.approx(0.03)  # of the lines whose every step is after the warm-up
    assert found["flip_source/car"] == pytest.approx(0.25)
    page = ablation.markdown(results, finished)
    assert "| source-only | 1 | 40.0 | - | 50.0 | 20.0 | - / - | - / - | - | - |" in page
    row = "| 70.0 ± 0.0 | 20.0 ± 14.1 | 3.0 ± 0.0 / 50.0 ± 0.0 | 50.0 ± 0.0 / 50.0 ± 0.0 |"
    assert f"| all | 2 | 53.3 ± 4.7 | - {row}" in page
    assert "| sign" in page  # the classes' table
    reference = [
        write_run(tmp_path / "d", [0.6, 0.5, 0.1, None], []),
        write_run(tmp_path / "e", [0.6, 0.5, 0.3, None], []),
    ]
    page = ablation.markdown(ablation.collect(finished := finished | {"AdaptSegNet": reference}, 20), finished)
    assert f"| all | 2 | 53.3 ± 4.7 | 10.0 ± 0.0 {row}" in page  # seed by seed, not 10.0 ± 6.7
    assert "| source-only | 1 | 40.0 | 0.0 | 50.0" in page  # of the seeds that both have


def without_times(metrics: str) -> list[dict[str, float]]:
    """The lines of training, without how fast it was."""
    lines = map(json.loads, metrics.splitlines())
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines if "eval/miou" not in line]


@pytest.mark.slow
def test_the_command_trains_reports_and_resumes(data_dir: Path, tmp_path: Path) -> None:
    command = ["benchmarks.ablation", f"--workdir={tmp_path}/x", *TINY[1:], *VGG]
    command += [f"--config.data.dir={data_dir}", "--config.train.steps=4"]
    command += ["--config.apoda.warmup_steps=2", "--variants=source-only,all"]

    def run() -> str:
        status, said = forked.run(*command)
        assert status == 0, said
        return said

    assert "| all | 1 |" in run()
    results = json.loads((tmp_path / "x" / "ablation.json").read_text())
    assert list(results["variants"]) == ["source-only", "all"]
    assert results["variants"]["all"][0]["diagnostics"]["rms_target"] > 0
    assert (tmp_path / "x" / "all" / "seed0" / "evaluation.json").exists()
    gap, moved = attack_direction.mean_features_and_moves(tmp_path / "x" / "all" / "seed0")
    assert gap.shape == moved["source"].shape == moved["target"].shape == (64,)
    assert np.abs(moved["source"]).max() > 0 and gap.any() and (moved["source"] != moved["target"]).any()
    with pytest.raises(UserError, match=r"source_only/seed0 was trained with 'source_only', without a discriminator"):
        attack_direction.report([tmp_path / "x" / "source_only" / "seed0"])
    unshared = ["uda_jax.main", "--config=configs/streets_apoda.py", *command[2:-1]]
    unshared += [f"--workdir={tmp_path}/y", "--config.apoda.lambda_ent_main=0.0"]
    unshared += ["--config.apoda.adversarial_after_warmup=False"]
    assert forked.run(*unshared)[0] == 0
    evaluations, metrics = (
        [(run / name).read_text() for run in (tmp_path / "x" / "all" / "seed0", tmp_path / "y")]
        for name in ("evaluation.json", "metrics.jsonl")
    )
    assert evaluations[0] == evaluations[1]
    assert without_times(metrics[0]) == without_times(metrics[1])
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "x").glob("*/seed0/evaluation.json")}
    run()  # nothing left to train
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
