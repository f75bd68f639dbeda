"""The street itself: its cross-section, the ground and what is painted on it."""

import itertools
from typing import NamedTuple

import numpy as np

from data_prep.streets.domains import Layout, Look, Palette, Span
from data_prep.streets.geometry import Face
from data_prep.streets.materials import ASPHALT, GRASS, MARKING, PAVING
from data_prep.streets.solids import Color, tint

ROAD, SIDEWALK, TERRAIN = 0, 1, 9
END = 150.0  # metres; the street ends in a skyline
SKYLINE = 230.0


class Street(NamedTuple):
    """The cross-section: half-widths from the road's middle outward, metres."""

    lanes: int  # each way
    lane: float
    kerb: float  # where the pavement begins
    back: float  # where it ends
    tracks: bool
    cross: Span | None  # along the road, a side street
    parked: float  # probability that a parking bay is taken
    gap: float  # metres between vehicles of a lane, on average


class Thing(NamedTuple):
    """Faces that are drawn together, in their own order."""

    layer: int  # 0 ground, 1 behind the pavement, 2 on pavement and road: later layers hide earlier ones
    distance: float
    faces: list[Face]
    footprint: np.ndarray | None = None  # float [N, 2], (x, z) of what throws a shadow
    span: Span = (0.0, 0.0)  # bottom and top of what throws it, metres


def sample_street(rng: np.random.Generator, layout: Layout) -> Street:
    """A cross-section."""
    lanes = int(rng.integers(layout.lanes[0], layout.lanes[1] + 1))
    lane = rng.uniform(*layout.lane)
    kerb = lanes * lane + (2.3 if rng.random() < layout.bays else 0.4)
    start = rng.uniform(14, 60)
    cross = (start, start + rng.uniform(8, 13)) if rng.random() < layout.cross else None
    return Street(
        lanes,
        lane,
        kerb,
        back=kerb + rng.uniform(*layout.pavement),
        tracks=rng.random() < layout.tracks,
        cross=cross,
        parked=layout.parked * rng.uniform(0.2, 1.8),
        gap=3.5 / layout.traffic * rng.uniform(0.6, 2.0),
    )


def pick(rng: np.random.Generator, palette: Palette, spread: float) -> Color:
    """A colour near one of the palette's."""
    return tint(rng, palette[int(rng.integers(len(palette)))], spread)


def _strip(x: Span, z: Span, label: int, color: Color, material: int, up: float = 0.0) -> list[Face]:
    """A ground rectangle, cut along z so that it can follow the road's bend."""
    cuts = np.unique(np.clip([-2, 0, 2, 4, 7, 11, 17, 25, 37, 55, 80, 115, SKYLINE], *z))
    faces = []
    for low, high in itertools.pairwise(cuts):
        points = np.array([(x[0], up, low), (x[1], up, low), (x[1], up, high), (x[0], up, high)])
        faces.append(Face(points, label, color, material))
    return faces


def _raised(x: Span, z: Span, paving: Color, kerbstone: Color) -> list[Face]:
    """A pavement 12 cm above the road; what shows below its edge is the kerb's face."""
    foot = _strip(x, z, SIDEWALK, kerbstone, PAVING)
    return foot + _strip(x, z, SIDEWALK, paving, PAVING, 0.12)


def ground(rng: np.random.Generator, layout: Layout, look: Look, street: Street) -> list[Thing]:
    """Road, pavements, verges and the side street."""
    asphalt = pick(rng, look.asphalt, look.spread)
    paving, grass = pick(rng, look.paving, look.spread), pick(rng, look.grass, look.spread)
    kerbstone = tint(rng, (0.62, 0.61, 0.60), look.spread)
    every = (-2.0, END)
    faces = _strip((-300, 300), (-2.0, SKYLINE), TERRAIN, grass, GRASS)
    for side in (-1.0, 1.0):
        edge, back = side * street.kerb, side * (street.back + 0.3)
        faces += _raised((edge, back), every, paving, kerbstone)
        if rng.random() < layout.verge:
            strip = (side * (street.kerb + 0.3), edge + 0.35 * (back - edge))
            faces += _strip(strip, every, TERRAIN, grass, GRASS, 0.13)
        faces += _strip((edge, edge + side * 0.25), every, SIDEWALK, kerbstone, PAVING, 0.12)
    faces += _strip((-street.kerb, street.kerb), every, ROAD, asphalt, ASPHALT)
    if street.cross:
        low, high = street.cross
        faces += _strip((-90, 90), street.cross, ROAD, asphalt, ASPHALT)
        for side in (-1.0, 1.0):
            for z in ((low - 2.0, low), (high, high + 2.0)):
                faces += _raised((side * (street.kerb + 2), side * 90), z, paving, kerbstone)
    return [Thing(0, SKYLINE, faces + _markings(rng, street, asphalt))]


def _markings(rng: np.random.Generator, street: Street, asphalt: Color) -> list[Face]:
    """Lane and edge lines, crossings, tram tracks: all of them road."""
    white = tint(rng, (0.82, 0.82, 0.80), 0.12)
    middle = tint(rng, rng.choice([(0.82, 0.82, 0.80), (0.85, 0.66, 0.15)]), 0.1)
    dark = tint(rng, (0.22, 0.21, 0.21), 0.1)

    def line(x: float, z: Span, width: float, color: Color) -> list[Face]:
        return _strip((x - width / 2, x + width / 2), z, ROAD, color, MARKING, 0.005)

    faces = line(0.0, (-2.0, END), 0.15, middle)
    for k in range(1, street.lanes + 1):
        for x in (-k * street.lane, k * street.lane):
            if k == street.lanes:
                faces += line(x, (-2.0, END), 0.12, white)
            else:
                for z in np.arange(rng.uniform(-2, 3), 70, 9.0):
                    faces += line(x, (z, z + 3.0), 0.14, white)
    if street.tracks:
        for x in (-0.5 * street.lane - 0.72, -0.5 * street.lane + 0.72):
            faces += line(x, (-2.0, END), 0.12, dark)
    if street.cross:
        low, _ = street.cross
        faces += _strip((-street.kerb, street.kerb), street.cross, ROAD, asphalt, ASPHALT, 0.006)
        for x in np.arange(-street.kerb + 0.4, street.kerb - 0.4, 1.0):
            faces += line(x + 0.25, (low - 4.0, low - 1.0), 0.5, white)
    return faces
