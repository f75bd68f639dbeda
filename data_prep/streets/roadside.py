"""What lines the street: lots behind the pavement, and trees, people and poles on it."""

from collections.abc import Callable

import numpy as np

from data_prep.streets import things, vehicles
from data_prep.streets.domains import Layout, Look, Span
from data_prep.streets.geometry import Face
from data_prep.streets.materials import FACADE
from data_prep.streets.solids import Place, tint
from data_prep.streets.street import END, SKYLINE, Street, Thing, pick


def lots(rng: np.random.Generator, layout: Layout, look: Look, street: Street, side: float) -> list[Thing]:
    """What lines the pavement, lot by lot, on one side (-1 left, 1 right)."""
    found: list[Thing] = []
    z = rng.uniform(-8, 0)
    setback = rng.uniform(*layout.setback)
    weights = np.array(layout.lots) / sum(layout.lots)
    kind = int(rng.choice(5, p=weights))
    while z < END:
        end = z + rng.uniform(*layout.frontage)
        if street.cross and z < street.cross[1] + 2 and end > street.cross[0] - 2:
            end = street.cross[0] - 2
            if end - z < 4:
                z = street.cross[1] + 2
                continue
        kind = int(rng.choice(5, p=weights)) if rng.random() < 0.6 else kind
        found += _lot(rng, layout, look, kind, side, street.back, setback, (z, end))
        z = end if kind else end + rng.choice([0.0, rng.uniform(0.5, 4.0)], p=[0.75, 0.25])
    return found


def _lot(
    rng: np.random.Generator,
    layout: Layout,
    look: Look,
    kind: int,
    side: float,
    back: float,
    setback: float,
    span: Span,
) -> list[Thing]:
    """0 building, 1 wall, 2 fence, 3 park, 4 hedge; something stands behind each."""
    low, high = span
    edge, near = side * (back + 0.3), max(low, 0.0)
    deep = setback if kind == 0 else setback + rng.uniform(3, 12)
    found: list[Thing] = []
    if kind != 3 and rng.random() < (1.0, 0.7, 0.85, 0.0, 0.85)[kind]:
        height, depth = rng.uniform(*layout.storeys), rng.uniform(10, 18)
        front = side * (back + 0.3 + deep)
        paint = pick(rng, look.facades, look.spread)
        windows = rng.uniform(0.5, 0.65)
        faces = things.building(rng, front, (low, high), (depth, height), paint, windows)
        corners = np.array([(front, low), (front + side * depth, low), (front + side * depth, high), (front, high)])
        found.append(Thing(1, near + 0.5, faces, corners, (0.0, height)))
    if kind in (1, 2, 4):
        height = rng.uniform(1.6, 3.2) if kind == 1 else rng.uniform(1.0, 1.9)
        if kind == 1:
            faces = things.wall(edge, span, height, pick(rng, look.facades, 1.5 * look.spread))
        elif kind == 2:
            paint = tint(rng, rng.choice([(0.5, 0.36, 0.22), (0.3, 0.34, 0.32), (0.62, 0.62, 0.6)]), look.spread)
            faces = things.fence(edge, span, height, paint)
        else:
            faces = things.hedge(rng, edge, span, height, pick(rng, look.foliage, look.spread))
        strip = np.array([(edge - 0.2, low), (edge + 0.2, low), (edge + 0.2, high), (edge - 0.2, high)])
        found.append(Thing(1, near, faces, strip, (0.0, height)))
    for _ in range(int(rng.poisson((0.0, 0.8, 1.0, 3.0, 1.0)[kind] * (high - low) / 10))):
        x, z = side * (back + rng.uniform(2.0, 2.5 + max(deep, 8.0))), rng.uniform(low, high)
        found.append(_tree(rng, layout, look, x, z, 1))
    return found


def _tree(rng: np.random.Generator, layout: Layout, look: Look, x: float, z: float, layer: int) -> Thing:
    height = rng.uniform(*layout.crown)
    clumps = int(rng.integers(layout.clumps[0], layout.clumps[1] + 1)) if z < 60 else 6
    faces = things.tree(rng, x, z, height, pick(rng, look.foliage, look.spread), clumps)
    around = np.arange(8) * (np.pi / 4)
    foot = np.array([x, z]) + 0.26 * height * np.stack([np.cos(around), np.sin(around)], axis=1)
    return Thing(layer, z, faces, foot, (0.45 * height, 0.9 * height))


