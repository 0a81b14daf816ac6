# SPDX-License-Identifier: Apache-2.0
"""Reads a camera from a file: a ROS or OpenCV camera calibration, or a CameraInfo as `ros2 topic echo` prints it.

Calibration: image_width, image_height, camera_name, camera_matrix, distortion_model, distortion_coefficients,
rectification_matrix and projection_matrix, each matrix with rows, cols and data (the YAML of
camera_calibration_parsers, which camera_info_manager and the calibrators write). `camera_model: fisheye`, which some
calibrators write, is an equidistant lens.
OpenCV: the same fields without a distortion model, in the YAML of cv::FileStorage ("%YAML:1.0", "!!opencv-matrix").
`fisheye_model: 1`, or `use_fisheye_model: 1`, is an equidistant lens.
Echo: width, height, distortion_model, d, k, r, p, binning_x, binning_y and roi (`ros2 topic echo --once`; capital
letters D, K, R, P as in ROS 1 are read too). Of several messages the first is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from depthlm_ros.errors import BadIntrinsics
from depthlm_ros.geometry.camera_model import COEFFICIENT_COUNTS, CameraModel, Roi

_MATRICES = {
    "camera_matrix": (3, 3),
    "distortion_coefficients": None,
    "rectification_matrix": (3, 3),
    "projection_matrix": (3, 4),
}
# Names that OpenCV's samples and users give to the fields, without capital letters and "_".
_OPENCV_NAMES = {
    "cameramatrix": "camera_matrix",
    "distortioncoefficients": "distortion_coefficients",
    "distcoeffs": "distortion_coefficients",
    "imagewidth": "image_width",
    "imageheight": "image_height",
}
_PINHOLE_NAMES, _FISHEYE_NAMES = ("", "pinhole", "perspective"), ("fisheye", "equidistant", "kannala_brandt")
_FISHEYE_FLAGS = ("fisheye_model", "use_fisheye_model")
_OPENCV_START = "%YAML:"
_FORMS = (
    "expected a camera calibration (image_width, image_height, camera_matrix, ...) or what "
    "`ros2 topic echo --once /camera/camera_info` prints (width, height, k, ...)."
)


def read_camera(path: Path) -> CameraModel:
    """Returns the camera in a YAML file; its `rectified_intrinsics` are those of the rectified image.

    Raises BadIntrinsics naming the file, the field and its value.
    """
    try:
        return _camera_from_text(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadIntrinsics(f"cannot read the camera file {path}: {exc.strerror}.") from exc
    except (ValueError, RecursionError, yaml.YAMLError) as exc:  # ValueError: not UTF-8, or a number of 5,000 digits
        if isinstance(exc, BadIntrinsics):
            raise BadIntrinsics(f"camera file {path}: {exc}") from exc
        raise BadIntrinsics(f"camera file {path} is not YAML: {' '.join(str(exc).split())}.") from exc


class _Loader(yaml.SafeLoader):
    """Reads OpenCV's matrices as the mappings that they are."""


def _matrix_fields(loader: _Loader, node: yaml.MappingNode) -> dict:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix_fields)


def _camera_from_text(text: str) -> CameraModel:
    """Returns the camera in a file's content. Raises BadIntrinsics, or yaml.YAMLError for text that is not YAML."""
    if text.startswith(_OPENCV_START):
        text = text.partition("\n")[2]
    fields = next((document for document in yaml.load_all(text, _Loader) if document is not None), None)
    if not isinstance(fields, Mapping):
        raise BadIntrinsics(f"it contains {_short(fields)} instead of fields: {_FORMS}")
    fields = {_OPENCV_NAMES.get(str(name).lower().replace("_", ""), name): value for name, value in fields.items()}
    if "camera_matrix" in fields:
        return _from_calibration(fields)
    if "k" in fields or "K" in fields:
        return _from_message(fields)
    raise BadIntrinsics(f"it has the fields {_short(sorted(map(str, fields)))}: {_FORMS}")


def _from_calibration(fields: Mapping[str, object]) -> CameraModel:
    matrices = {name: _data(fields, name, shape) for name, shape in _MATRICES.items()}
    return CameraModel(
        width_px=_count(fields, "image_width"),
        height_px=_count(fields, "image_height"),
        distortion_model=_distortion_model(fields),
        d=tuple(matrices["distortion_coefficients"]),
        k=matrices["camera_matrix"],
        r=matrices["rectification_matrix"] or [0.0] * 9,
        p=matrices["projection_matrix"] or [0.0] * 12,
    )


