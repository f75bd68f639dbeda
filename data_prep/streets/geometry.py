"""The pinhole camera, and flat faces in the world.

World axes, in metres: x right, y up, z along the road; the ground is y = 0 and the camera stands at
z = 0. The road bends: a point at distance z is moved sideways by `bend * z**2` and up by `rise * z**2`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NEAR = 0.5  # metres; what is nearer to the image plane is cut off


class Face(NamedTuple):
    """A flat polygon. `solid` faces are seen from outside only, the others from both sides."""

    points: np.ndarray  # float [N, 3], world
    label: int  # train id
    color: tuple[float, float, float]  # reflectance as displayed, sRGB in 0..1
    material: int  # see materials.py
    solid: bool = False
    facade: tuple[float, float, float, float] = (
        3.0,
        3.0,
        0.0,
        0.0,
    )  # bay, storey (m); window width, height (share)


class Camera(NamedTuple):
    x: float  # metres from the middle of the road
    height: float  # metres above the ground
    pitch: float  # radians, positive looks down
    yaw: float  # radians, positive looks right
    focal: float  # pixels
    center: tuple[float, float]  # principal point (u, v) in pixels
    bend: float  # 1 / metres
    rise: float  # 1 / metres

    def rotation(self) -> np.ndarray:
        """Rows are the camera's right, up and forward axes in world coordinates, float [3, 3]."""
        (sy, cy), (sp, cp) = ((np.sin(a), np.cos(a)) for a in (self.yaw, self.pitch))
        yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        return pitch @ yaw

    def view(self, points: np.ndarray) -> np.ndarray:
        """World points float [N, 3] in camera axes (right, up, forward)."""
        offset = points[:, 2:] ** 2 * np.array([self.bend, self.rise, 0.0])
        return (points + offset - np.array([self.x, self.height, 0.0])) @ self.rotation().T

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixel coordinates float [N, 2] of camera-axes points in front of the image plane."""
        scale = self.focal / points[:, 2]
        return np.stack([self.center[0] + points[:, 0] * scale, self.center[1] - points[:, 1] * scale], axis=1)

    def unproject(self, depth: np.ndarray) -> np.ndarray:
        """Straightened world positions float32 [H, W, 3] of pixels at depth [H, W] (forward distance)."""
        rows, columns = (np.arange(n, dtype=np.float32) + np.float32(0.5) for n in depth.shape)
        right, up = (
            (columns - self.center[0])[None] / self.focal,
            (self.center[1] - rows)[:, None] / self.focal,
        )
        rays = np.stack(np.broadcast_arrays(right, up, np.float32(1)), axis=-1)
        position = depth[..., None] * (rays @ self.rotation().astype(np.float32))
        far = position[..., 2] ** 2
        position[..., 0] += self.x - self.bend * far
        position[..., 1] += self.height - self.rise * far
        return position


def clip(points: np.ndarray) -> np.ndarray:
    """Cuts a polygon in camera axes, float [N, 3], at the near plane (Sutherland and Hodgman, 1974)."""
    kept = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept).reshape(-1, 3)


def hull(points: np.ndarray) -> np.ndarray:
    """Convex hull of plane points float [N, 2], counter-clockwise (Andrew's monotone chain)."""
    order = points[np.lexsort((points[:, 1], points[:, 0]))].tolist()

    def chain(sequence: Sequence[list[float]]) -> list[list[float]]:
        out: list[list[float]] = []
        for p in sequence:
            while len(out) > 1 and _turn(out[-2], out[-1], p) <= 0:
                out.pop()
            out.append(p)
        return out[:-1]

    return np.array(chain(order) + chain(order[::-1]))


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
