"""`python -m uda_jax.main --config=configs/X.py --workdir=DIR [--config.section.name=value ...]` trains one model."""

from absl import flags
from ml_collections import config_flags

from uda_jax import cli, launch
from uda_jax.launch import launched
from uda_jax.paths import user_path

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and pictures go; resumes what is there.")
PROFILE = flags.DEFINE_string("profile", "", "Steps to profile, such as 10:15 (10 to 14), into WORKDIR/profile.")
flags.mark_flags_as_required(["config", "workdir"])
flags.adopt_module_key_flags(launch)


def main() -> None:
    with launched():
        from uda_jax.training.loop import train  # after the processes have met

        train(CONFIG.value, user_path(WORKDIR.value, "--workdir"), PROFILE.value)


def script() -> None:
    """`uda-train`."""
    cli.run(main)


if __name__ == "__main__":
    script()
