"""What a real camera does to light: exposure, white balance, vignetting, blur, noise, tone curve, JPEG."""

from __future__ import annotations

import math

import cv2
import numpy as np

from depthlm_ros.scenes.render import Rendered


def expose(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Linear light to linear sensor values: metered exposure with an error of about half a stop."""
    grey = rgb.mean(axis=2)
    level = 0.6 * float(np.median(grey)) + 0.4 * float(np.minimum(grey, 4 * np.median(grey)).mean()) + 1e-4
    gain = 0.20 / level * 2.0 ** rng.normal(0, 0.5)
    balance = np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    return rgb * (np.float32(gain) * balance)


def _vignette(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-height / width, height / width, height, dtype=np.float32)[:, None]
    return 1.0 - np.float32(rng.uniform(0.0, 0.2)) * (x * x + y * y)


def _tone(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """A shoulder for the highlights, then roughly sRGB's curve."""
    knee = np.float32(rng.uniform(0.6, 0.9))
    over = np.maximum(linear - knee, 0)
    soft = np.minimum(linear, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
    return np.power(np.clip(soft, 0, 1), np.float32(1 / rng.uniform(2.0, 2.4)))


def photograph(rng: np.random.Generator, rendered: Rendered) -> np.ndarray:
    """uint8 (H, W, 3) as a camera would have taken it; the rendered colours are not changed."""
    rgb = expose(rng, rendered.rgb)
    height, width = rgb.shape[:2]
    rgb = rgb * _vignette(rng, height, width)[:, :, None]
    if rng.random() < 0.3:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.2, 0.6) * math.sqrt(width / 128))
    shot, read = rng.uniform(0.0, 0.03), rng.uniform(0.0, 0.008)
    noise = rng.standard_normal(rgb.shape, dtype=np.float32)
    rgb = rgb + noise * np.sqrt(np.float32(read**2) + np.float32(shot**2) * np.maximum(rgb, 0))
    image = _tone(rng, rgb)
    if rng.random() < 0.3:
        grey = image.mean(axis=2, keepdims=True)
        image = grey + (image - grey) * np.float32(rng.uniform(0.6, 1.2))
    bytes_ = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        done, code = cv2.imencode(".jpg", bytes_, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
        if done:
            bytes_ = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return bytes_