def _data(fields: Mapping[str, object], name: str, shape: tuple[int, int] | None) -> list[float]:
    """Returns the numbers of a matrix {rows, cols, data}, row by row; [] if the file does not have it."""
    matrix = fields.get(name)
    if matrix is None:
        return []
    if not isinstance(matrix, Mapping) or "data" not in matrix:
        raise BadIntrinsics(f"{name} is {_short(matrix)}: expected rows, cols and data.")
    given = (_count(matrix, "rows"), _count(matrix, "cols")) if {"rows", "cols"} <= set(matrix) else shape
    values = _numbers(matrix["data"], f"{name}.data")
    if given is None:
        return values
    if given != (shape or given):
        raise BadIntrinsics(f"{name} is {given[0]} x {given[1]}: expected {' x '.join(map(str, shape or ()))}.")
    if given[0] * given[1] != len(values):
        raise BadIntrinsics(f"{name} has {len(values)} values in data: expected {given[0]} x {given[1]}.")
    return values


def _from_message(fields: Mapping[str, object]) -> CameraModel:
    def numbers(name: str) -> list[float]:
        return _numbers(fields.get(name, fields.get(name.upper(), ())), name)

    return CameraModel(
        width_px=_count(fields, "width"),
        height_px=_count(fields, "height"),
        distortion_model=_distortion_model(fields),
        d=tuple(numbers("d")),
        k=numbers("k"),
        r=numbers("r") or [0.0] * 9,
        p=numbers("p") or [0.0] * 12,
        binning_x=_count(fields, "binning_x", 0),
        binning_y=_count(fields, "binning_y", 0),
        roi=_roi(fields.get("roi") or {}),
    )


def _roi(fields: object) -> Roi:
    if not isinstance(fields, Mapping):
        raise BadIntrinsics(f"roi is {_short(fields)}: expected x_offset, y_offset, width and height.")
    x_px, y_px, width_px, height_px = (_count(fields, name, 0) for name in ("x_offset", "y_offset", "width", "height"))
    return Roi(x_px, y_px, width_px, height_px, bool(fields.get("do_rectify", False)))


def _distortion_model(fields: Mapping[str, object]) -> str:
    """Returns the name of the model.

    Files without this field are of OpenCV or old, and plumb_bob as in camera_calibration_parsers, or a fisheye's.
    """
    camera = str(fields.get("camera_model", "")).lower()
    is_fisheye = camera in _FISHEYE_NAMES or any(fields.get(flag) in (1, True) for flag in _FISHEYE_FLAGS)
    is_lens = camera in COEFFICIENT_COUNTS
    name = fields.get("distortion_model", "equidistant" if is_fisheye else camera if is_lens else _opencv_model(fields))
    if not isinstance(name, str):
        raise BadIntrinsics(f"distortion_model is {_short(name)}: expected a name such as plumb_bob.")
    if is_fisheye and name.lower() == "fisheye":
        return "equidistant"
    is_known = is_lens or camera in (*_PINHOLE_NAMES, *_FISHEYE_NAMES)
    if (is_fisheye and name != "equidistant") or not is_known:
        raise BadIntrinsics(
            f"camera_model is {_short(camera)}, but distortion_model is {name!r}: for a fisheye (OpenCV's, 4 "
            "coefficients) set distortion_model to equidistant; for another lens remove camera_model; and rectify the "
            "images of a lens that is neither."
        )
    return name


def _opencv_model(fields: Mapping[str, object]) -> str:
    """Returns the lens that OpenCV's calibrateCamera means by so many coefficients."""
    matrix = fields.get("distortion_coefficients", fields.get("d", fields.get("D")))
    values = matrix.get("data", ()) if isinstance(matrix, Mapping) else matrix
    return "rational_polynomial" if isinstance(values, list) and len(values) in (8, 12, 14) else "plumb_bob"


def _count(fields: Mapping[str, object], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadIntrinsics(f"{name} is {'missing' if value is None else _short(value)}: expected a whole number.")
    return value


def _numbers(values: object, name: str) -> list[float]:
    """Returns the floats of a list. They may be strings: C++ writes 1e-05, which YAML 1.1 reads as a string."""
    if not isinstance(values, (list, tuple)):
        raise BadIntrinsics(f"{name} is {_short(values)}: expected a list of numbers.")
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as exc:
        raise BadIntrinsics(f"{name} is {_short(values)}: expected numbers only ({exc}).") from exc


def _short(value: object) -> str:
    """Returns a value as text for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
