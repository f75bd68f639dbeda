"""Cars, trucks, buses, trams, and two-wheelers with or without a rider."""

import itertools
from collections.abc import Sequence

import numpy as np

from data_prep.streets.geometry import Face
from data_prep.streets.materials import CLOTH, GLASS, LAMP, METAL, RUBBER
from data_prep.streets.solids import (
    Color,
    Place,
    bar,
    box,
    circle,
    end_panel,
    flat,
    prism,
    ring,
    side_panels,
    tint,
)

RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(12, 19)
BLACK, WINDOW, RIM = (0.05, 0.05, 0.055), (0.10, 0.12, 0.14), (0.5, 0.5, 0.52)
SKIN = ((0.85, 0.66, 0.55), (0.72, 0.52, 0.40), (0.45, 0.30, 0.22))


def _wheels(place: Place, axles: Sequence[float], radius: float, width: float, label: int) -> list[Face]:
    faces = []
    for along in axles:
        faces += side_panels(place, circle((along, radius), radius, 10), width + 0.02, label, BLACK, RUBBER)
        faces += side_panels(place, circle((along, radius), radius * 0.55, 8), width + 0.05, label, RIM, METAL)
    return faces


def _lamps(place: Place, half: float, width: float, height: float, label: int) -> list[Face]:
    """Red lamps behind, pale ones in front, and number plates."""
    faces = []
    for along, color in ((-half, (0.55, 0.05, 0.05)), (half, (0.9, 0.9, 0.82))):
        at = along * 1.005
        for left in (-width / 2 + 0.06, width / 2 - 0.40):
            faces.append(end_panel(place, (left, left + 0.34, height, height + 0.16), at, label, color, LAMP))
        faces.append(end_panel(place, (-0.26, 0.26, 0.5, 0.62), at, label, (0.85, 0.85, 0.75), METAL))
    return faces


def car(rng: np.random.Generator, place: Place, color: Color) -> list[Face]:
    """A saloon, hatchback, estate or off-roader."""
    length, width = rng.uniform(3.8, 4.8), rng.uniform(1.7, 1.9)
    tall, trunk = rng.uniform(1.4, 1.75), rng.choice([0.1, 0.15, 0.75])
    h, deck = length / 2, 0.58 * tall
    under = box(place, (width * 0.92, 0.4, length * 0.9), CAR, BLACK, RUBBER, 0.12)
    body = [(-h, 0.32), (-h, deck - 0.1), (-h + 0.12, deck), (h * 0.9, deck - 0.14), (h, 0.6), (h, 0.32)]
    back, front = -h + trunk, h * 0.5
    roof = [(back, deck), (back + 0.45, tall), (front - 0.75, tall), (front, deck - 0.04)]
    cabin = prism(place, roof, width * 0.9, CAR, WINDOW, GLASS)
    cabin[:2] = [f._replace(color=color, material=METAL) for f in cabin[:2]]
    cabin[3] = cabin[3]._replace(color=color, material=METAL)
    post = 0.5 * (back + front) - 0.1
    glass = []
    for a, b, c, d in (
        (back + 0.2, back + 0.5, post - 0.04, post - 0.04),
        (post + 0.04, post + 0.04, front - 0.78, front - 0.12),
    ):
        loop = [(a, deck + 0.05), (b, tall - 0.08), (c, tall - 0.08), (d, deck + 0.05)]
        glass += side_panels(place, loop, width * 0.9, CAR, WINDOW, GLASS)
    return [
        *under,
        *prism(place, body, width, CAR, color, METAL),
        *cabin,
        *glass,
        *_wheels(place, (-h * 0.62, h * 0.64), 0.33, width, CAR),
        *_lamps(place, h, width, deck - 0.34, CAR),
    ]


