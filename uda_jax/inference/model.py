"""A finished model from wherever it lies: a run's workdir, or a file that `python -m uda_jax.export` wrote."""

from typing import Any, NamedTuple

import jax
import ml_collections
from etils import epath

from uda_jax.api import Segmenter, load_segmenter
from uda_jax.errors import UserError
from uda_jax.files import fetched
from uda_jax.methods import build_method
from uda_jax.models.networks import build_networks
from uda_jax.paths import to_path
from uda_jax.weights.arrays import SUFFIXES, read_arrays


class Model(NamedTuple):
    """A segmenter and what is known of it.

    Attributes:
      path: as the user gave it.
      about: its metadata; docs/weights.md explains each entry.
    """

    path: str
    segmenter: Segmenter
    about: dict[str, Any]

    def __str__(self) -> str:
        height, width = self.segmenter.size
        what = f"{self.about.get('method', 'a model')} after {self.about.get('step', '?')} steps"
        return f"{self.path}: {what}, {len(self.segmenter.classes)} classes, scored at {width}x{height}"


def load_model(path: epath.PathLike, step: int | None = None, select: str = "last") -> Model:
    """The model of a run's newest checkpoint, of the one of `step` or that `select` chooses, or of an exported file.

    No data set is needed, and none of the optimizers' state is read.

    Raises:
      UserError: nothing there, damaged, of another version, without metadata, nothing to select by, or both `step` and
        `select`, or either with a file.
    """
    path = to_path(path)
    if path.suffix in SUFFIXES and not path.is_dir():
        if step is not None or select != "last":
            which = f"--select={select}" if step is None else f"--step={step}"
            raise UserError(f"{which}: {path} is a file and holds one step; name the run's workdir for another")
        with fetched(path) as here:
            return Model(str(path), load_segmenter(here), read_arrays(here)[1])
    from uda_jax import export  # Orbax is slow to import, and a file needs none of it

    if not path.exists():
        raise UserError(f"there is no {path}; give a run's workdir or a file of python -m uda_jax.export")
    config = export.read_config(path)
    step = export.find_step(path, step, select)
    about = export.metadata_of(path, config, step)
    return Model(str(path), _segmenter_of(path, config, step, about), about)


def _segmenter_of(path: Any, config: ml_collections.ConfigDict, step: int, about: dict[str, Any]) -> Segmenter:
    from uda_jax import export

    networks = build_networks(config)
    weights = build_method(config, networks).evaluated(export.restore_weights(path, config, step))
    params, stats = jax.device_put((weights["params"], weights["batch_stats"]))
    return Segmenter(tuple(about["classes"]), tuple(config.data.eval.size), networks, params, stats)
