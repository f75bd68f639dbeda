"""Licences of weights: said and kept when they are taken in, and carried on into the run and its export."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.test_export import make_run
from tests.weights.test_convert_weights import backbone_of, tiny
from tests.weights.test_weights import tiny as tiny_config
from uda_jax import runs
from uda_jax.errors import UserError
from uda_jax.export import export
from uda_jax.training.loop import train
from uda_jax.weights import licences, sources
from uda_jax.weights.arrays import read_arrays, read_metadata, write_arrays
from uda_jax.weights.convert import convert

MIT = {"pretrained": "MIT"}
UNKNOWN = {"pretrained": licences.UNKNOWN}


def taken_in(source: str, file: Path, **kwargs: Any) -> tuple[str, Any]:
    """The lines of a conversion's report that tell licences, and the entry of the file."""
    report = convert(source, str(file), **kwargs)
    return "\n".join(line for line in report.splitlines() if "licence" in line), read_metadata(file)["licence"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("torchvision:", "BSD-3-Clause"),
        ("timm:", "Apache-2.0"),
        ("caffe:", "unknown; ask where the file came from"),
        ("adaptsegnet:", "non-commercial research only"),
        ("advent:", "Apache-2.0"),
        ("", "unknown; ask where the file came from"),  # torchvision's names, but anyone may have trained it
    ],
)
def test_the_report_and_the_file_say_the_licence_of_their_origin(kind: str, words: str, tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.safetensors", backbone_of(tiny()), {})
    said, kept = taken_in(f"{kind}{tmp_path}/a.safetensors", tmp_path / "b.npz")
    assert list(kept) == ["pretrained"] and kept["pretrained"].startswith(words)
    assert said == f"  licence: {kept['pretrained']}"


def test_what_adaptsegnets_licence_forbids_is_said() -> None:
    assert "no commercial use" in licences.of_origin("adaptsegnet")["pretrained"]


@pytest.mark.parametrize(("network", "words"), [("ResNet101", "MIT"), ("VGG16", "CC BY")])
def test_a_download_of_keras(network: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "read_keras", lambda name: {})
    _, metadata, _ = sources.read_source(f"keras:{network}", published_needs_kind=True)
    assert metadata["licence"]["pretrained"].startswith(words)


@pytest.mark.parametrize(
    ("metadata", "entry"),
    [
        ({"licence": MIT}, MIT),
        ({"licence": MIT | {"discriminator": "own"}}, MIT | {"discriminator": "own"}),
        ({"licence": {}}, {}),  # of a run from scratch
        ({}, UNKNOWN),  # from before there was such an entry
        ({"licence": "MIT"}, UNKNOWN),
        ({"licence": {"pretrained": 1}}, UNKNOWN),
    ],
)
def test_a_file_of_ours_keeps_its_entry(metadata: dict, entry: dict, tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", tiny(), {"model": {}} | metadata)
    said, kept = taken_in(str(tmp_path / "a.npz"), tmp_path / "b.safetensors")
    assert kept == entry
    assert all(text in said for text in entry.values())
    assert entry or said == "  licence: nothing in it came from elsewhere"


def test_discriminators_that_are_merged_in_have_their_own() -> None:
    """Those of a published segmenter are its authors'; else nobody has said whose they are."""
    advent = {"licence": licences.of_origin("advent")}
    known = licences.taken_in(advent, "advent:x.pth", merged=True)
    assert known["discriminator"] == known["pretrained"]
    assert len(licences.lines(known)) == 2
    assert licences.taken_in({"licence": MIT}, "x.npz", merged=True) == MIT | {"discriminator": licences.UNKNOWN}
    assert licences.taken_in({"licence": MIT}, "x.npz", merged=False) == MIT


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_metadata_are_read_without_the_arrays(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"w{suffix}"
    write_arrays(file, {"x": np.zeros(3)}, {"licence": MIT})
    assert read_metadata(file) == read_arrays(file)[1] == {"licence": MIT}
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"not a readable {suffix}"):
        read_metadata(file)


def test_a_run_has_the_licence_of_what_it_started_from(tmp_path: Path) -> None:
    config = tiny_config("resnet18")
    assert runs.licence(config, {}) == {}  # from scratch
    config.model.pretrained = str(tmp_path / "w.npz")
    write_arrays(tmp_path / "w.npz", {}, {"licence": MIT})
    assert runs.licence(config, {}) == {"licence": MIT}
    write_arrays(tmp_path / "w.npz", {}, {})
    assert runs.licence(config, {}) == {"licence": UNKNOWN}
    (tmp_path / "w.npz").unlink()  # a run that goes on needs it no longer
    assert runs.licence(config, {"licence": MIT, "classes": []}) == {"licence": MIT}
    assert runs.licence(config, {"classes": []}) == {"licence": UNKNOWN}  # started before there was such an entry
    assert runs.licence(config, {}) == {"licence": UNKNOWN}


def test_the_export_of_a_run_that_does_not_know(tmp_path: Path) -> None:
    config = tiny_config("resnet18")
    for name in ("scratch", "old"):
        (tmp_path / name).mkdir()
    make_run(tmp_path / "scratch", config, 1)
    assert read_metadata(export(tmp_path / "scratch"))["licence"] == {}
    config.model.pretrained = "somewhere.npz"
    make_run(tmp_path / "old", config, 1)
    assert read_metadata(export(tmp_path / "old"))["licence"] == UNKNOWN


@pytest.mark.slow
def test_training_carries_it_from_the_file_to_the_export(least: ConfigDict, tmp_path: Path) -> None:
    least.train.steps = 1
    train(least, tmp_path / "scratch")
    arrays, metadata = read_arrays(export(tmp_path / "scratch"))
    write_arrays(tmp_path / "w.npz", arrays, metadata | {"licence": MIT})
    least.model.pretrained = str(tmp_path / "w.npz")
    train(least, tmp_path / "run")
    (tmp_path / "w.npz").unlink()
    least.train.steps = 2
    train(least, tmp_path / "run")
    assert read_metadata(export(tmp_path / "run", step=1))["licence"] == MIT
    assert read_metadata(export(tmp_path / "run", step=2))["licence"] == MIT
