"""Samples a scene: the camera, the sun, faces sorted far to near, and the shadows on the ground."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.streets.domains import Layout, Look, Span
from data_prep.streets.geometry import Camera, Face, hull
from data_prep.streets.roadside import lots, pavement, skyline
from data_prep.streets.street import Street, ground, sample_street
from data_prep.streets.traffic import traffic


class Sun(NamedTuple):
    direction: np.ndarray  # float [3], unit, towards the sun
    strength: float
    overcast: bool


class Scene(NamedTuple):
    camera: Camera
    sun: Sun
    faces: list[Face]
    shadows: list[np.ndarray]  # polygons [N, 3] on the ground


def sample(rng: np.random.Generator, layout: Layout, look: Look, size: tuple[int, int]) -> Scene:
    """One scene for a picture of (height, width)."""
    street = sample_street(rng, layout)
    camera = _camera(rng, layout, street, size)
    sun = _sun(rng, look)
    found = ground(rng, layout, look, street)
    for side in (-1.0, 1.0):
        found += lots(rng, layout, look, street, side)
        found += pavement(rng, layout, look, street, side)
        found += traffic(rng, layout, look, street, side)
    found += skyline(rng, look)
    found.sort(key=lambda t: (t.layer, -t.distance))
    faces = [face for thing in found for face in thing.faces]
    shadows = [_shadow(t.footprint, t.span, sun) for t in found if t.footprint is not None]
    return Scene(camera, sun, faces, shadows)


def _camera(rng: np.random.Generator, layout: Layout, street: Street, size: tuple[int, int]) -> Camera:
    height, width = size
    focal = width / 2 / math.tan(math.radians(rng.uniform(*layout.view)) / 2)
    lane = street.lanes - 1 if rng.random() < 0.6 else 0
    return Camera(
        x=street.lane * (lane + 0.5) + rng.uniform(-0.4, 0.4),
        height=rng.uniform(*layout.height),
        pitch=math.radians(rng.uniform(*layout.pitch)),
        yaw=math.radians(rng.normal(0, 2.5)),
        focal=focal,
        center=(width / 2, height / 2),
        bend=float(rng.choice([0.0, rng.normal(0, 0.0008)])),
        rise=float(rng.choice([0.0, rng.normal(0, 0.00015)])),
    )


def _sun(rng: np.random.Generator, look: Look) -> Sun:
    around, up = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(*look.elevation))
    level = math.cos(up)
    direction = np.array([level * math.sin(around), math.sin(up), level * math.cos(around)], np.float32)
    overcast = bool(rng.random() < look.overcast)
    return Sun(direction, rng.uniform(*look.sun) * (0.08 if overcast else 1.0), overcast)


def _shadow(footprint: np.ndarray, span: Span, sun: Sun) -> np.ndarray:
    """The shadow on the ground, float [N, 3], of an upright thing between span[0] and span[1] metres."""
    slope = -sun.direction[[0, 2]] / sun.direction[1]
    outline = hull(np.concatenate([footprint + slope * up for up in span]))
    return np.stack([outline[:, 0], np.zeros(len(outline)), outline[:, 1]], axis=1)


def bonnet(size: tuple[int, int], rng: np.random.Generator) -> Sequence[tuple[float, float]]:
    """The outline of the own car's bonnet in pixels (u, v) of a picture of (height, width)."""
    height, width = size
    top, turns = height * rng.uniform(0.91, 0.95), np.linspace(0, np.pi, 16)
    rim = [(width / 2 - 0.62 * width * np.cos(t), height - (height - top) * np.sin(t) ** 0.6) for t in turns]
    return [(0.0, float(height)), *rim, (float(width), float(height))]
