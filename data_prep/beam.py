"""Building on many machines: the scenes of a split as an Apache Beam transform.

The raw files must lie where every worker can open them under the same path.
"""

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import apache_beam as beam
from etils import epath

from data_prep.builders import Plan
from data_prep.features import encoded_example
from data_prep.prepare import Prepared, prepare
from uda_jax.data import statistics
from uda_jax.data.statistics import Statistics


class Examples(beam.PTransform):
    """Pipeline -> (id, example) of a split; its class statistics go to a file in `directory`."""

    def __init__(self, plan: Plan, split: str, directory: epath.Path) -> None:
        super().__init__()
        self.scenes, self.recipe = plan.scenes[split], plan.recipes[split]
        self.classes, self.split = plan.classes, split
        self.counts_file = str(_counts_file(directory, split))

    def expand(self, pipeline: Any) -> Any:
        prepared = (
            pipeline | beam.Create(self.scenes) | beam.Reshuffle() | "Prepare" >> beam.Map(prepare, recipe=self.recipe)
        )
        _ = (
            prepared
            | "Statistics" >> beam.Map(lambda scene: scene.statistics)
            | beam.CombineGlobally(partial(_total, num_classes=len(self.classes)))
            | "Write" >> beam.Map(_write, path=self.counts_file, split=self.split, classes=self.classes)
        )
        return prepared | "Example" >> beam.Map(_named)


def collect(directory: epath.Path, plan: Plan) -> dict[str, Statistics]:
    """Reads and removes the counts that the labelled splits left in `directory`."""
    found = {}
    for split, labelled in plan.labelled().items():
        path = _counts_file(directory, split)
        if labelled:
            found[split] = statistics.from_file_text(path.read_text())[split]
        path.unlink()
    return found


def _counts_file(directory: epath.Path, split: str) -> epath.Path:
    return directory / f"{split}.counts.json"


def _named(scene: Prepared) -> tuple[str, dict[str, Any]]:
    return scene.name, encoded_example(scene)


def _total(counts: Iterable[Statistics | None], num_classes: int) -> Statistics:
    return reduce(statistics.add, (one for one in counts if one is not None), statistics.empty(num_classes))


def _write(total: Statistics, path: str, split: str, classes: tuple[str, ...]) -> None:
    epath.Path(path).write_text(statistics.file_text(classes, {split: total}))
