"""Unsupervised domain adaptation for semantic segmentation in JAX.

    import uda_jax

    segmenter = uda_jax.load_segmenter("model.npz")  # written by python -m uda_jax.export
    train_ids = segmenter.predict(images)  # uint8 [B, H, W, 3] RGB -> uint8 [B, H, W]

See `uda_jax.api`. What is named here is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uda_jax.api import Segmenter, build_segmenter, load_segmenter
    from uda_jax.config import default_config
    from uda_jax.errors import UserError

__all__ = ["Segmenter", "UserError", "build_segmenter", "default_config", "load_segmenter"]
__version__ = "0.1.0"

_HOMES = {"default_config": "uda_jax.config", "UserError": "uda_jax.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "uda_jax.api")), name)
