"""The methods, one file a paper; `uda_jax.methods.contract` says what such a file holds.

What papers share is in files named for it: `supervised` (cross entropy on the source), `game` (a discriminator on what
the segmenter says), `attack` (perturbations of features), `selftraining` (a teacher and mixed domains). `few_labels`
joins any of them.
"""

from types import ModuleType
from typing import Any

from uda_jax.methods import adaptsegnet, advent, apoda, dacs, daformer, mic, minent, source_only
from uda_jax.methods.contract import Aux, Context, Method, Stream
from uda_jax.methods.few_labels import with_few_labels

__all__ = ["METHODS", "Aux", "Context", "Method", "Stream", "build_method"]

METHODS: dict[str, ModuleType] = {
    "source_only": source_only,
    "adaptsegnet": adaptsegnet,
    "minent": minent,
    "advent": advent,
    "apoda": apoda,
    "dacs": dacs,
    "daformer": daformer,
    "mic": mic,
}


def build_method(config: Any, networks: Any) -> Method:
    """The method that `config.method` names, with the labels of `config.few_labels`."""
    return with_few_labels(METHODS[config.method].build(config, networks), config, networks)
