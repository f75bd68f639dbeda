"""`python -m uda_jax.compare --config=configs/X.py --workdir=DIR` trains source-only, the config's method and the
oracle on the same data and schedule, one after the other, and writes the report; rerun it to resume.

The oracle is source-only training on `config.data.oracle`, the labelled target: the only use of target labels
besides evaluation, but for those that `config.few_labels` gives the method alone.
"""

import jax
import ml_collections
from absl import flags
from etils import epath
from ml_collections import config_flags

from uda_jax import cli, launch
from uda_jax.config import default_config
from uda_jax.launch import launched
from uda_jax.paths import user_path

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Gets one directory a seed and run, and report.html.")
SEEDS = flags.DEFINE_integer("seeds", 1, "How many seeds, counted from config.seed.", lower_bound=1)
flags.mark_flags_as_required(["config", "workdir"])
flags.adopt_module_key_flags(launch)


def contenders(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """Label -> config of each run to compare, in the order of the report."""
    source_only, oracle = config.copy_and_resolve_references(), config.copy_and_resolve_references()
    source_only.method = oracle.method = "source_only"
    for run in (source_only, oracle):
        run.few_labels = default_config().few_labels
    oracle.data.source = oracle.data.oracle
    runs = {"source-only": source_only, config.method: config, "oracle": oracle}
    return {label: run for label, run in runs.items() if label != "source_only"}


def compare(config: ml_collections.ConfigDict, workdir: epath.Path, seeds: int = 1) -> dict[str, list[epath.Path]]:
    """Trains every contender with every seed and reports; returns the runs' directories by label.

    Raises:
      Stopped, UserError: as `uda_jax.training.loop.train`; mistakes in any of the runs before the first one trains.
    """
    from uda_jax import runs
    from uda_jax.reporting.page import write_report
    from uda_jax.reporting.text import table
    from uda_jax.training.loop import check_run, mesh_of, train

    directories: dict[str, list[epath.Path]] = {}
    planned = []
    for seed in range(config.seed, config.seed + seeds):
        for label, run in contenders(config).items():
            directory = workdir / f"seed{seed}" / label
            directories.setdefault(label, []).append(directory)
            run = run.copy_and_resolve_references()
            run.seed = seed
            runs.check_owner(directory, run, check_run(run, mesh_of(run)))
            planned.append((run, directory))
    for run, directory in planned:
        train(run, directory)
    if jax.process_index():
        return directories
    title = f"{config.data.source.dataset} to {config.data.target.dataset}"
    page = write_report(directories, workdir, title)
    print(f"\n{table(directories)}\n\nreport: {page}")
    return directories


def main() -> None:
    with launched():
        compare(CONFIG.value, user_path(WORKDIR.value, "--workdir"), SEEDS.value)


def script() -> None:
    """`uda-compare`."""
    cli.run(main)


if __name__ == "__main__":
    script()
