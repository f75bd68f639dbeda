"""Rasterises faces, given far to near, into buffers; labels and pixels come from the same buffer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data_prep.streets.geometry import NEAR, Camera, Face, clip


class Buffers(NamedTuple):
    """What is seen through each pixel; P faces, index 0 is the sky."""

    ids: np.ndarray  # int32 [H, W], index of the face
    depth: np.ndarray  # float32 [H, W], metres forward; FAR in the sky
    label: np.ndarray  # uint8 [P]
    color: np.ndarray  # float32 [P, 3], sRGB in 0..1
    material: np.ndarray  # uint8 [P]
    normal: np.ndarray  # float32 [P, 3], world
    facade: np.ndarray  # float32 [P, 4]


FAR = 1000.0


def rasterise(faces: Sequence[Face], sky: Face, camera: Camera, size: tuple[int, int]) -> Buffers:
    """Draws the faces in order (painter's algorithm) over the sky; size is (height, width)."""
    starts = np.cumsum([0] + [len(f.points) for f in faces])
    views = camera.view(np.concatenate([f.points for f in faces]))
    normals, offsets = _planes(views, starts)
    solid = np.array([f.solid for f in faces])
    visible = ~(solid & (offsets >= 0)) & (np.maximum.reduceat(views[:, 2], starts[:-1]) > NEAR)
    crosses = np.minimum.reduceat(views[:, 2], starts[:-1]) < NEAR
    pixels = camera.project(np.maximum(views, [-np.inf, -np.inf, NEAR]))
    image = Image.new("I", size[::-1], 0)
    canvas = ImageDraw.Draw(image)
    for k in np.flatnonzero(visible):
        span = slice(starts[k], starts[k + 1])
        outline = camera.project(clip(views[span])) if crosses[k] else pixels[span]
        if len(outline) > 2:
            canvas.polygon(outline.ravel().tolist(), fill=int(k) + 1)
    ids = np.asarray(image).astype(np.int32)
    everything = [sky, *faces]
    world = normals * np.where(offsets < 0, 1.0, -1.0)[:, None] @ camera.rotation()
    return Buffers(
        ids,
        _depth(ids, normals, offsets, camera),
        np.array([f.label for f in everything], np.uint8),
        np.array([f.color for f in everything], np.float32),
        np.array([f.material for f in everything], np.uint8),
        np.concatenate([[[0, 1, 0]], world]).astype(np.float32),
        np.array([f.facade for f in everything], np.float32),
    )


def mask(polygons: Sequence[np.ndarray], camera: Camera, size: tuple[int, int]) -> Image.Image:
    """Draws world polygons [N, 3] white on black: an "L" image of size (height, width)."""
    image = Image.new("L", size[::-1], 0)
    canvas = ImageDraw.Draw(image)
    for polygon in polygons:
        points = clip(camera.view(polygon))
        if len(points) > 2:
            canvas.polygon(camera.project(points).ravel().tolist(), fill=255)
    return image


def _planes(views: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals [P, 3] and offsets [P] of the faces' planes n . p = d; a face looks at us if d < 0."""
    count = np.diff(starts)
    a, b, c = (views[starts[:-1] + count * k // 3] for k in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    return normals, (normals * a).sum(axis=1)


def _depth(ids: np.ndarray, normals: np.ndarray, offsets: np.ndarray, camera: Camera) -> np.ndarray:
    """Perspective-correct depth: on a plane, 1 / depth is linear in the pixel coordinates."""
    offsets = np.where(np.abs(offsets) < 1e-6, 1e-6, offsets)
    right, up, forward = (normals / offsets[:, None]).T
    table = np.stack([right / camera.focal, -up / camera.focal, forward])
    table[2] -= table[0] * camera.center[0] + table[1] * camera.center[1]
    table = np.concatenate([[[0], [0], [1 / FAR]], table], axis=1).astype(np.float32)
    rows, columns = (np.arange(n, dtype=np.float32) + np.float32(0.5) for n in ids.shape)
    inverse = table[0][ids] * columns + table[1][ids] * rows[:, None] + table[2][ids]
    return np.float32(1) / np.clip(inverse, np.float32(1 / FAR), np.float32(1 / NEAR))
