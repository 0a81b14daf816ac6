# SPDX-License-Identifier: Apache-2.0
"""Reads and writes depth maps: 16-bit images, .npy files, and the special formats of ETH3D and SUN RGB-D.

`read_depth` and `read_z` read a depth map, `write_depth` writes one. Unknown depth is NaN. Depths that a file cannot
hold become unknown; they are never clipped.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.data.records import RAW_FLOAT32, ROTATED_16, DepthFile, Record, resize_intrinsics, z_from_depth
from depthlm_ros.errors import BadImage
from depthlm_ros.image_io import check_size, image_size, is_truncated

MAX_UINT16 = 65535


class BadDepthMap(BadImage):
    """A depth map or a mask that cannot be used."""


def read_depth(file: DepthFile) -> np.ndarray:
    """Returns float32 (h, w): metres of the file's own depth type, NaN where unknown, masked or beyond the limits.

    Raises BadDepthMap if the map or a mask cannot be read, or if the map has not the size that the record states.
    """
    return mask_unknown(file, read_stored_depth(file))


def read_stored_depth(file: DepthFile) -> np.ndarray:
    """Returns float32 (h, w): the values of the file in metres, unchecked. Raises BadDepthMap as `read_depth` does."""
    depth_m = _read_values(file).astype(np.float32) / np.float32(file.scale)
    height, width = depth_m.shape
    if file.size_px and file.size_px != (width, height):
        raise BadDepthMap(
            f"{file.path}: the depth map is {width} x {height}, its record says {file.size_px[0]} x {file.size_px[1]}."
        )
    return depth_m


def mask_unknown(file: DepthFile, depth_m: np.ndarray) -> np.ndarray:
    """Returns float32 (h, w): the depth where it is known, else NaN.

    Depth is known where it is positive, within the limits of the file and inside its masks. Raises BadDepthMap if a
    mask cannot be read.
    """
    near_m, far_m = file.caps_m
    with np.errstate(invalid="ignore"):
        known = np.isfinite(depth_m) & (depth_m > 0) & (depth_m >= near_m) & (depth_m <= far_m)
    for mask in file.masks:
        known &= _read_mask(mask, depth_m.shape)
    return np.where(known, depth_m, np.float32(np.nan))


def read_z(record: Record) -> np.ndarray:
    """Returns float32 (h, w): the record's depth map along the optical axis, metres, NaN unknown.

    Raises BadDepthMap as `read_depth` does, ValueError if the record has no depth map.
    """
    if record.depth is None:
        raise ValueError(f"{record.where}: the record has no depth map.")
    depth_m = read_depth(record.depth)
    height, width = depth_m.shape
    camera = resize_intrinsics(record.intrinsics, (width, height))
    uv_px = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    return z_from_depth(record.depth_type, depth_m.ravel(), uv_px, camera).reshape(height, width).astype(np.float32)


def write_depth(path: Path, depth_m: np.ndarray, scale: float) -> None:
    """Writes metres (h, w) as a 16-bit PNG, as `encode_depth` does."""
    path.write_bytes(encode_depth(depth_m, scale))


def encode_depth(depth_m: np.ndarray, scale: float) -> bytes:
    """Returns metres (h, w) as a 16-bit PNG of round(metres * scale). NaN and what does not fit become 0 (unknown).

    So does the largest number of 16 bits, which is read as unknown.
    """
    values = np.nan_to_num(np.rint(np.asarray(depth_m, np.float64) * scale), nan=0.0, posinf=0.0, neginf=0.0)
    values[(values < 0) | (values >= MAX_UINT16)] = 0
    return bytes(cv2.imencode(".png", values.astype(np.uint16))[1].tobytes())


def read_depth_size(file: DepthFile) -> tuple[int, int] | None:
    """Returns (width, height) of a depth map without reading its values; None for a raw file, which has no header."""
    if file.format == RAW_FLOAT32:
        return None
    if file.path.suffix == ".npy":
        shape = _map_npy(file.path).shape
        return (shape[1], shape[0]) if len(shape) == 2 else None
    return image_size(file.path)


def _read_values(file: DepthFile) -> np.ndarray:
    """Returns the stored numbers, (h, w)."""
    if file.format == RAW_FLOAT32:
        return _read_raw(file)
    values = np.asarray(_map_npy(file.path)) if file.path.suffix == ".npy" else _read_image(file.path)
    if values.ndim != 2:
        raise BadDepthMap(f"{file.path}: the depth map has shape {values.shape}: expected one channel.")
    if values.dtype == np.uint8 and file.scale > np.iinfo(np.uint8).max:
        raise BadDepthMap(
            f"{file.path}: the depth map has 8 bits, whose largest depth would be {255 / file.scale:.2g} m: it is a "
            "picture of a depth map; give the map itself, in 16 bits."
        )
    if file.format == ROTATED_16:
        values = unrotate_bits(values)
    elif file.format:
        raise BadDepthMap(
            f"{file.path}: depth_format '{file.format}' is unknown: expected {RAW_FLOAT32} or {ROTATED_16}."
        )
    if values.dtype == np.uint16:  # the largest number is what sensors write for depth that they cannot tell
        values = np.where(values == MAX_UINT16, np.uint16(0), values)
    return values


def unrotate_bits(values: np.ndarray) -> np.ndarray:
    """Returns uint16 millimetres of the values of SUN RGB-D's PNG files.

    The toolbox of the data set computes depth = (v >> 3) | (v << 13) in 16 bits. DepthVLM divides by 8000 instead,
    which is the same only up to 8.191 m, where the rotated bits are still zero.
    """
    values = values.astype(np.uint16)
    return (values >> np.uint16(3)) | (values << np.uint16(13))


def _read_raw(file: DepthFile) -> np.ndarray:
    if file.size_px is None:
        raise BadDepthMap(f"{file.path}: a raw depth map does not state its size: give original_depth_size.")
    width, height = file.size_px
    values = _read_bytes(file.path)
    if values.size != 4 * width * height:
        raise BadDepthMap(f"{file.path}: {values.size} bytes are not {width} x {height} float32 values.")
    return values.view("<f4").reshape(height, width)


def _read_image(path: Path) -> np.ndarray:
    encoded = _read_bytes(path)
    check_size(encoded, str(path))
    if is_truncated(encoded):
        raise BadDepthMap(
            f"{path}: the depth map was cut short: it ends after {encoded.size} bytes without its end marker."
        )
    try:
        values = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        raise BadDepthMap(f"{path}: the depth map is damaged: it cannot be decoded ({exc.err}).") from exc
    if values is None:
        raise BadDepthMap(f"{path}: the depth map is damaged: it is not an image.")
    return values


def _read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Returns bool of this shape: where the mask allows depth. The mask itself may have another size."""
    mask = _read_image(path)
    mask = mask[..., 0] if mask.ndim == 3 else mask
    if mask.shape != shape:
        mask = cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return mask > 0


def _map_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise BadDepthMap(f"{path}: not a .npy file ({exc}).") from exc


def _read_bytes(path: Path) -> np.ndarray:
    try:
        values = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise BadDepthMap(f"{path}: cannot be read ({exc.strerror}).") from exc
    if values.size == 0:
        raise BadDepthMap(f"{path}: the file is empty.")
    return values
