# SPDX-License-Identifier: Apache-2.0
"""The mask of the robot's own body in the camera's image: where it is, no depth of the world can be known.

The mask belongs to the image as the camera delivers it, and is rectified with it. Its pixels then count as those that
the camera did not see: depth, deviations and clouds are NaN there, and no answer measures there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.errors import BadInput
from depthlm_ros.geometry.rectify import Rectifier
from depthlm_ros.image_io import is_truncated, read_bytes
from depthlm_ros.ros.parameters import BadParameter

# A pixel at least so bright shows the body; the edges of a drawn shape, and of a JPEG's, are grey.
WHITE = 0.5


@dataclass(frozen=True, eq=False)
class BodyMask:
    """body: uint8 (H, W), 255 where the delivered image shows the robot itself, else 0. path: where it was read."""

    body: np.ndarray
    path: Path

    @property
    def share(self) -> float:
        """The share of the image that the body covers, 0 to 1."""
        return float(np.count_nonzero(self.body)) / self.body.size

    def seen(self, rectifier: Rectifier) -> np.ndarray:
        """Returns bool (H, W): pixels of the rectified image that show something, but not the body.

        Raises BadInput if the images of this camera have another size than the mask.
        """
        size_px, (height, width) = rectifier.model.delivered_size_px, self.body.shape
        if size_px != (width, height):
            raise BadInput(
                f"mask_file {self.path} is {width} x {height} but the images are {size_px[0]} x {size_px[1]}: draw it "
                "on an image of this camera, and set parameter mask_file again while the node is not active."
            )
        seen = rectifier.rectify(self.body) == 0  # any share of a pixel of the body, and the border, is left out
        return seen if rectifier.valid is None else seen & rectifier.valid


def read_body_mask(path: str) -> BodyMask | None:
    """Reads a picture with the body in white. Returns None for an empty path.

    Raises BadParameter if the file cannot be read, or if all of it or nothing is white.
    """
    if not path:
        return None
    fault = f"parameter mask_file is {path!r}"
    file = Path(path).expanduser()
    try:
        encoded = read_bytes(file)
    except OSError as error:
        raise BadParameter(f"{fault}: it cannot be read ({error.strerror}); give the path of a PNG file.") from error
    pixels = None if not encoded.size or is_truncated(encoded) else _decoded(encoded)
    if pixels is None:
        raise BadParameter(f"{fault}: its {encoded.size} bytes are no complete picture; give a PNG file.")
    is_body = _is_white(pixels)
    if not is_body.any() or is_body.all():
        amount = "every pixel" if is_body.all() else "no pixel"
        raise BadParameter(
            f"{fault}: {amount} of it is white; draw the robot's body in white (255) on black (0), in the size of the "
            "camera's images."
        )
    return BodyMask(is_body.astype(np.uint8) * 255, file)


def _decoded(encoded: np.ndarray) -> np.ndarray | None:
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        return None
    return pixels if pixels is not None and pixels.dtype.kind == "u" else None  # a TIFF may hold floats


def _is_white(pixels: np.ndarray) -> np.ndarray:
    """bool (H, W): bright pixels that are not transparent. pixels: (H, W) or (H, W, 3 or 4) of any unsigned type."""
    least = WHITE * np.iinfo(pixels.dtype).max
    if pixels.ndim == 2:
        return pixels >= least
    is_white = pixels[..., :3].max(axis=-1) >= least
    return is_white & (pixels[..., 3] >= least) if pixels.shape[2] == 4 else is_white
