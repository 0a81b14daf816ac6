"""The machines engines are made for: which TensorRT they have, and in which ONNX opset a graph for it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from depthlm_ros.errors import UnknownName

Version = tuple[int, int]


@dataclass(frozen=True)
class Target:
    """tensorrt: (major, minor) that the machine's software brings. opset: that in which to export for it."""

    name: str
    machine: str
    tensorrt: Version
    opset: int
    notes: str


# JetPack's TensorRT versions are those of its release notes.
_TARGETS = (
    Target(
        "jetpack6",
        "Jetson Orin, JetPack 6.2",
        (10, 3),
        20,
        "No native Attention or RMSNormalization; ONNX knows no bfloat16 convolution in this opset, so what convolves "
        "is fp16 or fp32; memory is shared with the CPU, so cap the builder's workspace.",
    ),
    Target(
        "jetpack7.1",
        "Jetson Thor, JetPack 7.1",
        (10, 13),
        22,
        "bfloat16 throughout; no native Attention or RMSNormalization.",
    ),
    Target(
        "jetpack7.2",
        "Jetson Thor and Orin, JetPack 7.2",
        (10, 16),
        23,
        "Native Attention (4-D, without past), RMSNormalization and RotaryEmbedding.",
    ),
    Target(
        "desktop",
        "discrete GPU, JetPack 7.2.2 and later",
        (11, 4),
        23,
        "Networks are always strongly typed; otherwise as jetpack7.2.",
    ),
)
TARGETS = {target.name: target for target in _TARGETS}


def target_named(name: str) -> Target:
    """Raises UnknownName listing the targets that exist."""
    if name not in TARGETS:
        known = ", ".join(f"{target.name} ({target.machine})" for target in _TARGETS)
        raise UnknownName(f"target {name!r} is not one of {known}.")
    return TARGETS[name]


def target_for(tensorrt: Version) -> Target:
    """The newest target whose TensorRT is not newer than the given one: what it takes, later versions take.

    Raises UnknownName for a TensorRT older than every target's.
    """
    fitting = [target for target in _TARGETS if target.tensorrt <= tensorrt]
    if not fitting:
        raise UnknownName(
            f"TensorRT {tensorrt[0]}.{tensorrt[1]} is too old: {_TARGETS[0].tensorrt[0]}.{_TARGETS[0].tensorrt[1]} is "
            "the oldest for which engines are made. Update JetPack, or use backend onnxruntime."
        )
    return fitting[-1]


def parse_version(text: str) -> Version:
    """(major, minor) of "10.3", "10.13.3.9.post1" and the like. Raises UnknownName for what is no version."""
    match = re.match(r"(\d+)\.(\d+)(?!\d)", text.strip())
    if match is None:
        raise UnknownName(f"{text!r} is no TensorRT version: expected for example 10.3.")
    return int(match[1]), int(match[2])
