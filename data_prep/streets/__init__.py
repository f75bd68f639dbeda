"""Street scenes with exact labels, drawn from a seed: no download, any size, any number."""

import zlib

import numpy as np
from PIL import Image, ImageDraw

from data_prep.streets.develop import develop
from data_prep.streets.domains import DOMAINS
from data_prep.streets.draw import rasterise
from data_prep.streets.geometry import Face
from data_prep.streets.materials import SKY
from data_prep.streets.scene import bonnet, sample
from data_prep.streets.shade import shade
from uda_jax.data.labels import IGNORE
from uda_jax.errors import UserError

__all__ = ["DOMAINS", "generate"]

_SKY = Face(np.zeros((1, 3)), 10, (0.5, 0.7, 0.9), SKY)


def generate(domain: str, seed: int, size: tuple[int, int] = (128, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Draws one street scene; the same arguments always give the same arrays.

    Args:
      domain: "rendered" (a game engine's look) or "camera" (a car camera's look).
      seed: which scene.
      size: (height, width) in pixels.

    Returns:
      The picture, uint8 [H, W, 3] RGB, and its train ids, uint8 [H, W]; 255 on the own car's bonnet.

    Raises:
      UserError: the domain is unknown.
    """
    if domain not in DOMAINS:
        raise UserError(f'unknown domain "{domain}" of streets: expected one of {", ".join(DOMAINS)}')
    layout, look = DOMAINS[domain]
    rng = np.random.default_rng([seed, zlib.crc32(domain.encode())])
    double = (2 * size[0], 2 * size[1])
    scene = sample(rng, layout, look, double)
    buffers = rasterise(scene.faces, _SKY, scene.camera, double)
    radiance = shade(rng, buffers, scene, look)
    label = buffers.label[buffers.ids]
    if layout.bonnet:
        own = Image.new("L", double[::-1], 0)
        ImageDraw.Draw(own).polygon(bonnet(double, rng), fill=1)
        hidden = np.asarray(own, bool)
        label[hidden] = IGNORE
        radiance[hidden] = 0.04 + 0.25 * radiance[hidden].mean(axis=0)
    return develop(rng, radiance, look, size), label[::2, ::2].copy()
