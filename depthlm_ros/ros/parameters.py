# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: one frozen dataclass that also says how each is declared and which values it takes.

config/depthlm.param.yaml holds the same names and defaults.

Public names: Parameters, BadParameter, declare_parameters, updated_parameters, parameter_name, check_mode,
with_declared_types, check_changeable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import Field, dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from depthlm_ros.errors import SetupError
from depthlm_ros.model import BACKEND_CHOICES, Model

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor
    from rclpy.node import Node
    from rclpy.parameter import Parameter

DENSE, SPARSE, QUESTIONS = "dense", "sparse", "questions"
MODES = (DENSE, SPARSE, QUESTIONS)
BEST_EFFORT, RELIABLE = "best_effort", "reliable"
OFF, WARN, CORRECT = "off", "warn", "correct"
SCALE_MODES = (OFF, WARN, CORRECT)
MAX_TIMEOUT_S = 600.0
MAX_DEPTH_M = 1000.0
# Smaller voxels would hold one point each; and more of them do not fit into the numbers of geometry/voxels.py.
MIN_VOXEL_M = 0.005
# The parameters of the compressed depth have the names that compressed_depth_image_transport gives its own.
COMPRESSED_DEPTH = "depth.image.compressedDepth"

DefaultT = TypeVar("DefaultT")


class BadParameter(SetupError, ValueError):
    """A parameter has a value that cannot be used."""


def _declared(
    default: DefaultT,
    text: str,
    choices: tuple[str, ...] = (),
    limits: tuple[float, float] | None = None,
    read_only: bool = True,
    ros_name: str = "",
    unconfigured_only: bool = False,
) -> DefaultT:
    """Returns a field with the facts for its declaration. limits: smallest and largest value, both allowed.

    ros_name: the parameter's name if it is not that of the field. read_only: fixed at the start. unconfigured_only: can
    also be set later, but only while the node is unconfigured; read_only is not asked for then.
    """
    facts = {
        "text": text,
        "choices": choices,
        "limits": limits,
        "read_only": read_only and not unconfigured_only,
        "unconfigured_only": unconfigured_only,
        "ros_name": ros_name,
    }
    return cast(DefaultT, dataclasses.field(default=default, metadata=facts))


