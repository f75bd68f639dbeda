"""From buffers to light: texture by material, windows, sun, shadow, sky and haze, in linear RGB."""

from functools import lru_cache

import numpy as np
from PIL import ImageFilter

from data_prep.streets import materials as m
from data_prep.streets.domains import Look
from data_prep.streets.draw import Buffers, mask
from data_prep.streets.geometry import Camera
from data_prep.streets.scene import Scene, Sun

SIDE = 256  # of the noise tables

#                 sky asph pave gras faca maso foli meta  glas clot mark rubb lamp
ROUGH = np.array([0, 0.8, 0.7, 1.3, 0.5, 0.9, 2.0, 0.06, 0.1, 0.4, 0.5, 0.3, 0], np.float32)
STAIN = np.array([0, 1.0, 1.0, 1.0, 0.8, 1.2, 0.7, 0.35, 0.3, 0.5, 1.0, 0.3, 0], np.float32)
FACING = np.array([0, 1, 1, 1, 1, 1, 0.15, 1, 0.6, 0.3, 1, 0.7, 0], np.float32)  # how much the normal counts


def rgb(r: float, g: float, b: float) -> np.ndarray:
    """A linear colour, float32 [3]."""
    return np.array([r, g, b], np.float32)


@lru_cache(maxsize=1)
def noise_tables() -> tuple[np.ndarray, np.ndarray]:
    """Tileable noise of unit variance, float32 [SIDE * SIDE] each: smooth (1/f) and white."""
    white = np.random.default_rng(19).standard_normal((SIDE, SIDE))
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None]
    smooth = np.fft.ifft2(np.fft.fft2(white) / np.maximum(np.hypot(fx, fy), 1 / SIDE) ** 1.3).real
    smooth = (smooth - smooth.mean()) / smooth.std()
    return smooth.astype(np.float32).ravel(), white.astype(np.float32).ravel()


