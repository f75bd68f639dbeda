"""`python -m uda_jax.main --config=configs/X.py --workdir=DIR [--config.section.name=value ...]` trains one model."""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from uda_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and pictures go; resumes what is there.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of a pod or cluster.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    if DISTRIBUTED.value:
        jax.distributed.initialize()
    from uda_jax.train import train  # after the processes have met

    try:
        train(CONFIG.value, Path(str(WORKDIR.value)))
    except UserError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    app.run(main)
