"""Shapes that things are built of: quads, boxes, extruded profiles, discs, and flat figures."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.streets.geometry import Face

Color = tuple[float, float, float]


class Place(NamedTuple):
    """Where a thing stands: position on the ground in metres, heading in radians (0 drives away from us)."""

    x: float
    z: float
    heading: float = 0.0

    def world(self, local: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
        """Local (across, up, along) points [N, 3] in the world."""
        p = np.array(local, float)
        s, c = math.sin(self.heading), math.cos(self.heading)
        across, along = p[:, 0].copy(), p[:, 2].copy()
        p[:, 0] = self.x + along * s + across * c
        p[:, 2] = self.z + along * c - across * s
        return p


def tint(rng: np.random.Generator, color: Sequence[float], spread: float) -> Color:
    """A colour near the given one: lightness and, half as much, each channel vary."""
    shade = 1 + spread * rng.uniform(-1, 1)
    r, g, b = (float(np.clip(c * shade + 0.5 * spread * c * rng.uniform(-1, 1), 0.01, 0.98)) for c in color)
    return r, g, b


def prism(
    place: Place,
    profile: Sequence[tuple[float, float]],
    width: float,
    label: int,
    color: Color,
    material: int,
) -> list[Face]:
    """Extrudes a convex profile of (along, up) points across the given width; faces look outward."""
    area = sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(profile, [*profile[1:], profile[0]], strict=True))
    outline = profile if area < 0 else profile[::-1]
    n, half = len(outline), width / 2
    side = [(-half, up, along) for along, up in outline] + [(half, up, along) for along, up in outline]
    corners = place.world(side)
    left, right = corners[:n], corners[n:]
    loops = [left[::-1], right]
    for a, b in zip(range(n), [*range(1, n), 0], strict=True):
        loops.append(np.array([left[a], left[b], right[b], right[a]]))
    return [Face(loop, label, color, material, True) for loop in loops]


def outward(loop: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The loop [N, 3], turned so that its normal points away from the solid's middle."""
    n = len(loop)
    a, b, c = loop[0], loop[n // 3], loop[2 * n // 3]
    (px, py, pz), (qx, qy, qz), (mx, my, mz) = (b - a).tolist(), (c - a).tolist(), (a - middle).tolist()
    normal = (py * qz - pz * qy) * mx + (pz * qx - px * qz) * my + (px * qy - py * qx) * mz
    return loop if normal > 0 else loop[::-1]


def box(
    place: Place,
    size: tuple[float, float, float],
    label: int,
    color: Color,
    material: int,
    base: float = 0.0,
    along: float = 0.0,
) -> list[Face]:
    """A box of (width, height, length), its bottom at `base`, its middle `along` metres ahead."""
    width, height, length = size
    low, high = along - length / 2, along + length / 2
    profile = [(low, base), (low, base + height), (high, base + height), (high, base)]
    return prism(place, profile, width, label, color, material)


def side_panels(
    place: Place,
    loop: Sequence[tuple[float, float]],
    width: float,
    label: int,
    color: Color,
    material: int,
) -> list[Face]:
    """The same (along, up) outline on both flanks, a hand's breadth outside, seen from outside only."""
    faces = []
    for sign in (-1, 1):
        points = np.array([(sign * (width / 2 + 0.01), up, along) for along, up in loop])
        middle = np.array([0.0, points[0, 1], points[0, 2]])
        faces.append(Face(place.world(outward(points, middle)), label, color, material, True))
    return faces


def end_panel(
    place: Place,
    span: tuple[float, float, float, float],
    along: float,
    label: int,
    color: Color,
    material: int,
    lean: float = 0.0,
) -> Face:
    """A rectangle (left, right, bottom, top) on the front (along > 0) or rear; its top leans inward."""
    left, right, low, high = span
    inside = along - np.sign(along) * lean
    points = np.array([(left, low, along), (right, low, along), (right, high, inside), (left, high, inside)])
    middle = np.array([0.0, low, along - np.sign(along)])
    return Face(place.world(outward(points, middle)), label, color, material, True)


def circle(center: tuple[float, float], radius: float, corners: int = 12) -> list[tuple[float, float]]:
    """Points (a, b) on a circle."""
    turns = [0.2 + k * 2 * math.pi / corners for k in range(corners)]
    return [(center[0] + radius * math.cos(t), center[1] + radius * math.sin(t)) for t in turns]


def ring(center: tuple[float, float], radius: float, inner: float) -> list[tuple[float, float]]:
    """A circle with a hole: outer loop, then the inner one backwards."""
    outside, inside = circle(center, radius), circle(center, inner)
    return [*outside, outside[0], inside[0], *inside[:0:-1], inside[0]]


def bar(a: tuple[float, float], b: tuple[float, float], thick: float) -> list[tuple[float, float]]:
    """A thick stroke between two points of a plane."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    scale = thick / 2 / max(math.hypot(dx, dy), 1e-6)
    nx, ny = -dy * scale, dx * scale
    return [(a[0] + nx, a[1] + ny), (b[0] + nx, b[1] + ny), (b[0] - nx, b[1] - ny), (a[0] - nx, a[1] - ny)]


def flat(x: float, z: float, loop: Sequence[tuple[float, float]], label: int, color: Color, material: int) -> Face:
    """A flat figure of (across, up) points that faces the camera."""
    return Face(np.array([(x + across, up, z) for across, up in loop]), label, color, material)