def truck(rng: np.random.Generator, place: Place, color: Color) -> list[Face]:
    """A lorry: chassis, cargo box or tank-like container, cab with a windscreen."""
    length, width = rng.uniform(6.5, 10.0), 2.4
    high, h = rng.uniform(2.9, 3.7), length / 2
    cab = tint(rng, rng.choice([(0.8, 0.8, 0.8), (0.6, 0.1, 0.08), (0.12, 0.25, 0.5), (0.85, 0.6, 0.1)]), 0.2)
    load = length - 2.3
    rows = box(place, (2.2, 0.6, length * 0.95), TRUCK, BLACK, RUBBER, 0.35)
    rows += box(place, (width, 1.9, 2.0), TRUCK, cab, METAL, 0.6, h - 1.0)
    glass = [(h - 1.3, 1.55), (h - 1.3, 2.3), (h - 0.3, 2.3), (h - 0.1, 1.55)]
    cargo = box(place, (width, high - 0.9, load), TRUCK, color, METAL, 0.9, -h + load / 2)
    seam = tint(rng, color, 0.4)
    for along in np.arange(-h + 0.6, -h + load, 1.2):
        loop = [(along, 0.95), (along, high - 0.05), (along + 0.08, high - 0.05), (along + 0.08, 0.95)]
        cargo += side_panels(place, loop, width, TRUCK, seam, METAL)
    door = end_panel(place, (-0.03, 0.03, 1.0, high - 0.1), -h * 1.002, TRUCK, BLACK, METAL)
    front = [
        *side_panels(place, glass, width, TRUCK, WINDOW, GLASS),
        end_panel(place, (-1.05, 1.05, 1.5, 2.35), h * 1.003, TRUCK, WINDOW, GLASS),
    ]
    wheels = _wheels(place, (-h * 0.72, -h * 0.45, h * 0.72), 0.48, width, TRUCK)
    lamps = _lamps(place, h, width, 0.68, TRUCK)
    near_first = np.cos(place.heading) < 0  # oncoming: the cab is the nearer part
    return [*rows[:6], *cargo, door, *rows[6:], *front, *wheels, *lamps] if near_first else [
        *rows, *front, *cargo, door, *wheels, *lamps
    ]  # fmt: skip


def _coach(place: Place, size: tuple[float, float, float], label: int, color: Color, band: Color) -> list[Face]:
    """The body that buses and trams share: painted box, window band, stripe, front and rear windows."""
    width, height, length = size
    h = length / 2
    faces = box(place, (width, height - 0.3, length), label, color, METAL, 0.3)
    skirt = [(-h, 0.3), (-h, 0.75), (h, 0.75), (h, 0.3)]
    faces += side_panels(place, skirt, width, label, band, METAL)
    pitch = 1.5
    for along in np.arange(-h + 0.3, h - 1.2, pitch):
        high = height - 0.55
        loop = [(along, 1.35), (along, high), (along + pitch - 0.15, high), (along + pitch - 0.15, 1.35)]
        faces += side_panels(place, loop, width, label, WINDOW, GLASS)
    for at in (-h * 1.002, h * 1.002):
        faces.append(end_panel(place, (-width * 0.45, width * 0.45, 1.2, height - 0.6), at, label, WINDOW, GLASS))
        faces.append(end_panel(place, (-0.7, 0.7, height - 0.45, height - 0.15), at, label, (0.75, 0.55, 0.1), LAMP))
    return faces


def bus(rng: np.random.Generator, place: Place, color: Color) -> list[Face]:
    """A city bus."""
    length = rng.uniform(10.5, 12.5)
    faces = _coach(place, (2.5, 3.1, length), BUS, color, tint(rng, color, 0.5))
    faces += _wheels(place, (-length * 0.27, length * 0.3), 0.48, 2.5, BUS)
    return faces + _lamps(place, length / 2, 2.5, 0.75, BUS)


def tram(rng: np.random.Generator, place: Place, color: Color) -> list[Face]:
    """Two coupled tram cars, 3.4 m high, with a bellows between them and a current collector."""
    half, band = rng.uniform(9.0, 12.0), (0.85, 0.82, 0.75)
    forward = 1 if np.cos(place.heading) > 0 else -1
    faces: list[Face] = []
    for order in (1, -1):
        shift = order * forward * (half / 2 + 0.3)
        section = Place(place.x + shift * np.sin(place.heading), place.z + shift * np.cos(place.heading), place.heading)
        faces += box(section, (2.2, 0.35, half * 0.9), TRAIN, BLACK, RUBBER, 0.05)
        faces += _coach(section, (2.5, 3.4, half), TRAIN, color, band)
        if order == 1:
            faces += box(place, (2.2, 2.7, 0.8), TRAIN, BLACK, RUBBER, 0.4)
    faces.append(flat(place.x, place.z, bar((-0.5, 3.4), (0.0, 4.6), 0.07), TRAIN, BLACK, METAL))
    return [*faces, flat(place.x, place.z, bar((0.5, 3.4), (0.0, 4.6), 0.07), TRAIN, BLACK, METAL)]


