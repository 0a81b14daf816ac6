# SPDX-License-Identifier: Apache-2.0
"""The two kinds of TensorRT, and what differs between them.

TENSORRT is the ordinary one. It builds a plan on the GPU that will run it. TENSORRT_RTX is TensorRT for RTX. It builds
a plan without a GPU; one plan runs on every GPU of the compute capabilities that it was built for, where the last part
is compiled when the plan is loaded. Their Python modules have the same names for everything else.

Public names: Flavour, TENSORRT, TENSORRT_RTX, flavour_named, CAPABILITIES, DEFAULT_CAPABILITIES, check_capabilities,
capability_text, named_capabilities, parse_capability, runs_on, capabilities_for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from depthlm_ros.errors import BackendFailed, SetupError, UnknownName

# The compute capabilities that can be named for a portable plan, and what it is built for if nobody names any.
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
DEFAULT_CAPABILITIES = "8.0 and later"


@dataclass(frozen=True)
class Flavour:
    """One kind of TensorRT.

    module: its Python module, which is also its name in the JSON of a plan. title: its name in messages. oldest: the
    first version that this package supports. below: the first version that it does not support, None if none is known.
    portable: whether a plan is for compute capabilities instead of one GPU. Then it is built without a GPU and without
    a file of timings, and the kernels that are compiled on loading are kept beside the plan. install: how to get it.
    target: the one build target that it has, "" if it has several.
    """

    module: str
    title: str
    oldest: tuple[int, int]
    below: tuple[int, int] | None
    portable: bool
    install: str
    target: str = ""

    def check_version(self, version: str) -> None:
        """Raises BackendFailed for a version outside the supported range."""
        found = tuple(map(int, re.findall(r"\d+", version)[:2]))
        if self.below is not None and not self.oldest <= found < self.below:
            oldest, below = (".".join(map(str, limit)) for limit in (self.oldest, self.below))
            raise BackendFailed(
                f"{self.title} {version} is installed; this package works with {oldest} and later, below {below}: "
                f"{self.install}."
            )


TENSORRT = Flavour(
    "tensorrt",
    "TensorRT",
    (10, 3),
    None,
    False,
    "on a Jetson install JetPack's python3-libnvinfer and use an environment that sees the system's packages; "
    "elsewhere pip install tensorrt",
)
TENSORRT_RTX = Flavour(
    "tensorrt_rtx",
    "TensorRT for RTX",
    (1, 7),
    (2, 0),
    True,
    "pip install 'tensorrt-rtx-cu12>=1.7,<2' (x86-64; a Jetson has the ordinary TensorRT, --target jetpack6 and so on)",
    target="rtx",
)
_FLAVOURS = {flavour.module: flavour for flavour in (TENSORRT, TENSORRT_RTX)}


def flavour_named(module: str) -> Flavour:
    """Returns the flavour of that module. Raises UnknownName for a name that this version does not know."""
    if module not in _FLAVOURS:
        raise UnknownName(f"{module!r} is not a kind of TensorRT that this version knows: {', '.join(_FLAVOURS)}.")
    return _FLAVOURS[module]


def check_capabilities(capabilities: Sequence[str]) -> None:
    """Raises SetupError for a compute capability for which no portable plan can be built."""
    if unknown := [name for name in capabilities if name not in CAPABILITIES]:
        raise SetupError(
            f"{TENSORRT_RTX.title} does not build for compute capability {', '.join(unknown)}, but for "
            f"{', '.join(CAPABILITIES)}. Without --compute-capability a plan runs on {DEFAULT_CAPABILITIES}. (A Jetson "
            "has a --target of its own.)"
        )


def capability_text(capabilities: Sequence[str]) -> str:
    """Returns the compute capabilities of a portable plan in one text; the default ones if none is named."""
    return " ".join(capabilities) or DEFAULT_CAPABILITIES


def named_capabilities(text: str) -> tuple[str, ...]:
    """Returns the compute capabilities that a text of capability_text names, () for the default ones."""
    return () if text == DEFAULT_CAPABILITIES else tuple(text.split())


def runs_on(text: str, sm: str) -> bool:
    """Returns whether a portable plan for the capabilities `text` runs on a GPU of the compute capability `sm`."""
    named = named_capabilities(text)
    return sm in named if named else parse_capability(sm) >= (8, 0)


def parse_capability(text: str) -> tuple[int, int]:
    """Returns (8, 6) for "8.6". Raises SetupError for any other text."""
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    if match is None:
        raise SetupError(f"{text!r} is not a compute capability: expected for example 8.6.")
    return int(match[1]), int(match[2])


def capabilities_for(sm: str, built_for: str) -> str:
    """Returns for which capabilities to build again, so that a plan runs on a GPU of the capability `sm`.

    built_for: those of the plan that is there. Raises BackendFailed for a GPU that is too old for portable plans.
    """
    for text in (built_for, DEFAULT_CAPABILITIES, *CAPABILITIES):
        if runs_on(text, sm):
            return text
    raise BackendFailed(
        f"this GPU has compute capability {sm}, and {TENSORRT_RTX.title} needs {CAPABILITIES[0]} or later: use backend "
        "onnxruntime."
    )
