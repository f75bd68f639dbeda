"""The picture of a mixture."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.mixture import GAP, colour_of, mixtures
from tests.conftest import SIZE, random_batch
from tests.training import forked
from uda_jax.data.labels import palette
from uda_jax.models.networks import build_networks
from uda_jax.training.loop import train
from uda_jax.training.state import create_state


@pytest.fixture
def dacs(config: ConfigDict) -> ConfigDict:
    config.method = "dacs"
    config.model.update(affine="train", init="he", two_levels=False)
    config.dacs.update(weight_of="pixel", jitter_probability=0.0, blur_probability=0.0)
    return config


def test_columns_fit_each_other(dacs: ConfigDict) -> None:
    networks = build_networks(dacs)
    state, batch = jax.jit(lambda: create_state(dacs, networks))(), random_batch(dacs)
    dacs.dacs.threshold = float(np.median(probabilities(dacs, state.memory, batch)))
    source, target, says, mixed, labels, weights = mixtures(dacs, state.memory, batch, 3)
    pasted = (mixed == source).all(-1)
    assert 0.2 < pasted.mean() < 0.8 and (mixed[~pasted] == target[~pasted]).all()
    np.testing.assert_array_equal(labels[pasted], np.asarray(batch["source_label"])[pasted])
    sure = says != 255
    assert 0.1 < sure.mean() < 0.9
    np.testing.assert_array_equal(labels[~pasted & sure], says[~pasted & sure])
    assert (weights[pasted] == 1).all() and (weights[~pasted] == sure[~pasted]).all()
    assert colour_of(weights, palette(["road"])).dtype == np.uint8


def probabilities(config: ConfigDict, memory: dict, batch: dict) -> jax.Array:
    logits = build_networks(config).predict(memory["params"], memory["batch_stats"], batch["target_weak"]).main
    return jax.nn.softmax(logits.astype(jnp.float32)).max(-1)


@pytest.mark.slow
def test_a_picture_of_a_run_and_none_of_one_that_mixes_nothing(dacs: ConfigDict, tmp_path: Path) -> None:
    dacs.train.steps = 1
    train(dacs, tmp_path / "dacs")
    dacs.method = "source_only"
    train(dacs, tmp_path / "plain")
    command = ["benchmarks.mixture", f"--out={tmp_path}/m.png"]
    done, refused = (forked.run(*command, str(tmp_path / name)) for name in ("dacs", "plain"))
    assert done[0] == 0, done
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.size == (6 * (SIZE[1] + GAP) - GAP, 2 * (SIZE[0] + GAP) - GAP)
    assert refused[0] == 2 and "'source_only', which mixes nothing" in refused[1]