def _row(rng: np.random.Generator, rate: float, span: Span) -> np.ndarray:
    """Distances of things at so many per 10 m; far ones are thinned, for they would be specks."""
    z = rng.uniform(*span, int(rng.poisson(rate * (span[1] - span[0]) / 10)))
    return z[rng.random(len(z)) < np.clip(45 / np.maximum(z, 1), 0.15, 1)]


def _upright(faces: list[Face], x: float, z: float, top: float, wide: float = 0.1) -> Thing:
    """A slender thing on the pavement, `top` metres high, with the shadow of a post 2 `wide` across."""
    foot = np.array([(x - wide, z - 0.1), (x + wide, z - 0.1), (x + wide, z + 0.1), (x - wide, z + 0.1)])
    return Thing(2, z, faces, foot, (0.0, top))


def _person(rng: np.random.Generator, look: Look, street: Street, side: float, z: float) -> Thing:
    on_pavement = (street.kerb + 0.6, street.back - 0.3)
    x = side * (rng.uniform(*on_pavement) if rng.random() < 0.9 else rng.uniform(0, on_pavement[0]))
    clothes = pick(rng, look.clothes, look.spread)
    return _upright(things.person(rng, x, z, clothes), x, z, 1.7, 0.25)


def _parked_bike(rng: np.random.Generator, look: Look, street: Street, side: float, z: float) -> Thing:
    inner, outer = street.kerb + 0.6, street.back - 0.3
    x = side * rng.uniform(inner, max(outer, inner + 0.1))
    kind = vehicles.BICYCLE if rng.random() < 0.75 else vehicles.MOTORCYCLE
    place = Place(x, z, rng.uniform(0.9, 2.2))
    faces = vehicles.two_wheeler(rng, place, kind, pick(rng, look.cars, look.spread), False)
    return _upright(faces, x, z, 1.0, 0.7)


def pavement(rng: np.random.Generator, layout: Layout, look: Look, street: Street, side: float) -> list[Thing]:
    """Trees, people, parked two-wheelers, lamps, signs and traffic lights on one side (-1 left, 1 right)."""
    row = side * (street.kerb + 0.6)  # where posts stand
    grey = tint(rng, things.GREY, 0.35)

    def lamp(z: float) -> Thing:
        height = rng.uniform(5.5, 8.5)
        return _upright(things.lamp_post(row, z, height, -side * rng.uniform(0.8, 2.0), grey), row, z, height)

    def plate(z: float) -> Thing:
        x = side * (street.kerb + 0.7)
        return _upright(things.sign(rng, x, z, grey), x, z, 2.6, 0.2)

    near = max(4.0, 1.2 * abs(row))
    leafy, busy = rng.choice([0.2, 1.0, 1.8]), rng.choice([0.4, 1.0, 1.8])
    kinds: list[tuple[float, float, Callable[[float], Thing]]] = [
        (layout.trees * leafy, 110, lambda z: _tree(rng, layout, look, side * (street.kerb + 1.0), z, 2)),
        (layout.people * busy, 60, lambda z: _person(rng, look, street, side, z)),
        (layout.bikes, 45, lambda z: _parked_bike(rng, look, street, side, z)),
        (layout.poles, 90, lamp),
        (layout.signs, 60, plate),
    ]
    found = [make(float(z)) for rate, far, make in kinds for z in _row(rng, rate, (near, far))]
    if street.cross and rng.random() < 0.8:
        z = street.cross[0] - 1.0 if rng.random() < 0.6 else street.cross[1] + 1.0
        reach = -side * rng.uniform(2.5, 4.5) if rng.random() < 0.5 else 0.0
        found.append(_upright(things.traffic_light(rng, row, z, reach, grey), row, z, 5.0))
    return found


def skyline(rng: np.random.Generator, look: Look) -> list[Thing]:
    """Far blocks and trees that close the view."""
    found = []
    for x in np.arange(-190, 190, 9.0):
        z, at = rng.uniform(END + 5, SKYLINE - 10), x + rng.uniform(-3, 3)
        if rng.random() < 0.5:
            color = pick(rng, look.foliage, look.spread)
            faces = things.tree(rng, at, z, rng.uniform(8, 14), color, 4, trunk=False)
        else:
            wide, high = rng.uniform(6, 14), rng.uniform(6, 24)
            points = np.array([(at - wide, 0, z), (at - wide, high, z), (at + wide, high, z), (at + wide, 0, z)])
            paint = pick(rng, look.facades, look.spread)
            faces = [Face(points, things.BUILDING, paint, FACADE, facade=(4.0, 3.5, 0.4, 0.5))]
        found.append(Thing(1, z, faces))
    return found
