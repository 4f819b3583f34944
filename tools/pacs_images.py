"""Pixels that look like anatomy from afar: ellipses with tissue values, sensor noise and speckle.

An exporter must outrun the filesystem it feeds, so a process paints a handful of pictures once and makes every image from one of
them by shifting it a little and adding a shifted field of noise: some 70 us for a CT slice. The result depends on the arguments only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pacs_studies import Series

Image16 = NDArray[np.uint16]
Image8 = NDArray[np.uint8]

_MARGIN = 32
"""Pixels by which a picture is larger than the image cut out of it."""
_LEVELS = 8
"""Pictures painted along the body's axis."""

# (centre x, centre y, half width, half height, value added), in units of half the picture's edge; later ones lie on top.
_THORAX = (
    (0.0, 0.05, 0.86, 0.62, 1000),
    (-0.40, 0.02, 0.30, 0.42, -780),
    (0.40, 0.02, 0.30, 0.42, -780),
    (0.08, -0.05, 0.22, 0.24, 60),
    (0.0, 0.42, 0.12, 0.13, 420),
    (-0.62, 0.40, 0.05, 0.08, 500),
    (0.62, 0.40, 0.05, 0.08, 500),
    (0.0, -0.50, 0.06, 0.04, 450),
)
_HEAD = (
    (0.0, 0.0, 0.70, 0.86, 900),
    (0.0, 0.0, 0.64, 0.80, -300),
    (-0.20, -0.05, 0.10, 0.28, -260),
    (0.20, -0.05, 0.10, 0.28, -260),
    (0.30, 0.35, 0.14, 0.11, 240),
    (-0.28, 0.45, 0.09, 0.07, 190),
)


def make_pixels(series: Series, number: int, salt: int) -> bytes:
    """Return the pixel data of the `number`th (from 1) instance of a series; `salt` tells one study from the next."""
    if series.modality == "US":
        return _ultrasound(series, number, salt)
    picture, noise = _pictures(series.modality, series.rows, series.columns)
    level = (number * _LEVELS // (series.instances + 1) + salt) % len(picture)
    return (_cut(picture[level], series, salt + number // 16) + _cut(noise, series, salt * 7 + number * 13)).tobytes()


def palette(channel: int) -> bytes:
    """Return the 256 entries of 16 bits of a warm palette: channel 0 red, 1 green, 2 blue."""
    ramp = np.arange(256, dtype=np.float64) / 255
    curve = (ramp**0.8, ramp**1.2, ramp**1.8)[channel]
    return (curve * 65535).astype("<u2").tobytes()


def _cut(picture: Image16, series: Series, shift: int) -> Image16:
    """Return a view of the image's size out of a larger picture, at a place that depends on `shift`."""
    x, y = shift * 11 % _MARGIN, shift * 5 % _MARGIN
    return picture[y : y + series.rows, x : x + series.columns]


def _paint(rows: int, columns: int, ellipses: tuple[tuple[float, float, float, float, int], ...], stretch: float, air: int) -> Image16:
    """Paint ellipses; `stretch` makes the inner ones larger or smaller, as neighbouring slices are."""
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    picture = np.full((rows, columns), air, dtype=np.int32)
    for place, (cx, cy, width, height, value) in enumerate(ellipses):
        scale = np.float32(1 if place == 0 else stretch)
        inside = ((x - np.float32(cx)) / (np.float32(width) * scale)) ** 2 + ((y - np.float32(cy)) / (np.float32(height) * scale)) ** 2 < 1
        picture[inside] += value
    return np.clip(picture, 0, 4000).astype("<u2")


@lru_cache(maxsize=8)
def _pictures(modality: str, rows: int, columns: int) -> tuple[list[Image16], Image16]:
    """Return the pictures of a modality and a field of noise, each with a margin around the image's size."""
    rows, columns = rows + _MARGIN, columns + _MARGIN
    ellipses, air, grain = {"CT": (_THORAX, 24, 40), "MR": (_HEAD, 10, 25), "CR": (_THORAX, 300, 60)}[modality]
    levels = 1 if modality == "CR" else _LEVELS
    pictures = [_paint(rows, columns, ellipses, 0.7 + 0.3 * (level + 1) / levels, air) for level in range(levels)]
    noise = np.random.Generator(np.random.PCG64(rows * 4096 + columns)).integers(0, grain, (rows, columns), dtype=np.uint16)
    return pictures, noise.astype("<u2")


@lru_cache(maxsize=2)
def _sector(rows: int, columns: int) -> tuple[Image8, Image8]:
    """Return the fan that an ultrasound probe sees (1 inside, 0 outside) and a field of speckle twice as wide."""
    y = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-0.75, 0.75, columns, dtype=np.float32)[None, :]
    radius = np.sqrt(x * x + y * y)
    inside = (radius > np.float32(0.12)) & (radius < np.float32(0.98)) & (np.abs(x) < y * np.float32(0.9))
    speckle = np.random.Generator(np.random.PCG64(rows)).integers(8, 190, (rows, columns * 2), dtype=np.uint8)
    return inside.astype(np.uint8), speckle


def _ultrasound(series: Series, number: int, salt: int) -> bytes:
    """Return a cine loop: speckle that drifts through the fan around a beating dark chamber."""
    inside, speckle = _sector(series.rows, series.columns)
    channels = series.bytes_per_pixel
    loop = np.empty((series.frames, series.rows, series.columns, channels), dtype=np.uint8)
    for frame in range(series.frames):
        start = (salt * 29 + number * 101 + frame * 3) % series.columns
        image = speckle[:, start : start + series.columns] * inside
        beat = 40 + abs(frame % 20 - 10) * 3
        middle, centre = series.rows // 2, series.columns // 2
        image[middle - beat : middle + beat, centre - beat : centre + beat] >>= 3
        loop[frame] = image[:, :, None]
    return loop.tobytes()
