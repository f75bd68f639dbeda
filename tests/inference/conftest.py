"""A finished run, as small as it gets, that lies where it was not trained, beside no data."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import shrink
from uda_jax.config import default_config
from uda_jax.export import export
from uda_jax.inference.model import Model, load_model
from uda_jax.training.loop import train


@pytest.fixture(scope="session")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of source-only, moved after training; the data that its config names are gone."""
    directory = tmp_path_factory.mktemp("finished")
    data = directory / "data"
    data.symlink_to(data_dir)
    config = shrink(default_config(), str(data))
    config.method = "source_only"
    config.model.update(two_levels=False, init="he")
    config.train.steps = 2
    train(config, directory / "here")
    data.unlink()
    (directory / "there").mkdir()
    return Path(shutil.move(directory / "here", directory / "there" / "run"))


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(export(run, out=tmp_path_factory.mktemp("exported") / "model.npz"))


@pytest.fixture(scope="session")
def model(exported: Path) -> Model:
    return load_model(exported)
