"""The two domains: what a game engine's world and picture have, and what a camera's have.

Every number is a property of worlds or pictures; docs/streets.md says what each stands for.
"""

from typing import NamedTuple

Span = tuple[float, float]
Palette = tuple[tuple[float, float, float], ...]


class Layout(NamedTuple):
    """How the world is laid out. Spans are uniform ranges; rates are things per 10 m of one side."""

    view: Span  # horizontal field of view, degrees
    height: Span  # of the camera, metres
    pitch: Span  # degrees, positive looks down
    bonnet: bool  # the own car is in the picture
    lanes: tuple[int, int]  # each way
    lane: Span  # width, metres
    pavement: Span  # width, metres
    setback: Span  # from the pavement to the building line, metres
    storeys: Span  # height of buildings, metres
    frontage: Span  # length of buildings, metres
    lots: tuple[float, ...]  # building, wall, fence, park, hedge garden: relative frequencies
    cross: float  # probability of a side street
    verge: float  # probability of a grass strip along a pavement
    tracks: float  # probability of tram tracks (and then mostly a tram)
    trees: float
    people: float
    poles: float
    signs: float
    bikes: float  # parked two-wheelers
    bays: float  # probability that there are parking bays
    parked: float  # probability that a parking bay is taken
    traffic: float  # vehicles per lane per 10 m
    vehicles: tuple[float, ...]  # car, truck, bus, motorcycle, bicycle: relative frequencies
    crown: Span  # height of trees, metres
    clumps: tuple[int, int]  # leaf clumps of a crown


class Look(NamedTuple):
    """What light, surfaces and the camera do to the picture."""

    facades: Palette
    foliage: Palette
    cars: Palette
    clothes: Palette
    asphalt: Palette
    paving: Palette
    grass: Palette
    spread: float  # variation of colours between things
    tile: bool  # textures repeat and are crisp, windows are all alike
    grain: float  # strength of texture
    dirt: float  # strength of large, irregular stains
    sun: Span  # of the direct light
    elevation: Span  # of the sun, degrees
    ambient: Span
    soft: Span  # blur of shadows, share of the picture's height
    haze: Span  # 1 / metres
    overcast: float  # probability
    wet: float  # probability
    gain: Span  # exposure: mean of the linear picture
    saturation: Span
    balance: float  # drift of white balance, log units
    curve: Span  # strength of the S-curve
    vignette: Span
    blur: Span  # of the lens, share of the picture's height
    motion: float  # probability of motion blur
    smear: Span  # its length, share of the picture's height
    noise: Span  # of the sensor at mid grey, 0..1
    quality: tuple[int, int] | None  # JPEG


RENDERED = (
    Layout(
        view=(62, 80), height=(1.4, 2.1), pitch=(-1, 6), bonnet=False, lanes=(2, 3), lane=(3.4, 3.9),
        pavement=(2.5, 6.0), setback=(0.0, 6.0), storeys=(6, 32), frontage=(12, 30),
        lots=(0.50, 0.16, 0.13, 0.15, 0.06), cross=0.5, verge=0.35, tracks=0.18,
        trees=0.40, people=0.60, poles=0.40, signs=0.30, bikes=0.35, bays=0.4, parked=0.20, traffic=0.13,
        vehicles=(0.62, 0.11, 0.06, 0.13, 0.08), crown=(4.5, 9.0), clumps=(7, 10),
    ),
    Look(
        facades=((0.74, 0.62, 0.48), (0.62, 0.62, 0.64), (0.80, 0.77, 0.70), (0.58, 0.40, 0.32),
                 (0.45, 0.50, 0.56)),
        foliage=((0.22, 0.44, 0.12), (0.32, 0.48, 0.14)),
        cars=((0.80, 0.10, 0.08), (0.10, 0.22, 0.65), (0.92, 0.92, 0.92), (0.08, 0.08, 0.09),
              (0.90, 0.68, 0.08), (0.60, 0.62, 0.65), (0.10, 0.45, 0.25)),
        clothes=((0.85, 0.15, 0.12), (0.15, 0.35, 0.75), (0.9, 0.9, 0.88), (0.9, 0.75, 0.2),
                 (0.15, 0.15, 0.16)),
        asphalt=((0.36, 0.36, 0.38), (0.31, 0.31, 0.32)),
        paving=((0.66, 0.64, 0.60), (0.60, 0.57, 0.55)),
        grass=((0.38, 0.54, 0.18), (0.52, 0.52, 0.24)),
        spread=0.10, tile=True, grain=0.16, dirt=0.0,
        sun=(0.9, 1.3), elevation=(30, 65), ambient=(0.38, 0.50), soft=(0.0, 0.0), haze=(0.0003, 0.0012),
        overcast=0.08, wet=0.0, gain=(0.27, 0.32), saturation=(1.12, 1.25), balance=0.02, curve=(0.0, 0.0),
        vignette=(0.0, 0.0), blur=(0.0, 0.0), motion=0.0, smear=(0.0, 0.0), noise=(0.0, 0.0), quality=None,
    ),
)  # fmt: skip

