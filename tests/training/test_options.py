"""bfloat16, remat and accumulation train to the same place as a run without them.

docs/performance.md has the errors after 60 steps; they are within these bounds, too.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from uda_jax.training.loop import train

STEPS = 24


def trained(config: ConfigDict, workdir: Path, norm: str, **options: object) -> tuple[float, np.ndarray]:
    """(mean cross entropy on the source over the last 8 steps, all parameters) of a short run of AdaptSegNet."""
    config = config.copy_and_resolve_references()
    config.model.update(affine="train", init="he", two_levels=False, norm=norm, width=8, stem_width=8)
    rate = 0.002 if norm == "batch" else 0.0002  # unnormalised, ten times that is chaotic
    config.optimizer.update(learning_rate=rate, head_multiplier=1.0, discriminator_learning_rate=1e-3)
    config.adaptsegnet.update(gan="least_squares", lambda_adv_main=0.05)
    config.train.update(steps=STEPS, batch_size=4, checkpoint_every=STEPS)
    for name, value in options.items():
        config["train" if name == "accumulate" else "model"][name] = value
    state = train(config, workdir)
    losses = [json.loads(line).get("loss_seg_main") for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None]
    assert len(losses) == STEPS and losses[-1] < 0.8 * losses[0]  # it learns
    return float(np.mean(losses[-8:])), np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "cases"),
    [
        ("batch", [({"remat": True}, 1e-3, 1e-3), ({"dtype": "bfloat16"}, 0.005, 0.02)]),
        (
            "frozen",
            [
                ({"accumulate": 2}, 0.005, 0.01),  # its losses are means over each part's own labelled pixels
                ({"dtype": "bfloat16"}, 0.02, 0.01),
            ],
        ),
    ],
    ids=["batch", "frozen"],
)
def test_they_train_to_the_same_place(
    config: ConfigDict, tmp_path: Path, norm: str, cases: list[tuple[dict, float, float]]
) -> None:
    """Relative errors of the loss and of the parameters at the end."""
    plain, at = trained(config, tmp_path / "plain", norm)
    for options, of_loss, of_parameters in cases:
        loss, there = trained(config, tmp_path / next(iter(options)), norm, **options)
        assert abs(loss / plain - 1) < of_loss, options
        assert np.linalg.norm(there - at) / np.linalg.norm(at) < of_parameters, options
