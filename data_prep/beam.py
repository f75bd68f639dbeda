"""Building on many machines: the scenes of a split as an Apache Beam transform.

The raw files must lie where every worker can open them under the same path.
"""

from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from data_prep.features import encoded_example
from data_prep.files import Scene
from data_prep.prepare import Prepared, Recipe, prepare


class Examples(beam.PTransform):
    """Pipeline -> (id, example) of a split."""

    def __init__(self, scenes: Sequence[Scene], recipe: Recipe) -> None:
        super().__init__()
        self.scenes, self.recipe = scenes, recipe

    def expand(self, pipeline: Any) -> Any:
        prepared = (
            pipeline | beam.Create(self.scenes) | beam.Reshuffle() | "Prepare" >> beam.Map(prepare, recipe=self.recipe)
        )
        return prepared | "Example" >> beam.Map(_named)


def _named(scene: Prepared) -> tuple[str, dict[str, Any]]:
    return scene.name, encoded_example(scene)