@dataclass(frozen=True)
class Parameters:
    """The values. Raises BadParameter that names the parameter, its value and what is allowed."""

    model: str = _declared(
        "tiny",
        "The model: a name (`depthlm models` lists them), NAME=FOLDER for the weights in a folder, the folder of an "
        "exported model or of a checkpoint, or a hub id (ORG/REPO) that was downloaded before. The node downloads "
        "nothing.",
        unconfigured_only=True,
    )
    backend: str = _declared(
        BACKEND_CHOICES[0],
        "What runs the model. onnxruntime: exported models, on CPU or GPU. tensorrt: the same models as plans that "
        "were built on this machine (depthlm engine build). torch: checkpoints. auto: tensorrt if plans lie beside the "
        "exported model, else onnxruntime; torch for a checkpoint.",
        choices=BACKEND_CHOICES,
        unconfigured_only=True,
    )
    device: str = _declared(
        "",
        "Where the model runs: cpu, cuda or cuda:N (tensorrt: cuda or cuda:N), or openvino (onnxruntime: the CPU, by "
        "OpenVINO). Empty: the first GPU if the backend can use one, else the CPU.",
        unconfigured_only=True,
    )
    rebuild_engine: bool = _declared(
        False,
        "True: if plans for backend tensorrt are missing or were not built for this machine, the node builds them when "
        "it is configured, which may take many minutes. False: configuring fails and names the command for the build.",
        unconfigured_only=True,
    )
    num_threads: int = _declared(
        0, "CPU threads of the backend; 0: all cores.", limits=(0, 1024), unconfigured_only=True
    )
    mode: str = _declared(
        "dense",
        "dense: depth for every pixel (depth/image, depth/points). sparse: a grid of points that the model is asked "
        "for in words, with standard deviations (depth/sparse). questions: nothing is published; the services answer.",
        choices=MODES,
        unconfigured_only=True,
    )
    image_transport: str = _declared(
        "raw",
        "raw: `image` is sensor_msgs/Image. compressed: `image`/compressed is sensor_msgs/CompressedImage.",
        choices=("raw", "compressed"),
    )
    rectified_input: bool = _declared(
        False,
        "True: `image` is rectified already, so that P of camera_info describes it. False: it is raw, so that K and D "
        "describe it.",
        unconfigured_only=True,
    )
    strict_frame_ids: bool = _declared(
        False,
        "True: an image is refused if its frame_id is not the one of camera_info. False: if only one publisher sends "
        "camera_info, it is used all the same, with one warning.",
        unconfigured_only=True,
    )
    image_bit_depth: int = _declared(
        16,
        "How many bits of the 16 hold the picture in images of 16 bits: 10 or 12 for sensors that leave the upper bits "
        "empty.",
        limits=(8, 16),
        unconfigured_only=True,
    )
    adapt_reliability: bool = _declared(
        True,
        "True: if best effort loses many images and the camera offers reliable delivery, the node asks for that, "
        "unless qos_overrides set the reliability. False: the node keeps to best effort.",
        unconfigured_only=True,
    )
    qos_reliability: str = _declared(
        BEST_EFFORT,
        "What the subscriptions to image and camera_info ask for: best_effort, which every camera offers, or reliable.",
        choices=(BEST_EFFORT, RELIABLE),
        unconfigured_only=True,
    )
    qos_durability: str = _declared(
        "volatile",
        "What the subscriptions to image and camera_info ask for: volatile, or transient_local to also get what was "
        "published before. A camera_info of a transient_local publisher arrives in any case.",
        choices=("volatile", "transient_local"),
        unconfigured_only=True,
    )
    depth_encoding: str = _declared(
        "32FC1",
        "Encoding of depth/image: 32FC1 in metres, NaN = unknown; or 16UC1 in millimetres, 0 = unknown.",
        choices=("32FC1", "16UC1"),
        unconfigured_only=True,
    )
    min_depth_m: float = _declared(
        0.0,
        "Nearer depths are -Inf in depth/image and NaN in clouds (REP 117). Metres.",
        limits=(0.0, MAX_DEPTH_M),
        read_only=False,
    )
    max_depth_m: float = _declared(
        100.0,
        "Farther depths are +Inf in depth/image and NaN in clouds (REP 117). Metres.",
        limits=(0.01, MAX_DEPTH_M),
        read_only=False,
    )
    cloud_stride: int = _declared(
        1, "depth/points holds every n-th pixel of every n-th row.", limits=(1, 64), read_only=False
    )
    cloud_voxel_m: float = _declared(
        0.0,
        "Side of a voxel: depth/points then holds the mean of the points in each voxel, in no order (height 1) and "
        "without unknown points. 0: all points, in the order of the image. Metres.",
        limits=(0.0, 10.0),
        read_only=False,
    )
    compressed_max_m: float = _declared(
        100.0,
        "Farther depths are unknown in depth/image/compressedDepth. Metres.",
        limits=(1.0, 100.0),
        read_only=False,
        ros_name=COMPRESSED_DEPTH + ".depth_max",
    )
    compressed_quantization: float = _declared(
        100.0,
        "Depth at which one step of depth/image/compressedDepth is 1 m, if depth_encoding is 32FC1: at depth z a step "
        "is about (z / depth_quantization)^2. Larger values are finer, but depths below about "
        "depth_quantization^2 / 65535 are unknown. Metres.",
        limits=(1.0, 150.0),
        read_only=False,
        ros_name=COMPRESSED_DEPTH + ".depth_quantization",
    )
    compressed_png_level: int = _declared(
        1,
        "Effort of the PNG compression of depth/image/compressedDepth: 0 none and largest, 9 slowest and smallest.",
        limits=(0, 9),
        read_only=False,
        ros_name=COMPRESSED_DEPTH + ".png_level",
    )
    mask_file: str = _declared(
        "",
        "Picture (PNG) of the size of `image` in which the robot's own body, as `image` shows it, is white on black: "
        "there depth is unknown. Empty: no mask. It can be set while the node is not active.",
        read_only=False,
    )
    max_rate_hz: float = _declared(
        0.0,
        "Most frames that are processed per second, so that others can use the processor too; of the frames between, "
        "only the newest waits. A question that needs a new image does not wait for its turn. 0: no limit.",
        limits=(0.0, 1000.0),
        read_only=False,
    )
    sparse_grid: tuple[int, ...] = _declared(
        (6, 8),
        "Rows and columns of the grid of points in mode sparse.",
        limits=(1, 64),
        unconfigured_only=True,
    )
    scale_mode: str = _declared(
        WARN,
        "What is done with the scale that the robot knows (camera_height_m, floor_frame, odom_frame, and the topics "
        "scale/range, scale/scan and scale/points). off: nothing. warn: one warning if depth is wrong by more than "
        "25 %. correct: depth, standard deviations and answers are multiplied by it.",
        choices=SCALE_MODES,
        read_only=False,
    )
    camera_height_m: float = _declared(
        0.0,
        "Height of the camera above the floor; 0: not known, or as floor_frame says. Metres.",
        limits=(0.0, MAX_DEPTH_M),
        read_only=False,
    )
    camera_pitch_deg: float = _declared(
        0.0,
        "How far below the horizon the camera looks, for camera_height_m without floor_frame. Degrees.",
        limits=(-90.0, 90.0),
        read_only=False,
    )
    floor_frame: str = _declared(
        "",
        "A frame of tf whose x-y plane is the floor, such as base_footprint: it tells the camera's height and tilt. "
        "Empty: none.",
    )
    odom_frame: str = _declared(
        "", "A frame of tf that stands still, such as odom: it tells how far the camera has moved. Empty: none."
    )
    query_timeout_s: float = _declared(
        10.0,
        "How long a question waits for its answer if its request does not say how long. Seconds.",
        limits=(0.05, MAX_TIMEOUT_S),
        read_only=False,
    )
    max_waiting_questions: int = _declared(
        8, "If more questions than this wait at the same time, the others are answered BUSY.", limits=(1, 64)
    )
    history_s: float = _declared(
        2.0,
        "How long earlier images (a few of them, at even intervals) are kept for match_pixels and relative_pose, if "
        "the model can do these; 0: none are kept. Seconds.",
        limits=(0.0, 60.0),
        unconfigured_only=True,
    )
    stale_after_s: float = _declared(
        2.0,
        "The node warns if no new image, or no camera_info, arrives for this long. Seconds.",
        limits=(0.1, 3600.0),
        read_only=False,
    )
    autostart: bool = _declared(
        True, "True: the node configures and activates itself. False: a lifecycle manager does that."
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.min_depth_m >= self.max_depth_m:
            raise BadParameter(
                f"parameter min_depth_m is {self.min_depth_m:g} and max_depth_m is {self.max_depth_m:g}: "
                "the smallest depth must be below the largest."
            )
        if 0 < self.cloud_voxel_m < MIN_VOXEL_M:
            raise BadParameter(
                f"parameter cloud_voxel_m is {self.cloud_voxel_m:g}: it must be 0 (no voxels) or at least "
                f"{MIN_VOXEL_M:g} m."
            )
        if len(self.sparse_grid) != 2:
            raise BadParameter(
                f"parameter sparse_grid is {list(self.sparse_grid)}: give two numbers, rows and columns."
            )


def _check(field: Field, value: object) -> None:
    choices, limits = field.metadata["choices"], field.metadata["limits"]
    if choices and value not in choices:
        raise BadParameter(f"parameter {parameter_name(field)} is {value!r}: it must be one of {', '.join(choices)}.")
    if isinstance(value, str) and not value.strip() and field.default:
        raise BadParameter(f"parameter {parameter_name(field)} is empty: {field.metadata['text']}")
    if limits is None:
        return
    for number in value if isinstance(value, tuple) else (value,):
        if not (math.isfinite(number) and limits[0] <= number <= limits[1]):
            raise BadParameter(
                f"parameter {parameter_name(field)} is {number}: it must be from {limits[0]:g} to {limits[1]:g}."
            )


def declare_parameters(node: Node) -> Parameters:
    """Declares every parameter on a node and returns their values. Raises BadParameter."""
    from rclpy.exceptions import (
        InvalidParameterTypeException,
        InvalidParameterValueException,
        ParameterUninitializedException,
    )

    values = {}
    for field in _fields():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        try:
            values[field.name] = _declare(node, field, default)
        except ParameterUninitializedException as error:
            raise BadParameter(f"parameter {parameter_name(field)} is empty: {field.metadata['text']}") from error
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise BadParameter(
                f"parameter {parameter_name(field)} cannot be used: {error}. {field.metadata['text']}"
            ) from error
    return Parameters(**{field.name: _as_field(field, values[field.name]) for field in _fields()})


def _declare(node: Node, field: Field, default: object) -> Any:
    """Declares one parameter and returns its value. A float that was given as a whole number becomes a float."""
    name, descriptor = parameter_name(field), _descriptor(field)
    descriptor.read_only = False  # else it could not be declared anew
    node.declare_parameter(name, default, descriptor)
    value: Any = node.get_parameter(name).value
    node.undeclare_parameter(name)
    typed = float(value) if isinstance(field.default, float) and type(value) is int else value
    return node.declare_parameter(name, typed, _descriptor(field), ignore_override=True).value


def with_declared_types(news: Iterable[Parameter]) -> list[Parameter]:
    """Returns parameters as they are to be set: a whole number for a float is a float.

    `ros2 param set NODE max_depth_m 20` sends an integer. Without this the parameter would be one from then on.
    """
    from rclpy.parameter import Parameter

    floats = {parameter_name(field) for field in _fields() if isinstance(field.default, float)}
    return [
        Parameter(new.name, value=float(new.value)) if new.name in floats and type(new.value) is int else new
        for new in news
    ]


def check_changeable(news: Iterable[Parameter], is_configured: bool) -> None:
    """Raises BadParameter for a parameter that cannot be set now, because a configured node has used it."""
    fixed = {parameter_name(field) for field in _fields() if field.metadata["unconfigured_only"]}
    names = [new.name for new in news if new.name in fixed]
    if is_configured and names:
        raise BadParameter(
            f"parameter {names[0]} can only be set while the node is unconfigured: deactivate it and clean it up first "
            "(ros2 lifecycle set NODE deactivate, then cleanup), and configure it afterwards."
        )


def updated_parameters(parameters: Parameters, news: Iterable[Parameter]) -> Parameters:
    """Returns the parameters with some values changed. Raises BadParameter.

    Parameters that are not the node's own, such as use_sim_time, are ignored.
    """
    fields = {parameter_name(field): field for field in _fields()}
    values = {fields[new.name].name: _as_field(fields[new.name], new.value) for new in news if new.name in fields}
    return dataclasses.replace(parameters, **values)


def parameter_name(field: Field) -> str:
    """Returns the name of the ROS parameter of a field."""
    return field.metadata["ros_name"] or field.name


def check_mode(model: Model, mode: str) -> None:
    """Raises SetupError if a model cannot give what the mode publishes; the message names a mode that it can."""
    tells_depth = "points" in model.family.abilities
    if mode == DENSE and not model.spec.head:
        possible, why = (SPARSE, "tells depth only in words") if tells_depth else (QUESTIONS, "tells no depth")
    elif mode == SPARSE and not tells_depth:
        possible, why = (DENSE, "tells no depth in words") if model.spec.head else (QUESTIONS, "tells no depth")
    else:
        return
    raise SetupError(
        f"model {model.name} {why}, so that mode {mode} is impossible with it: set parameter mode to {possible} "
        f"(`mode: {possible}`), or use another model, such as depthvlm-4b."
    )


def _fields() -> tuple[Field, ...]:
    return dataclasses.fields(Parameters)


def _as_field(field: Field, value: Any) -> Any:
    """Returns a parameter's value in the type of its field. A float may be written as a whole number."""
    field_type = type(field.default)
    if value is False and OFF in field.metadata["choices"]:
        return OFF  # what YAML makes of the word off
    if field_type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if field_type is tuple and value is not None and all(isinstance(number, int) for number in value):
        return tuple(value)
    if not isinstance(value, field_type):
        raise BadParameter(f"parameter {parameter_name(field)} is {value!r}: it must be of type {field_type.__name__}.")
    return value


def _descriptor(field: Field) -> ParameterDescriptor:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    facts = field.metadata
    descriptor = ParameterDescriptor(description=facts["text"], read_only=facts["read_only"])
    if facts["choices"]:
        descriptor.additional_constraints = "One of: " + ", ".join(facts["choices"])
    # `max_depth_m: 50` is an integer to ROS, which would refuse it for a parameter of the static type double.
    # So is `scale_mode: off` a boolean, since YAML takes the word for one.
    descriptor.dynamic_typing = isinstance(field.default, float) or OFF in facts["choices"]
    if facts["limits"] and isinstance(field.default, float):
        low, high = facts["limits"]
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif facts["limits"] and isinstance(field.default, int):
        low, high = facts["limits"]
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return descriptor
