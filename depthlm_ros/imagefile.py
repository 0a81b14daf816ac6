"""Image files, in and out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.errors import BadImage

# JPEG: start and end of the file, and the start of a scan, before which a thumbnail may have ended. No scan holds the
# end marker by chance: its bytes 0xff are followed by 0x00 (ITU-T T.81, B.1.1.5).
_JPEG_START, _JPEG_END, _JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
# PNG: the last chunk's name and its checksum, the same in every file.
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"


def cut_short(encoded: np.ndarray) -> bool:
    """Whether a JPEG or PNG (uint8 (N,), the bytes of the file) has lost its end: decoders fill the rest with pixels
    that nobody saw. What a camera appends after the end does no harm. Other formats: False."""
    data = encoded.tobytes()
    if data.startswith(_JPEG_START):
        return data.find(_JPEG_END, max(data.find(_JPEG_SCAN), 0)) < 0
    return data.startswith(_PNG_START) and _PNG_END not in data


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as uint8 (H, W, 3), red first; grey becomes rgb, alpha is dropped.

    An orientation tag is ignored: intrinsics and labels are about the pixels as they are stored.
    Raises BadImage if the file is missing, is no image, or was cut short.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise BadImage(f"{path}: cannot be read ({exc.strerror}): give the path of an image file.") from exc
    if cut_short(encoded):
        raise BadImage(
            f"{path}: ends after {encoded.size} bytes without its end marker: it was cut short; copy it again."
        )
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
