# SPDX-License-Identifier: Apache-2.0
"""Simulates how a real camera turns light into an image, and augments the finished image.

`photograph` applies exposure, colour, glare, motion blur, noise, a tone curve, sharpening and JPEG to a rendered
picture; `photographs` renders them from random scenes. `jitter_tones` and `recolour` are augmentations of the
photograph. Lens distortion is not here: the renderer applies it (lens.py), so that depth is distorted in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose
from depthlm_ros.scenes.renderer.render import RenderedImage, render

# Strengths of blur and noise are given for pictures of this width.
REFERENCE_WIDTH_PX = 128
# The random numbers of `photographs` are not those of training or of validation.
PHOTOGRAPH_STREAM = 2**42
CURVE = np.linspace(0, 1, 1025, dtype=np.float32)
# Linear values up to this one are read from the tone curve; brighter ones are white.
WHITE = np.float32(2.5)
# Normally distributed numbers, read from a random position on. New ones for each picture would take a third of its
# time.
GRAIN = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def expose(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Converts linear light to linear sensor values, with a metered exposure that is off by about half a stop."""
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
    """Adds light that the lens scatters: windows and lamps glow, and shadows get a little brighter."""
    half = cv2.resize(np.minimum(linear, 4.0), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    wide = cv2.blur(cv2.blur(half, (9, 9)), (9, 9))
    share = np.float32(rng.uniform(0.0, 0.12))
    return linear + share * cv2.resize(wide, linear.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _motion_blur(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Blurs the image as if the camera moved or turned a little while the shutter was open."""
    length, angle = rng.uniform(0.5, 2.0) * image.shape[1] / REFERENCE_WIDTH_PX, rng.uniform(0, math.pi)
    reach = math.ceil(length / 2)
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = u * math.cos(angle) + v * math.sin(angle)
    across = -u * math.sin(angle) + v * math.cos(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return cv2.filter2D(image, -1, (kernel / kernel.sum()).astype(np.float32), borderType=cv2.BORDER_REPLICATE)


def _tone(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """Applies a tone curve: compressed highlights, roughly the curve of sRGB, more or less contrast. Returns float32 in
    [0, 1]."""
    knee = np.float32(rng.uniform(0.5, 0.9))
    light = WHITE * CURVE**2
    soft = np.minimum(light, knee) + (1 - knee) * (1 - np.exp(-np.maximum(light - knee, 0) / (1 - knee)))
    curve = np.power(np.clip(soft, 0, 1), np.float32(1 / rng.uniform(1.9, 2.5)))
    steep = np.float32(rng.uniform(-0.25, 0.6))
    curve += steep * (curve * curve * (3 - 2 * curve) - curve)
    index = np.sqrt(np.clip(linear, 0, WHITE) * (1 / WHITE)) * 1024
    return curve[index.astype(np.int32)]


def _noise(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """Adds a little shot and read noise, as remains in a picture that was scaled down from a camera's full size."""
    shot, read = rng.uniform(0.0, 0.014), rng.uniform(0.0, 0.004)
    start = int(rng.integers(0, len(GRAIN) - linear.size)) if linear.size < len(GRAIN) else 0
    grain = np.resize(GRAIN[start : start + linear.size], linear.shape)
    return linear + grain * np.sqrt(np.float32(read**2) + np.float32(shot**2) * np.maximum(linear, 0))


def jitter_tones(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Changes brightness, contrast and tint of a picture uint8 (H, W, 3), half of the time.

    The changes are small enough that colours keep their names.
    """
    if rng.random() < 0.5:
        return image
    power, gain = np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0.1, 0.2) + rng.normal(0, 0.04, 3))
    curve = np.linspace(0, 1, 256)[:, None] ** power * gain
    return cv2.LUT(image, np.clip(255 * curve + 0.5, 0, 255).astype(np.uint8)[None])


def recolour(rng: np.random.Generator, image: np.ndarray, object_id: np.ndarray) -> np.ndarray:
    """Gives a picture uint8 (H, W, 3) unreal colours and textures, and keeps its shapes.

    Colours are mixed or removed, each object (object_id: int (H, W), -1 = the building) gets another brightness and
    texture, and the picture is sometimes out of focus. Rendered pictures differ from real ones most in their colours
    and textures, so a model that learns distances from these would be wrong on real pictures.
    """
    # One mix for all channels gives grey, three mixes give pale colours; with exchanged channels they are strong again.
    mix = np.resize(rng.dirichlet((1.0, 1.0, 1.0), 1 if rng.random() < 0.5 else 3), (3, 3))
    if rng.random() < 0.3:
        mix = 0.3 * mix + 0.7 * rng.permutation(np.eye(3))
    mixed = cv2.transform(image.astype(np.float32), mix)
    # The pattern is anything from a smooth gradient to fine grain, along either axis.
    cells = np.exp(rng.uniform(math.log(3), math.log(48), 2)).astype(int)
    pattern = cv2.resize(
        rng.standard_normal(tuple(cells), np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR
    )
    count = int(object_id.max()) + 2
    gain, strength = rng.normal(0, 0.15, (count, 3)), rng.normal(0, 0.2, count)
    mixed *= np.exp(
        gain.astype(np.float32)[object_id + 1] + (strength.astype(np.float32)[object_id + 1] * pattern)[:, :, None]
    )
    if rng.random() < 0.3:
        mixed = cv2.GaussianBlur(mixed, (0, 0), rng.uniform(0.3, 1.0) * image.shape[1] / REFERENCE_WIDTH_PX)
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def photograph(rng: np.random.Generator, rendered: RenderedImage) -> np.ndarray:
    """Returns uint8 (H, W, 3), the rendered picture as a camera would have taken it."""
    rgb = expose(rng, rendered.rgb)
    height, width = rgb.shape[:2]
    scale = width / REFERENCE_WIDTH_PX
    rgb *= _vignette(rng, height, width)[:, :, None]
    if rng.random() < 0.6:
        rgb = _glare(rng, rgb)
    if rng.random() < 0.06:
        rgb = _motion_blur(rng, rgb)
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
        # Cameras sharpen their pictures, and so does scaling down.
        image = image + np.float32(rng.uniform(0.2, 0.9)) * (image - cv2.GaussianBlur(image, (3, 3), 0))
    bytes_ = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        done, code = cv2.imencode(".jpg", bytes_, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
        if done:
            bytes_ = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return bytes_


def photographs(camera: Intrinsics, count: int) -> Iterator[np.ndarray]:
    """Yields uint8 (H, W, 3) photographs of random scenes, the same for the same camera."""
    for number in range(count):
        rng = np.random.default_rng([PHOTOGRAPH_STREAM, number])
        yield photograph(rng, render(*sample_scene_and_pose(rng), camera))
