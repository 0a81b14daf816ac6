"""The node's parameters: one frozen dataclass that also says how each is declared, and its checks.

config/depthlm.param.yaml holds the same names and defaults.

What the node publishes, and which models can be published so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthlm_ros.backends.registry import AUTO, BACKENDS
from depthlm_ros.errors import SetupError
from depthlm_ros.families.registry import family_named
from depthlm_ros.model_files.spec import ModelSpec

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

DENSE, SPARSE, QUESTIONS = "dense", "sparse", "questions"
MODES = (DENSE, SPARSE, QUESTIONS)


def check_mode(spec: ModelSpec, mode: str) -> None:
    """Raises SetupError if a model cannot do what the mode publishes, naming the mode for it."""
    can_tell = "points" in family_named(spec.family).abilities
    if mode == DENSE and not spec.head:
        fitting, why = (SPARSE, "says depth only in words") if can_tell else (QUESTIONS, "tells no depth at all")
    elif mode == SPARSE and not can_tell:
        fitting, why = (DENSE, "says no depth in words") if spec.head else (QUESTIONS, "tells no depth at all")
    else:
        return
    raise SetupError(
        f"model {spec.name} {why}, so that mode {mode} is impossible with it: set parameter mode to {fitting} "
        f"(`mode: {fitting}`), or take another model, such as depthvlm-4b."
    )


LONGEST_WAIT_S = 600.0
FARTHEST_M = 1000.0


class BadParameter(SetupError, ValueError):
    """A parameter has a value that cannot be meant."""


def _declared(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    limits: tuple[float, float] | None = None,
    read_only: bool = True,
) -> Any:
    """A field and how it is declared. limits: least and greatest value, both allowed."""
    facts = {"text": text, "choices": choices, "limits": limits, "read_only": read_only}
    return dataclasses.field(default=default, metadata=facts)


@dataclass(frozen=True)
class Parameters:
    """Raises BadParameter, naming parameter, value and what is allowed."""

    model: str = _declared(
        "tiny",
        "The model: a name (`depthlm models` lists them), NAME=FOLDER for the weights in a folder, the folder of an "
        "exported model or of a checkpoint, or a hub id (ORG/REPO) that was downloaded before. Nothing is downloaded.",
    )
    backend: str = _declared(
        AUTO,
        "What runs the model. onnxruntime: exported models, on CPU or GPU. tensorrt: the same as plans that were built "
        "on this machine (depthlm engine build). torch: checkpoints. auto: tensorrt where plans lie beside what was "
        "exported, else onnxruntime; torch for a checkpoint.",
        choices=(AUTO, *BACKENDS),
    )
    device: str = _declared(
        "",
        "Where the model runs: cpu, cuda or cuda:N (tensorrt: cuda or cuda:N). Empty: the first GPU if the backend can "
        "use one, else the CPU.",
    )
    rebuild_engine: bool = _declared(
        False,
        "True: where backend tensorrt finds plans that are missing or were not built for this machine, configuring "
        "builds them first, which may take many minutes. False: it fails, and says which command builds them.",
    )
    num_threads: int = _declared(0, "CPU threads of the backend; 0: all cores.", limits=(0, 1024))
    mode: str = _declared(
        "dense",
        "dense: depth for every pixel (depth/image, depth/points). sparse: a grid of points that the model is asked "
        "for in words, with standard deviations (depth/sparse). questions: nothing is published, the services answer.",
        choices=MODES,
    )
    image_transport: str = _declared(
        "raw",
        "raw: `image` is sensor_msgs/Image. compressed: `image`/compressed is sensor_msgs/CompressedImage.",
        choices=("raw", "compressed"),
    )
    rectified_input: bool = _declared(
        False, "True: `image` is rectified already, so that P holds and K and D do not. False: it is raw."
    )
    adapt_reliability: bool = _declared(
        True,
        "True: where best effort loses many images and the camera offers reliable delivery, ask for that, unless "
        "qos_overrides set the reliability. False: keep to best effort.",
    )
    depth_encoding: str = _declared(
        "32FC1",
        "Encoding of depth/image: 32FC1 in metres, NaN = unknown; or 16UC1 in millimetres, 0 = unknown.",
        choices=("32FC1", "16UC1"),
    )
    min_depth_m: float = _declared(
        0.0,
        "Nearer depths are too near: -Inf in depth/image, NaN in clouds (REP 117). Metres.",
        limits=(0.0, FARTHEST_M),
        read_only=False,
    )
    max_depth_m: float = _declared(
        100.0,
        "Farther depths are nothing within range: +Inf in depth/image, NaN in clouds (REP 117). Metres.",
        limits=(0.01, FARTHEST_M),
        read_only=False,
    )
    cloud_stride: int = _declared(
        1, "depth/points holds every n-th pixel of every n-th row.", limits=(1, 64), read_only=False
    )
    sparse_grid: tuple[int, ...] = _declared(
        (6, 8), "Rows and columns of the grid of points in mode sparse.", limits=(1, 64)
    )
    query_timeout_s: float = _declared(
        10.0,
        "How long a question may wait for its answer if its request does not say. Seconds.",
        limits=(0.05, LONGEST_WAIT_S),
        read_only=False,
    )
    max_waiting_questions: int = _declared(
        8, "More questions than this that wait at the same time are answered BUSY.", limits=(1, 64)
    )
    history_s: float = _declared(
        2.0,
        "How long earlier images are kept (a few of them, evenly apart) for match_pixels and relative_pose, by models "
        "that can do these; 0: not at all. Seconds.",
        limits=(0.0, 60.0),
    )
    stale_after_s: float = _declared(
        2.0,
        "Without a new image, or without camera_info, for this long the node warns. Seconds.",
        limits=(0.1, 3600.0),
        read_only=False,
    )
    autostart: bool = _declared(
        True, "True: the node configures and activates itself. False: a lifecycle manager does."
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.min_depth_m >= self.max_depth_m:
            raise BadParameter(
                f"parameter min_depth_m is {self.min_depth_m:g} and max_depth_m is {self.max_depth_m:g}: "
                "the least depth must be below the greatest."
            )
        if len(self.sparse_grid) != 2:
            raise BadParameter(
                f"parameter sparse_grid is {list(self.sparse_grid)}: give two numbers, rows and columns."
            )


def _check(field: dataclasses.Field, value: Any) -> None:
    choices, limits = field.metadata["choices"], field.metadata["limits"]
    if choices and value not in choices:
        raise BadParameter(f"parameter {field.name} is {value!r}: it must be one of {', '.join(choices)}.")
    if isinstance(value, str) and not value.strip() and field.default:
        raise BadParameter(f"parameter {field.name} is empty: {field.metadata['text']}")
    if limits is None:
        return
    for number in value if isinstance(value, tuple) else (value,):
        if not (math.isfinite(number) and limits[0] <= number <= limits[1]):
            raise BadParameter(f"parameter {field.name} is {number}: it must be from {limits[0]:g} to {limits[1]:g}.")


def declare(node: Node) -> Parameters:
    """Declare every parameter on a node and return their values. Raises BadParameter."""
    from rclpy.exceptions import (
        InvalidParameterTypeException,
        InvalidParameterValueException,
        ParameterUninitializedException,
    )

    values = {}
    for field in _fields():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        try:
            node.declare_parameter(field.name, default, _descriptor(field))
            values[field.name] = node.get_parameter(field.name).value
        except ParameterUninitializedException as error:
            raise BadParameter(f"parameter {field.name} is empty: {field.metadata['text']}") from error
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise BadParameter(f"parameter {field.name} cannot be used: {error}. {field.metadata['text']}") from error
    return Parameters(**{field.name: _as_field(field, values[field.name]) for field in _fields()})


def changed(parameters: Parameters, news: Iterable[Parameter]) -> Parameters:
    """The parameters with some values changed; names of others, such as use_sim_time, pass. Raises BadParameter."""
    fields = {field.name: field for field in _fields()}
    values = {new.name: _as_field(fields[new.name], new.value) for new in news if new.name in fields}
    return dataclasses.replace(parameters, **values)


def _fields() -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(Parameters)


def _as_field(field: dataclasses.Field, value: Any) -> Any:
    """A parameter's value in the type of its field; whole numbers do for fractions, as people write them."""
    kind = type(field.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and value is not None and all(isinstance(number, int) for number in value):
        return tuple(value)
    if not isinstance(value, kind):
        raise BadParameter(f"parameter {field.name} is {value!r}: it must be of type {kind.__name__}.")
    return value


def _descriptor(field: dataclasses.Field) -> Any:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    facts = field.metadata
    descriptor = ParameterDescriptor(description=facts["text"], read_only=facts["read_only"])
    if facts["choices"]:
        descriptor.additional_constraints = "One of: " + ", ".join(facts["choices"])
    # `max_depth_m: 50` is an integer to ROS, which would refuse it for a parameter of the static type double.
    descriptor.dynamic_typing = isinstance(field.default, float)
    if facts["limits"] and isinstance(field.default, float):
        low, high = facts["limits"]
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif facts["limits"] and isinstance(field.default, int):
        low, high = facts["limits"]
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return descriptor
