"""Depth maps, in and out: pictures of 16 bit, .npy, and the two odd formats of public data sets.

Unknown is NaN here. Values that a file cannot hold become unknown, never the largest that it can.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.data.records import RAW_FLOAT32, ROTATED_16, DepthFile, Record, resized, z_of
from depthlm_ros.errors import BadImage
from depthlm_ros.image_io import cut_short, image_size

MOST_16 = 65535


class BadDepthMap(BadImage):
    """A depth map or a mask that cannot be used."""


def read_depth(file: DepthFile) -> np.ndarray:
    """float32 (h, w), metres as the file means them, NaN where they are unknown, not trusted or beyond the caps.

    Raises BadDepthMap if the map or a mask cannot be read or has not the size that the record says.
    """
    return believed(file, stored_depth(file))


def stored_depth(file: DepthFile) -> np.ndarray:
    """float32 (h, w): metres as they stand in the file, whatever they are. Raises BadDepthMap as `read_depth` does."""
    depth_m = _values(file).astype(np.float32) / np.float32(file.scale)
    height, width = depth_m.shape
    if file.size_px and file.size_px != (width, height):
        raise BadDepthMap(
            f"{file.path}: depth map is {width} x {height}, its record says {file.size_px[0]} x {file.size_px[1]}."
        )
    return depth_m


def believed(file: DepthFile, depth_m: np.ndarray) -> np.ndarray:
    """float32 (h, w): what of a file's stored depth is known: positive, within the caps and the masks; else NaN.

    Raises BadDepthMap if a mask cannot be read.
    """
    near_m, far_m = file.caps_m
    with np.errstate(invalid="ignore"):
        known = np.isfinite(depth_m) & (depth_m > 0) & (depth_m >= near_m) & (depth_m <= far_m)
    for mask in file.masks:
        known &= _mask(mask, depth_m.shape)
    return np.where(known, depth_m, np.float32(np.nan))


def read_z(record: Record) -> np.ndarray:
    """float32 (h, w): the record's depth map along the optical axis, metres, NaN unknown.

    Raises BadDepthMap as `read_depth` does, ValueError if the record has no depth map.
    """
    if record.depth is None:
        raise ValueError(f"{record.where}: the record has no depth map.")
    depth_m = read_depth(record.depth)
    height, width = depth_m.shape
    camera = resized(record.intrinsics, (width, height))
    uv_px = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    return z_of(record.depth_type, depth_m.ravel(), uv_px, camera).reshape(height, width).astype(np.float32)


def write_depth(path: Path, depth_m: np.ndarray, scale: float) -> None:
    """Write metres (h, w) as a 16-bit PNG of round(metres * scale); NaN and what does not fit become 0, unknown."""
    values = np.nan_to_num(np.rint(np.asarray(depth_m, np.float64) * scale), nan=0.0, posinf=0.0, neginf=0.0)
    values[(values < 0) | (values > MOST_16)] = 0
    path.write_bytes(cv2.imencode(".png", values.astype(np.uint16))[1].tobytes())


def depth_size(file: DepthFile) -> tuple[int, int] | None:
    """(width, height) of a depth map without reading its values, None for a raw file, which does not say."""
    if file.format == RAW_FLOAT32:
        return None
    if file.path.suffix == ".npy":
        shape = _mapped(file.path).shape
        return (shape[1], shape[0]) if len(shape) == 2 else None
    return image_size(file.path)


def _values(file: DepthFile) -> np.ndarray:
    """The stored numbers, (h, w)."""
    if file.format == RAW_FLOAT32:
        return _raw(file)
    values = np.asarray(_mapped(file.path)) if file.path.suffix == ".npy" else _picture(file.path)
    if values.ndim != 2:
        raise BadDepthMap(f"{file.path}: a depth map of shape {values.shape}: expected one channel.")
    if file.format == ROTATED_16:
        values = unrotated(values)
    elif file.format:
        raise BadDepthMap(
            f"{file.path}: depth_format '{file.format}' is unknown: expected {RAW_FLOAT32} or {ROTATED_16}."
        )
    return values


def unrotated(values: np.ndarray) -> np.ndarray:
    """uint16 millimetres from SUN RGB-D's PNG: the toolbox's depth = (v >> 3) | (v << 13), in 16 bits.

    Dividing by 8000 instead, as DepthVLM does, is the same only up to 8.191 m, where the rotated bits are still zero.
    """
    values = values.astype(np.uint16)
    return (values >> np.uint16(3)) | (values << np.uint16(13))


def _raw(file: DepthFile) -> np.ndarray:
    if file.size_px is None:
        raise BadDepthMap(f"{file.path}: a raw depth map does not say its size: give original_depth_size.")
    width, height = file.size_px
    values = _bytes(file.path).view(np.uint8)
    if values.size != 4 * width * height:
        raise BadDepthMap(f"{file.path}: {values.size} bytes are not {width} x {height} float32 values.")
    return values.view("<f4").reshape(height, width)


def _picture(path: Path) -> np.ndarray:
    encoded = _bytes(path)
    if cut_short(encoded):
        raise BadDepthMap(
            f"{path}: ends after {encoded.size} bytes without its end marker: the depth map was cut short."
        )
    try:
        values = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        raise BadDepthMap(f"{path}: cannot be decoded ({exc.err}): the depth map is damaged.") from exc
    if values is None:
        raise BadDepthMap(f"{path}: is no picture: the depth map is damaged.")
    return values


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """bool, this shape: where a mask lets depth count; it may be of another size."""
    mask = _picture(path)
    mask = mask[..., 0] if mask.ndim == 3 else mask
    if mask.shape != shape:
        mask = cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return mask > 0


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise BadDepthMap(f"{path}: is no .npy file ({exc}).") from exc


def _bytes(path: Path) -> np.ndarray:
    try:
        values = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise BadDepthMap(f"{path}: cannot be read ({exc.strerror}).") from exc
    if values.size == 0:
        raise BadDepthMap(f"{path}: the file is empty.")
    return values
