"""From light to a picture: exposure, lens, sensor and file."""

import io

import numpy as np
from PIL import Image, ImageFilter

from data_prep.streets.domains import Look

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def develop(rng: np.random.Generator, radiance: np.ndarray, look: Look, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [*size, 3] of linear radiance float32 [2 H, 2 W, 3]."""
    height, width = size
    linear = radiance.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    linear *= rng.uniform(*look.gain) / max(float((linear @ LUMA).mean()), 1e-3)
    linear *= np.exp(rng.normal(0, look.balance, 3)).astype(np.float32)
    linear = lens(rng, linear, look)
    noise = rng.uniform(*look.noise)
    if noise:
        spread = noise * np.sqrt(np.clip(linear, 0.02, 1) / 0.5)  # photon noise grows with the root of light
        linear = linear + spread * rng.standard_normal(linear.shape, dtype=np.float32)
    grey = (linear @ LUMA)[..., None]
    linear = grey + rng.uniform(*look.saturation) * (linear - grey)
    picture = np.clip(linear, 0, 1) ** (1 / 2.2)
    curve = rng.uniform(*look.curve)
    picture += curve * (picture * picture * (3 - 2 * picture) - picture)
    return store(rng, (picture * 255 + 0.5).astype(np.uint8), look)


def lens(rng: np.random.Generator, linear: np.ndarray, look: Look) -> np.ndarray:
    """Blur, softer in red and blue than in green, motion blur, and dark corners; float32 [H, W, 3]."""
    height, width, _ = linear.shape
    sigma = rng.uniform(*look.blur) * height
    if sigma:
        if rng.random() < look.motion:
            linear = smear(linear, round(rng.uniform(*look.smear) * height), axis=int(rng.random() < 0.7))
        planes = []
        for k, wide in enumerate((1.25, 1.0, 1.4)):
            plane = Image.fromarray(np.ascontiguousarray(linear[..., k] * 180).clip(0, 255).astype(np.uint8))
            planes.append(np.asarray(plane.filter(ImageFilter.GaussianBlur(sigma * wide)), np.float32) / 180)
        linear = np.stack(planes, axis=-1)
    y = (np.arange(height, dtype=np.float32) / height - 0.5)[:, None]
    x = (np.arange(width, dtype=np.float32) / width - 0.5)[None]
    return linear * (1 - rng.uniform(*look.vignette) * 2 * (x * x + y * y))[..., None].astype(np.float32)


def smear(linear: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Mean over `length` pixels (at least 1) along an axis of [H, W, 3]; the edge is repeated."""
    last, length = linear.shape[axis] - 1, max(length, 1)
    mean = np.zeros_like(linear)
    for shift in range(-(length // 2), length - length // 2):
        mean += linear.take(np.clip(np.arange(last + 1) + shift, 0, last), axis) / length
    return mean


def store(rng: np.random.Generator, picture: np.ndarray, look: Look) -> np.ndarray:
    """What a JPEG file keeps of the picture, uint8 [H, W, 3]."""
    if look.quality is None:
        return picture
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "jpeg", quality=int(rng.integers(*look.quality)))
        return np.asarray(Image.open(file).convert("RGB"))
