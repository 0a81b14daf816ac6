"""What a real camera does to light: exposure, colour, glare, motion, noise, tone curve, sharpening, JPEG.

What a lens bends is bent in the renderer (lens.py), so that the depth is bent with it.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from depthlm_ros.scenes.renderer.render import Rendered

# Strengths of blur and noise are given for pictures this wide.
WIDE_PX = 128
CURVE = np.linspace(0, 1, 1025, dtype=np.float32)
# Linear values up to this are looked up; brighter ones are white.
WHITE = np.float32(2.5)
# Normal numbers, read from a random place on: drawing them anew for each picture would take a third of its time.
GRAIN = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def expose(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Linear light to linear sensor values: metered exposure with an error of about half a stop."""
    grey = rgb[::2, ::2, 1]
    level = 0.6 * float(np.median(grey)) + 0.4 * float(np.minimum(grey, 4 * np.median(grey)).mean()) + 1e-4
    gain = rng.uniform(0.17, 0.25) / level * 2.0 ** rng.normal(0, 0.4)
    balance = np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    return rgb * (np.float32(gain) * balance)


def _vignette(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-height / width, height / width, height, dtype=np.float32)[:, None]
    return 1.0 - np.float32(rng.uniform(0.0, 0.25)) * (x * x + y * y)


def _glare(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """What the lens scatters: windows and lamps glow, shadows are veiled a little."""
    half = cv2.resize(np.minimum(linear, 4.0), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    wide = cv2.blur(cv2.blur(half, (9, 9)), (9, 9))
    share = np.float32(rng.uniform(0.0, 0.12))
    return linear + share * cv2.resize(wide, linear.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _motion(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The camera moved or turned a little while the shutter was open."""
    length, angle = rng.uniform(0.5, 2.0) * image.shape[1] / WIDE_PX, rng.uniform(0, math.pi)
    reach = math.ceil(length / 2)
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = u * math.cos(angle) + v * math.sin(angle)
    across = -u * math.sin(angle) + v * math.cos(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return cv2.filter2D(image, -1, (kernel / kernel.sum()).astype(np.float32), borderType=cv2.BORDER_REPLICATE)


def _tone(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """float32 in [0, 1]: a shoulder for the highlights, roughly sRGB's curve, more or less contrast."""
    knee = np.float32(rng.uniform(0.5, 0.9))
    light = WHITE * CURVE**2
    soft = np.minimum(light, knee) + (1 - knee) * (1 - np.exp(-np.maximum(light - knee, 0) / (1 - knee)))
    curve = np.power(np.clip(soft, 0, 1), np.float32(1 / rng.uniform(1.9, 2.5)))
    steep = np.float32(rng.uniform(-0.25, 0.6))
    curve += steep * (curve * curve * (3 - 2 * curve) - curve)
    index = np.sqrt(np.clip(linear, 0, WHITE) * (1 / WHITE)) * 1024
    return curve[index.astype(np.int32)]


def _noise(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """Shot and read noise; in a picture scaled down from a camera's size little of it is left."""
    shot, read = rng.uniform(0.0, 0.014), rng.uniform(0.0, 0.004)
    start = int(rng.integers(0, len(GRAIN) - linear.size)) if linear.size < len(GRAIN) else 0
    grain = np.resize(GRAIN[start : start + linear.size], linear.shape)
    return linear + grain * np.sqrt(np.float32(read**2) + np.float32(shot**2) * np.maximum(linear, 0))


def developed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The picture uint8 (H, W, 3) as another camera or another taste would have it: half the time other brightness,
    contrast and tint, within what leaves colours their names."""
    if rng.random() < 0.5:
        return image
    power, gain = np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0.1, 0.2) + rng.normal(0, 0.04, 3))
    curve = np.linspace(0, 1, 256)[:, None] ** power * gain
    return cv2.LUT(image, np.clip(255 * curve + 0.5, 0, 255).astype(np.uint8)[None])


def recoloured(rng: np.random.Generator, image: np.ndarray, thing: np.ndarray) -> np.ndarray:
    """The picture uint8 (H, W, 3) as no camera would have it: colours mixed or gone, each thing (int (H, W), -1 = the
    building) of other brightness and with other texture, now and then out of focus. Shapes stay. What a renderer paints
    differs from the world most in its colours and textures: a model that reads distances off them is wrong there."""
    # One mix for all channels is grey; three are pale; half exchanged, they are strong and other colours.
    mix = np.resize(rng.dirichlet((1.0, 1.0, 1.0), 1 if rng.random() < 0.5 else 3), (3, 3))
    if rng.random() < 0.3:
        mix = 0.3 * mix + 0.7 * rng.permutation(np.eye(3))
    mixed = cv2.transform(image.astype(np.float32), mix)
    # From a light that falls off to fine grain, along the one axis or the other.
    cells = np.exp(rng.uniform(math.log(3), math.log(48), 2)).astype(int)
    pattern = cv2.resize(
        rng.standard_normal(tuple(cells), np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR
    )
    things = int(thing.max()) + 2
    gain, strength = rng.normal(0, 0.15, (things, 3)), rng.normal(0, 0.2, things)
    mixed *= np.exp(gain.astype(np.float32)[thing + 1] + (strength.astype(np.float32)[thing + 1] * pattern)[:, :, None])
    if rng.random() < 0.3:
        mixed = cv2.GaussianBlur(mixed, (0, 0), rng.uniform(0.3, 1.0) * image.shape[1] / WIDE_PX)
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def photograph(rng: np.random.Generator, rendered: Rendered) -> np.ndarray:
    """uint8 (H, W, 3) as a camera would have taken it; the rendered colours are not changed."""
    rgb = expose(rng, rendered.rgb)
    height, width = rgb.shape[:2]
    scale = width / WIDE_PX
    rgb *= _vignette(rng, height, width)[:, :, None]
    if rng.random() < 0.6:
        rgb = _glare(rng, rgb)
    if rng.random() < 0.06:
        rgb = _motion(rng, rgb)
    elif rng.random() < 0.25:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.2, 0.6) * math.sqrt(scale))
    if rng.random() < 0.6:
        rgb = _noise(rng, rgb)
    image = _tone(rng, rgb)
    if rng.random() < 0.4:
        grey = image.mean(axis=2, keepdims=True)
        image = grey + (image - grey) * np.float32(
            rng.choice((0.0, 0.6, 1.3), p=(0.05, 0.35, 0.6)) * rng.uniform(0.8, 1.2)
        )
    if rng.random() < 0.35:
        # Cameras sharpen, and so does scaling down.
        image = image + np.float32(rng.uniform(0.2, 0.9)) * (image - cv2.GaussianBlur(image, (3, 3), 0))
    bytes_ = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        done, code = cv2.imencode(".jpg", bytes_, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
        if done:
            bytes_ = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return bytes_
