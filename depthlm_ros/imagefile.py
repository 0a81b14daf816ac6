"""Image files, in and out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.errors import BadImage


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3), red first; grey becomes rgb, alpha is dropped.

    An orientation tag is ignored: intrinsics and labels are about the pixels as they are stored.
    Raises BadImage if the file is missing or is no image.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    try:
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if encoded.size else None
    except cv2.error as exc:  # a header that promises more pixels than OpenCV takes
        raise BadImage(f"{path}: cannot be decoded ({exc.err}): give a PNG or JPEG file of a usual size.") from exc
    if bgr is None:
        raise BadImage(f"{path}: {encoded.size} bytes that are no image: give a PNG or JPEG file.")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    """Write uint8 (H, W, 3), red first; the suffix of the path chooses the format.

    Raises BadImage for a suffix that names no image format, OSError where the file cannot be written.
    """
    try:
        encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    except cv2.error as exc:
        raise BadImage(
            f"{path}: '{path.suffix}' is no image format that can be written: end the name in .png or .jpg."
        ) from exc
    path.write_bytes(encoded.tobytes())
