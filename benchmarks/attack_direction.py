"""Whether APODA's attack on the discriminator moves features towards the other domain, in runs that were trained.

    python -m benchmarks.attack_direction runs/ablation/all/seed0 runs/ablation/adversarial_loss_kept/seed0

The gap is the difference of the two domains' mean features over all positions of 96 training images each. Prints for
every run and domain the cosine between it and the mean perturbation, and how much of it that covers. Target labels are
not read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.workdirs import report_on
from uda_jax.data import pipeline
from uda_jax.errors import UserError
from uda_jax.export import find_step, read_config, restore_weights
from uda_jax.methods.apoda import DOMAINS, attacked_losses, exact_networks
from uda_jax.methods.attack import perturb

BATCHES, BATCH_SIZE = 12, 8


def main() -> None:
    report_on("benchmarks.attack_direction", __doc__, report)


def report(workdirs: Sequence[Path]) -> None:
    """Prints two lines a run.

    Raises:
      UserError: no training run there, or none with a discriminator.
    """
    for workdir in workdirs:
        gap, moved = mean_features_and_moves(workdir)
        for domain, way in (("source", gap), ("target", -gap)):
            along = moved[domain] @ way
            cosine = along / np.linalg.norm(moved[domain]) / np.linalg.norm(way)
            print(f"{workdir}: {domain} cosine {cosine:.2f}, covers {100 * along / (way @ way):.0f} % of the gap")


def mean_features_and_moves(workdir: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(mean target features minus mean source features, mean perturbation by domain), each float64 [C]."""
    config = read_config(workdir)
    config.apoda.update(eps_source=0.0, eps_target=0.0)
    state = restore_weights(workdir, config, find_step(workdir))
    if "main" not in state.discriminator_params:
        raise UserError(f"{workdir} was trained with {config.method!r}, without a discriminator: name a run of 'apoda'")
    networks = exact_networks(config)  # as the attack is computed in training

    @jax.jit
    def means(batch: dict[str, Any], key: jax.Array) -> Any:
        found = {}
        for domain in DOMAINS:
            image = batch[domain]["image"]
            f = networks.segment(state.params, state.batch_stats, image)[0].features
            label = batch["source"]["label"]
            terms = attacked_losses(
                domain, f, label, image.shape[1:3], state.params, state.discriminator_params, config, networks
            )
            moved = perturb(f, terms, config.apoda.attack_steps, config.apoda.attack, key)
            found[domain] = f.mean((0, 1, 2)), moved.mean((0, 1, 2))
        return found

    streams = {
        domain: pipeline.train_stream(
            config.data.dir,
            config.data[domain],
            batch_size=BATCH_SIZE,
            seed=config.seed,
            domain=domain,
            labels=domain == "source",
        )
        for domain in DOMAINS
    }
    batches = ({domain: next(stream) for domain, stream in streams.items()} for _ in range(BATCHES))
    found = [means(batch, jax.random.key(i)) for i, batch in enumerate(batches)]
    mean = jax.tree.map(lambda *x: np.mean(np.asarray(x, np.float64), 0), *found)
    return mean["target"][0] - mean["source"][0], {domain: mean[domain][1] for domain in DOMAINS}


if __name__ == "__main__":
    main()
