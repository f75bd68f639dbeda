"""What stands beside the road: people, trees, hedges, poles, lights, signs, fences, walls, buildings."""

import numpy as np

from data_prep.streets.geometry import Face
from data_prep.streets.materials import CLOTH, FACADE, FOLIAGE, GLASS, LAMP, MASONRY, METAL
from data_prep.streets.solids import Color, Place, bar, box, circle, flat, tint

BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, _TERRAIN, _SKY, PERSON = range(2, 12)
GREY: Color = (0.42, 0.43, 0.44)


def person(rng: np.random.Generator, x: float, z: float, clothes: Color) -> list[Face]:
    """A standing or walking figure, 1.1 to 1.9 m tall."""
    scale = rng.choice([rng.uniform(0.92, 1.08), rng.uniform(0.65, 0.8)], p=[0.85, 0.15])
    stride, swing = rng.uniform(0.0, 0.22), rng.uniform(0.05, 0.25)
    legs = tint(rng, [(0.14, 0.16, 0.25), (0.12, 0.12, 0.12), (0.4, 0.34, 0.26)][rng.integers(3)], 0.4)
    skin = [(0.85, 0.66, 0.55), (0.72, 0.52, 0.40), (0.45, 0.30, 0.22)][rng.integers(3)]
    hair = tint(rng, (0.25, 0.18, 0.12), 0.7)
    parts = [(bar((s * 0.08, 0.9), (s * (0.09 + stride), 0.02), 0.17), legs) for s in (-1, 1)]
    parts += [(bar((s * 0.22, 1.42), (s * (0.22 + swing), 0.85), 0.11), clothes) for s in (-1, 1)]
    parts.append(([(-0.25, 1.46), (0.25, 1.46), (0.19, 0.8), (-0.19, 0.8)], clothes))
    parts.append((circle((0.0, 1.63), 0.125, 10), skin))
    parts.append(([(a, max(b, 1.66)) for a, b in circle((0.0, 1.64), 0.135, 10)], hair))
    return [flat(x, z, [(a * scale, b * scale) for a, b in loop], PERSON, c, CLOTH) for loop, c in parts]