CAMERA = (
    Layout(
        view=(46, 56), height=(1.18, 1.32), pitch=(1, 4), bonnet=True, lanes=(1, 2), lane=(2.9, 3.4),
        pavement=(2.8, 5.8), setback=(0.0, 3.0), storeys=(9, 20), frontage=(9, 20),
        lots=(0.64, 0.07, 0.10, 0.12, 0.07), cross=0.55, verge=0.22, tracks=0.18,
        trees=0.50, people=0.90, poles=0.50, signs=0.40, bikes=0.50, bays=0.7, parked=0.40, traffic=0.09,
        vehicles=(0.66, 0.05, 0.06, 0.05, 0.18), crown=(6.0, 13.0), clumps=(16, 26),
    ),
    Look(
        facades=((0.66, 0.60, 0.50), (0.55, 0.53, 0.50), (0.72, 0.69, 0.63), (0.50, 0.36, 0.30),
                 (0.62, 0.55, 0.40), (0.46, 0.45, 0.44)),
        foliage=((0.24, 0.34, 0.13), (0.32, 0.38, 0.14), (0.18, 0.29, 0.12), (0.44, 0.38, 0.15)),
        cars=((0.10, 0.10, 0.11), (0.45, 0.46, 0.48), (0.70, 0.70, 0.70), (0.15, 0.19, 0.28),
              (0.38, 0.08, 0.08), (0.30, 0.30, 0.31)),
        clothes=((0.12, 0.12, 0.14), (0.20, 0.22, 0.30), (0.35, 0.33, 0.31), (0.50, 0.18, 0.16),
                 (0.62, 0.60, 0.58)),
        asphalt=((0.40, 0.39, 0.38), (0.33, 0.33, 0.34), (0.46, 0.44, 0.42)),
        paving=((0.52, 0.50, 0.47), (0.46, 0.43, 0.41), (0.55, 0.48, 0.43)),
        grass=((0.34, 0.38, 0.18), (0.42, 0.40, 0.24)),
        spread=0.28, tile=False, grain=0.22, dirt=0.26,
        sun=(0.7, 1.5), elevation=(18, 55), ambient=(0.3, 0.5), soft=(0.006, 0.02), haze=(0.0005, 0.0045),
        overcast=0.42, wet=0.25, gain=(0.17, 0.32), saturation=(0.7, 1.1), balance=0.06, curve=(0.3, 0.8),
        vignette=(0.15, 0.45), blur=(0.0018, 0.0038), motion=0.35, smear=(0.012, 0.028),
        noise=(0.006, 0.02), quality=(55, 88),
    ),
)  # fmt: skip

DOMAINS: dict[str, tuple[Layout, Look]] = {"rendered": RENDERED, "camera": CAMERA}