def lookup(table: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A noise table [SIDE * SIDE], repeated without end, at integer coordinates."""
    return table.take(((v & (SIDE - 1)) * SIDE) | (u & (SIDE - 1)))


def shade(rng: np.random.Generator, buffers: Buffers, scene: Scene, look: Look) -> np.ndarray:
    """Radiance float32 [H, W, 3], linear; white paper in the sun is about 1."""
    ids, camera, sun = buffers.ids, scene.camera, scene.sun
    stuff = buffers.material[ids]
    where = camera.unproject(buffers.depth)
    along = np.where((np.abs(buffers.normal[:, 0]) > 0.7)[ids], where[..., 2], where[..., 0])
    across = np.where((np.abs(buffers.normal[:, 1]) > 0.7)[ids], where[..., 2], where[..., 1])
    footprint = buffers.depth / np.float32(camera.focal)  # metres a pixel
    surface = (buffers.color**2.2).take(ids, axis=0)
    surface *= texture(rng, look, ids, stuff, along, across, footprint)[..., None]
    windows(surface, buffers, stuff, along, where[..., 1], look)
    wet = rng.random() < look.wet
    if wet:
        surface[np.isin(stuff, m.GROUND)] *= 0.6
    radiance = surface * light(rng, buffers, where[..., 1], stuff, scene, look)
    seen = np.flatnonzero(ids == 0)
    sky, horizon = sky_color(rng, seen, ids.shape, camera, sun, look)
    gloss = np.isin(np.arange(m.COUNT), (m.GLASS, m.METAL)) * 0.07
    if wet:
        gloss[[m.ASPHALT, m.MARKING]] = 0.12
    radiance += gloss.astype(np.float32)[stuff][..., None] * horizon
    clear = np.exp(buffers.depth * np.float32(-rng.uniform(*look.haze)))[..., None]
    radiance = radiance * clear + (1 - clear) * horizon
    radiance.reshape(-1, 3)[seen] = sky
    return radiance


def texture(
    rng: np.random.Generator,
    look: Look,
    ids: np.ndarray,
    stuff: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
    footprint: np.ndarray,
) -> np.ndarray:
    """A factor on reflectance, float32 [H, W]; detail finer than a pixel's footprint (metres) fades out."""
    smooth, white = noise_tables()
    offset = rng.integers(SIDE, size=6).tolist()

    def layer(table: np.ndarray, scale: float, k: int) -> np.ndarray:
        u = (along * scale).astype(np.int32) + offset[k]
        v = (across * scale).astype(np.int32) + offset[k + 1]
        if not look.tile:
            u += ids * 37  # no two things share their stains
        return lookup(table, u, v) * np.minimum((0.7 / scale) / footprint, 1)

    if look.tile:  # one image, repeated every few metres
        factor = 1 + (look.grain * ROUGH)[stuff] * layer(smooth, 40.0, 0)
    else:
        fine = 0.5 * layer(white, 30.0, 0) + 0.9 * layer(smooth, 25.0, 2)
        factor = 1 + (look.grain * ROUGH)[stuff] * fine + (look.dirt * STAIN)[stuff] * layer(smooth, 4.0, 4)
    slab = np.flatnonzero((stuff == m.PAVING) & (footprint < 0.04))
    size = 1.0 if look.tile else 0.45
    joint = ((along.ravel()[slab] / size) % 1 < 0.07) | ((across.ravel()[slab] / size) % 1 < 0.07)
    factor.ravel()[slab[joint]] *= 0.72 if look.tile else 0.85
    course = np.flatnonzero((stuff == m.MASONRY) & (footprint < 0.05))
    factor.ravel()[course[across.ravel()[course] % 0.3 < 0.05]] *= 0.75
    return np.clip(factor, 0.15, 2.2)


def windows(
    surface: np.ndarray, buffers: Buffers, stuff: np.ndarray, along: np.ndarray, up: np.ndarray, look: Look
) -> None:
    """Paints storeys of windows on facades, in place; behind a camera's, panes, blinds and frames differ."""
    spot = np.flatnonzero(stuff == m.FACADE)
    ids, height = buffers.ids.ravel()[spot], up.ravel()[spot]
    bay, storey, wide, high = buffers.facade.take(ids, axis=0).T
    a, b = along.ravel()[spot] / bay, height / storey
    column, row = np.floor(a), np.floor(b)
    x, y = np.abs(a - column - 0.5) * 2, np.abs(b - row - 0.5) * 2
    wall_above = (np.abs(buffers.normal[:, 1]) < 0.5)[ids] & (height > 0.3)
    inside = (x < wide) & (y < high) & wall_above
    frame = (x < wide + 0.09) & (y < high + 0.09) & ~inside
    paint = surface.reshape(-1, 3)
    paint[spot[frame]] *= 1.15 if look.tile else 1.25
    paint[spot[(y > 0.94) & ~inside]] *= 0.8
    panes = spot[inside]
    if look.tile:  # every pane reflects the same painted sky
        paint[panes] = rgb(0.04, 0.05, 0.065) + 0.10 * (1 - y[inside, None]) * rgb(0.5, 0.8, 1.0)
        return
    code = ((column * 7.13 + row * 3.71 + ids * 1.93)[inside] * 0.618)[:, None]
    chance = (code - np.floor(code)).astype(np.float32)
    glass = rgb(0.018, 0.024, 0.032) * (0.5 + 2.5 * chance**2)
    paint[panes] = np.where(chance > 0.75, rgb(0.28, 0.26, 0.22), glass)


def light(
    rng: np.random.Generator, buffers: Buffers, up: np.ndarray, stuff: np.ndarray, scene: Scene, look: Look
) -> np.ndarray:
    """Irradiance float32 [H, W, 3]: the sun, less the shadows on the ground, and the sky."""
    sun, ids = scene.sun, buffers.ids
    shadow = mask(scene.shadows, scene.camera, ids.shape)
    soft = rng.uniform(*look.soft) * ids.shape[0] * (2.0 if sun.overcast else 1.0)
    if soft > 0:
        shadow = shadow.filter(ImageFilter.GaussianBlur(soft))
    ground = np.isin(stuff, m.GROUND)
    open_sky = np.where(ground, 1 - np.asarray(shadow, np.float32) / 255, np.float32(1))
    share = FACING[buffers.material]
    facing = np.clip(buffers.normal @ sun.direction, 0, 1)
    direct = (sun.strength * (share * facing + (1 - share) * 0.55)).astype(np.float32)[ids] * open_sky
    ambient = rng.uniform(*look.ambient) * (1.5 if sun.overcast else 1.0)
    above = (ambient * (0.75 + 0.25 * buffers.normal[:, 1] * share)).astype(np.float32)[ids]
    if not look.tile:  # corners near the ground see less of the sky, and so does what stands beside things
        above *= np.where(ground, 0.7 + 0.3 * open_sky, 1 - 0.35 * np.exp(np.clip(up, 0, 10) / -0.8))
    if sun.overcast:
        lit = np.repeat((direct + above)[..., None], 3, axis=-1)
    else:
        lit = direct[..., None] * rgb(1.05, 1.0, 0.9) + above[..., None] * rgb(0.9, 1.0, 1.15)
    lit[stuff == m.LAMP] = 1.0
    return lit


def sky_color(
    rng: np.random.Generator, seen: np.ndarray, shape: tuple[int, ...], camera: Camera, sun: Sun, look: Look
) -> tuple[np.ndarray, np.ndarray]:
    """Sky radiance float32 [N, 3] at the flat pixel indices `seen`, and that of the horizon, float32 [3]."""
    rows, columns = np.divmod(seen.astype(np.int32), shape[1])
    rise = np.clip((camera.center[1] - rows.astype(np.float32)) / camera.focal - camera.pitch, 0, 1)
    across = (columns.astype(np.float32) - camera.center[0]) / camera.focal
    smooth, _ = noise_tables()
    scale, far = 110.0 if look.tile else 60.0, 1 / (rise + 0.25)
    start = rng.integers(SIDE, size=2).tolist()
    cloud = lookup(
        smooth, (across * far * scale).astype(np.int32) + start[0], (far * scale).astype(np.int32) + start[1]
    )[:, None]
    if sun.overcast:
        cover = rgb(0.86, 0.88, 0.90) * np.float32(rng.uniform(0.75, 1.1))
        return cover * (1 + 0.07 * cloud), cover
    zenith, horizon = rgb(0.10, 0.26, 0.62), rgb(0.55, 0.72, 0.90)
    if not look.tile:  # dust and vapour pale a real sky
        zenith, horizon = zenith * 0.8 + 0.15, rgb(0.85, 0.88, 0.90)
    clear = horizon + np.clip(rise * 2.2, 0, 1)[:, None] ** 0.7 * (zenith - horizon)
    thick, base = (0.5, 0.35) if look.tile else (0.35, rng.uniform(-0.2, 0.6))
    return clear + np.clip(cloud * thick - base, 0, 0.8) * (rgb(0.98, 0.97, 0.95) - clear), horizon
