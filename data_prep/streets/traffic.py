"""Vehicles: parked in bays, driving in lanes, crossing from the side street."""

import numpy as np

from data_prep.streets import vehicles
from data_prep.streets.domains import Layout, Look
from data_prep.streets.solids import Place, tint
from data_prep.streets.street import Street, Thing, pick

CARS, TRUCKS, BUSES, MOTORCYCLES, BICYCLES, TRAMS = range(6)
LENGTH = (4.5, 9.0, 12.0, 2.0, 1.8)  # metres of road that each kind takes in a lane
SHADOW = (  # half length, half width and height of what throws each kind's shadow, metres
    (2.2, 0.9, 1.5),
    (4.2, 1.2, 3.4),
    (6, 1.25, 3.1),
    (1, 0.3, 1.6),
    (0.9, 0.25, 1.6),
    (11, 1.25, 3.4),
)


def traffic(rng: np.random.Generator, layout: Layout, look: Look, street: Street, side: float) -> list[Thing]:
    """Parked and moving vehicles of one side; on the left (-1) they come towards us."""
    away = 0.0 if side > 0 else np.pi
    weights = np.array(layout.vehicles) / sum(layout.vehicles)
    found = _parked(rng, look, street, side, away)
    for lane in range(street.lanes):
        if street.tracks and side < 0 and lane == 0:
            place = Place(-0.5 * street.lane, rng.uniform(16, 50), np.pi * rng.integers(2))
            if rng.random() < 0.85:
                found.append(_vehicle(rng, look, TRAMS, place))
            continue
        z = rng.uniform(7, 30)
        while z < 120:
            kind = int(rng.choice(5, p=weights))
            shift = rng.uniform(-0.3, 0.3) if kind < MOTORCYCLES else rng.uniform(0.2, 1.0)
            x = side * (street.lane * (lane + 0.5) + shift)
            place = Place(x, z + LENGTH[kind] / 2, away + rng.normal(0, 0.03))
            found.append(_vehicle(rng, look, kind, place))
            z += LENGTH[kind] + 3 + rng.exponential(street.gap)
    if street.cross and side > 0 and rng.random() < 0.5:  # something crosses
        place = Place(rng.uniform(-9, 9), sum(street.cross) / 2, np.pi / 2 * rng.choice([-1, 1]))
        found.append(_vehicle(rng, look, int(rng.choice(5, p=weights)), place))
    return found


def _parked(rng: np.random.Generator, look: Look, street: Street, side: float, away: float) -> list[Thing]:
    found: list[Thing] = []
    if street.kerb - street.lanes * street.lane < 2:  # no bays
        return found
    for z in np.arange(rng.uniform(2, 8), 80, 5.8):
        crossing = street.cross and street.cross[0] - 7 < z < street.cross[1] + 4
        if rng.random() < street.parked and not crossing:
            kind = CARS if rng.random() < 0.95 else TRUCKS
            place = Place(side * (street.kerb - 1.15), z + 2.5, away + rng.normal(0, 0.02))
            found.append(_vehicle(rng, look, kind, place))
    return found


def _vehicle(rng: np.random.Generator, look: Look, kind: int, place: Place) -> Thing:
    color = pick(rng, look.cars, look.spread)
    if kind == CARS:
        faces = vehicles.car(rng, place, color)
    elif kind in (MOTORCYCLES, BICYCLES):
        model = vehicles.MOTORCYCLE if kind == MOTORCYCLES else vehicles.BICYCLE
        faces = vehicles.two_wheeler(rng, place, model, color, True)
    else:  # fleets have liveries of their own
        make, livery = {
            TRUCKS: (vehicles.truck, ((0.75, 0.75, 0.73), color, (0.55, 0.5, 0.42))),
            BUSES: (vehicles.bus, ((0.8, 0.62, 0.12), (0.75, 0.1, 0.1), (0.8, 0.8, 0.78))),
            TRAMS: (vehicles.tram, ((0.7, 0.1, 0.1), (0.15, 0.4, 0.3), (0.8, 0.7, 0.2))),
        }[kind]
        faces = make(rng, place, tint(rng, rng.choice(livery), look.spread))
    half, width, top = SHADOW[kind]
    corners = [(-width, 0, -half), (width, 0, -half), (width, 0, half), (-width, 0, half)]
    foot = place.world(corners)[:, [0, 2]]
    return Thing(2, max(float(foot[:, 1].min()), 0.0), faces, foot, (0.0, top))