def _clumps(rng: np.random.Generator, centers: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Outlines float [N, 13, 3] of clumps of leaves: ragged blobs around centers [N, 3]."""
    shape = (len(centers), 13)
    turns = (np.arange(13) + rng.uniform(-0.3, 0.3, shape)) * (2 * np.pi / 13)
    reach = radius[:, None] * rng.uniform(0.72, 1.12, shape)
    points = np.repeat(centers[:, None], 13, axis=1)
    points[..., 0] += reach * np.cos(turns)
    points[..., 1] = np.maximum(points[..., 1] + 0.85 * reach * np.sin(turns), 0.0)
    return points


def tree(
    rng: np.random.Generator, x: float, z: float, height: float, color: Color, clumps: int, trunk: bool = True
) -> list[Face]:
    """A trunk and a crown of clumps, dark below and bright above."""
    crown = height * rng.uniform(0.24, 0.34)
    middle = height - crown if trunk else 0.5 * crown
    faces = []
    if trunk:
        bark, thick, fork = tint(rng, (0.27, 0.22, 0.17), 0.3), 0.045 * height**0.8, middle - crown * 0.7
        faces.append(flat(x, z, bar((0.0, 0.0), (0.0, fork + 0.1), thick), VEGETATION, bark, FOLIAGE))
        for end in (-crown * 0.5, rng.uniform(-0.4, 0.4), crown * 0.5):
            stroke = bar((0.0, fork), (end, middle), thick * 0.6)
            faces.append(flat(x, z, stroke, VEGETATION, bark, FOLIAGE))
    spread, turns = np.sqrt(rng.uniform(0, 1, clumps)) * crown * 0.75, rng.uniform(0, 2 * np.pi, clumps)
    centers = np.stack([x + spread * np.cos(turns), middle + spread * np.sin(turns), np.full(clumps, z)], axis=1)
    centers = centers[np.argsort(centers[:, 1])]
    outlines = _clumps(rng, centers, crown * rng.uniform(0.38, 0.62, clumps))
    lightness = 0.62 + 0.5 * ((centers[:, 1] - middle) / crown + 0.5) + rng.uniform(-0.08, 0.08, clumps)
    for outline, k in zip(outlines, lightness.tolist(), strict=True):
        faces.append(Face(outline, VEGETATION, (color[0] * k, color[1] * k, color[2] * k), FOLIAGE))
    return faces


def hedge(rng: np.random.Generator, x: float, span: tuple[float, float], height: float, color: Color) -> list[Face]:
    """A clipped hedge along the road with a bumpy top."""
    low, high = span
    faces = box(Place(x, (low + high) / 2), (0.9, height, high - low), VEGETATION, color, FOLIAGE)
    bumps = np.arange(high, low, -max(1.0, (high - low) / 12))
    centers = np.stack([np.full(len(bumps), x), np.full(len(bumps), height * 0.9), bumps], axis=1)
    for outline in _clumps(rng, centers, rng.uniform(0.35, 0.6, len(bumps))):
        faces.append(Face(outline, VEGETATION, tint(rng, color, 0.2), FOLIAGE))
    return faces


def lamp_post(x: float, z: float, height: float, reach: float, color: Color) -> list[Face]:
    """A street lamp; its arm reaches towards the road."""
    arm = bar((0.0, height), (reach, height + 0.25), 0.1)
    head = [
        (reach, height + 0.15),
        (reach, height + 0.35),
        (reach * 1.35, height + 0.3),
        (reach * 1.35, height + 0.18),
    ]
    stem = bar((0.0, 0.0), (0.0, height), 0.16)
    return [flat(x, z, loop, POLE, color, METAL) for loop in (stem, arm, head)]


def traffic_light(rng: np.random.Generator, x: float, z: float, reach: float, color: Color) -> list[Face]:
    """A mast with one housing at eye height and, if it reaches over the road, one more at its arm's end."""
    heads = [(0.0, 2.3)]
    faces = [flat(x, z, bar((0.0, 0.0), (0.0, 3.2), 0.13), POLE, color, METAL)]
    if reach:
        faces = [flat(x, z, bar((0.0, 0.0), (0.0, 5.8), 0.18), POLE, color, METAL)]
        faces.append(flat(x, z, bar((0.0, 5.7), (reach, 5.7), 0.13), POLE, color, METAL))
        heads.append((reach, 5.0))
    lit = int(rng.integers(3))
    bulbs = ((0.95, 0.1, 0.06), (0.95, 0.65, 0.1), (0.1, 0.85, 0.35))
    for across, low in heads:
        shell = [
            (across - 0.2, low),
            (across - 0.2, low + 1.05),
            (across + 0.2, low + 1.05),
            (across + 0.2, low),
        ]
        faces.append(flat(x, z - 0.1, shell, LIGHT, (0.06, 0.07, 0.06), METAL))
        for k, bulb in enumerate(bulbs):
            paint = bulb if k == lit else (bulb[0] * 0.15, bulb[1] * 0.15, bulb[2] * 0.15)
            spot = circle((across, low + 0.86 - 0.33 * k), 0.14, 8)
            faces.append(flat(x, z - 0.12, spot, LIGHT, paint, LAMP if k == lit else METAL))
    return faces


def sign(rng: np.random.Generator, x: float, z: float, color: Color) -> list[Face]:
    """A round, triangular, square or wide direction sign on a post."""
    kind = int(rng.integers(5))
    up = rng.uniform(2.1, 2.6)
    red, blue, white, yellow = (0.75, 0.07, 0.07), (0.08, 0.2, 0.6), (0.9, 0.9, 0.88), (0.9, 0.7, 0.1)
    triangle = [(-0.42, up - 0.3), (0.42, up - 0.3), (0.0, up + 0.42)]
    inner = [(-0.26, up - 0.2), (0.26, up - 0.2), (0.0, up + 0.22)]
    square = [(-0.33, up - 0.33), (-0.33, up + 0.33), (0.33, up + 0.33), (0.33, up - 0.33)]
    wide = [(-0.8, up - 0.1), (-0.8, up + 0.6), (0.8, up + 0.6), (0.8, up - 0.1)]
    stroke = [(-0.6, up + 0.2), (-0.6, up + 0.32), (0.6, up + 0.32), (0.6, up + 0.2)]
    plates = (
        [(circle((0.0, up), 0.36), red), (circle((0.0, up), 0.24), white)],
        [(triangle, red), (inner, white)],
        [(square, blue), (circle((0.0, up), 0.16, 6), white)],
        [(wide, blue if rng.random() < 0.6 else yellow), (stroke, white)],
        [(circle((0.0, up), 0.36), blue), (bar((-0.15, up - 0.1), (0.15, up + 0.1), 0.08), white)],
    )[kind]
    faces = [flat(x, z, bar((0.0, 0.0), (0.0, up + 0.3), 0.08), POLE, color, METAL)]
    return faces + [flat(x, z - 0.05, loop, SIGN, paint, METAL) for loop, paint in plates]


def fence(x: float, span: tuple[float, float], height: float, color: Color) -> list[Face]:
    """Boards or mesh between posts, along the road; the whole panel counts as fence."""
    low, high = span
    dark: Color = (color[0] * 0.55, color[1] * 0.55, color[2] * 0.55)
    faces = []
    for z in np.arange(high, low, -2.0):
        ends = (max(z - 2.0, low), z)
        panel = np.array([(x, 0.08, ends[0]), (x, height, ends[0]), (x, height, ends[1]), (x, 0.08, ends[1])])
        faces.append(Face(panel, FENCE, color, METAL))
        for up in (0.3 * height, 0.8 * height):
            rail = panel.copy()
            rail[[0, 3], 1], rail[[1, 2], 1] = up, up + 0.1
            faces.append(Face(rail, FENCE, dark, METAL))
        post = panel.copy()
        post[[2, 3], 2], post[:, 1] = ends[0] + 0.16, (0.0, height + 0.1, height + 0.1, 0.0)
        faces.append(Face(post, FENCE, dark, METAL))
    return faces


def wall(x: float, span: tuple[float, float], height: float, color: Color) -> list[Face]:
    """A masonry wall along the road with a coping."""
    low, high = span
    place = Place(x, (low + high) / 2)
    cope: Color = (color[0] * 0.75, color[1] * 0.75, color[2] * 0.75)
    faces = box(place, (0.4, height, high - low), WALL, color, MASONRY)
    return faces + box(place, (0.55, 0.15, high - low), WALL, cope, MASONRY, height)


def building(
    rng: np.random.Generator,
    x: float,
    span: tuple[float, float],
    size: tuple[float, float],
    color: Color,
    tall_windows: float,
) -> list[Face]:
    """A block with its street front at x; size is (depth, height). The shader paints its windows."""
    depth, height = size
    low, high = span
    storey, bay = rng.uniform(2.9, 3.6), rng.uniform(2.2, 3.6)
    plan = (bay, storey, rng.uniform(0.35, 0.6), tall_windows * rng.uniform(0.85, 1.1))
    middle = x + np.sign(x) * depth / 2
    block = box(Place(middle, (low + high) / 2), (depth, height, high - low), BUILDING, color, FACADE)
    faces = [f._replace(facade=plan) for f in block]
    inset = x - np.sign(x) * 0.25
    trim = tint(rng, color, 0.3)
    faces += box(Place(inset, (low + high) / 2), (0.5, 0.4, high - low), BUILDING, trim, MASONRY, height - 0.4)
    if rng.random() < 0.45:  # a shop: wide panes and an awning
        pane = np.array([(x, 0.5, low + 0.6), (x, 2.5, low + 0.6), (x, 2.5, high - 0.6), (x, 0.5, high - 0.6)])
        pane[:, 0] -= np.sign(x) * 0.05
        faces.append(Face(pane, BUILDING, (0.13, 0.14, 0.15), GLASS))
        cloth = tint(
            rng,
            [(0.6, 0.12, 0.1), (0.1, 0.35, 0.25), (0.8, 0.75, 0.65), (0.15, 0.2, 0.45)][rng.integers(4)],
            0.2,
        )
        out = x - np.sign(x) * 1.0
        roof = np.array([(x, 3.0, low + 0.5), (x, 3.0, high - 0.5), (out, 2.5, high - 0.5), (out, 2.5, low + 0.5)])
        faces.append(Face(roof, BUILDING, cloth, CLOTH))
    return faces
