"""Scores without target labels: equal to what NumPy makes of the segmenter's own probabilities, and in every log."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import uda_jax
from uda_jax.data import pipeline
from uda_jax.errors import UserError
from uda_jax.evaluation.unlabelled import build_unlabelled_step, label_free, neighbourhood_density, score_target
from uda_jax.methods.contract import Method
from uda_jax.models.networks import Networks, build_networks
from uda_jax.training.loop import train
from uda_jax.training.sharding import make_mesh
from uda_jax.training.state import TrainState, create_state


def entropy(p: np.ndarray) -> np.ndarray:
    return -np.sum(p * np.log(np.maximum(p, 1e-30)), -1)


@pytest.fixture
def asked(least: ConfigDict) -> ConfigDict:
    least.eval.update(unlabelled=3, source_split="val")
    least.model.init = "he"  # so that classes differ from pixel to pixel
    return least


@pytest.mark.parametrize("batch_size", [1, 2])
def test_scores_are_those_of_the_probabilities(asked: ConfigDict, batch_size: int) -> None:
    asked.eval.batch_size = batch_size
    mesh, networks = make_mesh(), build_networks(asked)
    state = create_state(asked, networks)
    stream = asked.data.eval.copy_and_resolve_references()
    stream.split = "train"
    images = np.concatenate(
        [b["image"] for b in pipeline.eval_batches(asked.data.dir, stream, batch_size=1, limit=3, labels=False)]
    )
    segmenter = uda_jax.build_segmenter(asked)
    p = np.asarray(segmenter.probabilities(images), np.float64)
    chosen, marginal = p.argmax(-1), p.mean((0, 1, 2))
    flipped = np.asarray(segmenter.predict(images[:, :, ::-1]))[:, :, ::-1]
    # With batches of one every image but the first is mixed with the one before; with two, the third with the first.
    pairs = [(1, 0), (2, 1)] if batch_size == 1 else [(2, 0)]
    mixed = [np.round(0.55 * images[a].astype(np.float32) + np.float32(0.45) * images[b]) for a, b in pairs]
    seen = np.asarray(segmenter.predict(np.stack(mixed).astype(np.uint8)))

    found = score_target(state, asked, build_unlabelled_step(asked, networks, mesh), mesh)

    assert set(found) == {"entropy", "information", "density", "flips", "mixval"}
    assert found["entropy"] == pytest.approx(entropy(p).mean() / np.log(19), rel=1e-5)
    assert found["information"] == pytest.approx((entropy(marginal) - entropy(p).mean()) / np.log(19), rel=1e-3)
    assert found["flips"] == pytest.approx(np.mean(chosen == flipped), abs=1e-3)
    assert found["mixval"] == pytest.approx(np.mean(chosen[[a for a, _ in pairs]] == seen), abs=1e-3)
    assert 0 < found["flips"] < 1 and 0 < found["mixval"] < 1


def test_neighbourhood_density_is_the_published_one() -> None:
    """All places are looked at where there are few: eqs. 1 to 3, written out."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(5, 0.3), (4, 6))
    unit = p.reshape(-1, 5) / np.linalg.norm(p.reshape(-1, 5), axis=1, keepdims=True)
    densities = []
    for i in range(24):
        similarity = np.exp(unit[i] @ np.delete(unit, i, 0).T / 0.05)
        densities.append(entropy(similarity / similarity.sum()))
    assert float(neighbourhood_density(jnp.asarray(p, jnp.float32))) == pytest.approx(np.mean(densities), rel=1e-5)


def test_places_are_bounded_on_large_maps() -> None:
    """A million places have 10^12 similarities. On a uniform map each of n is as near to all others: log(n - 1)."""
    uniform = jnp.full((200, 300, 3), 1 / 3, jnp.float32)
    assert float(neighbourhood_density(uniform)) == pytest.approx(np.log(25 * 37 - 1), rel=1e-5)


def test_every_evaluation_logs_them(asked: ConfigDict, tmp_path: Path) -> None:
    asked.train.eval_every = 2
    train(asked, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if "eval/miou" in line]
    names = {f"eval/{n}" for n in ("entropy", "information", "density", "flips", "mixval", "source_miou")}
    assert [line["step"] for line in scored] == [2, 4]
    assert all(names <= set(line) for line in scored)
    stored = json.loads((tmp_path / "run" / "evaluation.json").read_text())["unlabelled"]
    assert {f"eval/{name}": value for name, value in stored.items()} == {name: scored[-1][name] for name in names}


def test_a_method_with_a_teacher_says_how_far_both_agree(asked: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method is an ordinary one but for what it has evaluated."""
    from uda_jax.evaluation import unlabelled

    real, networks, mesh = unlabelled.build_method, build_networks(asked), make_mesh()

    def with_teacher(config: ConfigDict, networks: Networks) -> Method:
        def teacher(state: TrainState) -> dict[str, object]:
            return {"params": jax.tree.map(lambda x: x, state.params), "batch_stats": state.batch_stats}

        return real(config, networks)._replace(evaluated=teacher)

    monkeypatch.setattr(unlabelled, "build_method", with_teacher)
    state = create_state(asked, networks)
    assert score_target(state, asked, build_unlabelled_step(asked, networks, mesh), mesh)["agreement"] == 1


def test_nothing_asked_for_costs_nothing(least: ConfigDict) -> None:
    assert label_free(least, build_networks(least), make_mesh())(None) == {}


def test_a_source_split_that_is_not_there(asked: ConfigDict, tmp_path: Path) -> None:
    asked.eval.source_split = "validation"
    with pytest.raises(UserError, match="no split 'validation'"):
        train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()