def two_wheeler(rng: np.random.Generator, place: Place, kind: int, color: Color, ridden: bool) -> list[Face]:
    """A bicycle or motorcycle, drawn in the plane of its heading; with a rider if `ridden`."""
    s, c = float(np.sin(place.heading)), abs(float(np.cos(place.heading)))
    motor = kind == MOTORCYCLE
    radius, base, body = (0.31, 0.7, 0.26) if motor else (0.34, 0.53, 0.055)

    def plane(loop: Sequence[tuple[float, float]], label: int, paint: Color, stuff: int) -> Face:
        return flat(place.x, place.z, [(a * s, up) for a, up in loop], label, paint, stuff)

    def wide(low: float, high: float, width: float, label: int, paint: Color, stuff: int) -> Face:
        loop = [(-width / 2, low), (-width / 2, high), (width / 2, high), (width / 2, low)]
        return flat(place.x, place.z, loop, label, paint, stuff)

    faces = [wide(0.0, 2 * radius, (0.22 if motor else 0.10) * max(c, 0.3), kind, BLACK, RUBBER)]
    for along in (-base, base):
        wheel = circle((along, radius), radius) if motor else ring((along, radius), radius, radius - 0.1)
        faces.append(plane(wheel, kind, BLACK, RUBBER))
    joints = ((-base, radius), (-0.15, 0.85), (0.42, 0.9), (base, radius), (-0.02, 0.3), (-0.15, 0.85))
    for a, b in itertools.pairwise(joints):
        faces.append(plane(bar(a, b, body), kind, color, METAL))
    if motor:
        faces.append(plane([(-0.75, 0.75), (-0.6, 0.95), (0.4, 1.0), (0.5, 0.6), (-0.3, 0.4)], kind, color, METAL))
        faces.append(wide(0.35, 0.95, 0.18 + 0.2 * c, kind, color, METAL))
    faces.append(wide(0.93, 1.02, 0.2 + 0.4 * c, kind, BLACK, METAL))
    return faces + (_rider(rng, place, s, c, motor) if ridden else [])


def _rider(rng: np.random.Generator, place: Place, s: float, c: float, motor: bool) -> list[Face]:
    top = tint(rng, rng.choice([(0.6, 0.15, 0.12), (0.15, 0.25, 0.5), (0.75, 0.72, 0.3), (0.15, 0.15, 0.17)]), 0.4)
    legs = tint(rng, (0.16, 0.17, 0.24), 0.5)
    head = (0.12, 0.12, 0.13) if motor else SKIN[int(rng.integers(3))]

    def part(a: tuple[float, float], b: tuple[float, float], thick: float, paint: Color) -> Face:
        tilt = [(along * s, up) for along, up in (a, b)]
        return flat(place.x, place.z, bar(tilt[0], tilt[1], thick), RIDER, paint, CLOTH)

    lean = 0.22 if motor else 0.1
    hip, neck = (-0.18, 0.9), (-0.18 + lean, 1.48)
    faces = [
        part((hip[0], hip[1]), (0.18, 0.72), 0.2 + 0.22 * c, legs),
        part((0.18, 0.72), (0.0, 0.28), 0.15, legs),
    ]
    faces += [part(hip, neck, 0.3 + 0.16 * c, top), part((neck[0], 1.38), (0.38, 1.02), 0.12, top)]
    center = (neck[0] * s + 0.04 * s, 1.63)
    faces.append(flat(place.x, place.z, circle(center, 0.14, 9), RIDER, head, CLOTH))
    if not motor and rng.random() < 0.6:
        cap = [(x, max(y, center[1] + 0.02)) for x, y in circle(center, 0.15, 9)]
        faces.append(flat(place.x, place.z, cap, RIDER, tint(rng, (0.5, 0.5, 0.5), 0.9), CLOTH))
    return faces
