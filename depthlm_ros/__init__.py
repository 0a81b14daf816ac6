# SPDX-License-Identifier: Apache-2.0
"""depthlm_ros: metric depth and answers to spatial questions from one look of a vision-language model.

    from depthlm_ros import Frame, Intrinsics, load_model

    view = load_model("tiny").look(Frame(rgb, Intrinsics(525, 525, 319.5, 239.5, 640, 480)))
    view.depth().depth_m            # float32 (480, 640), metres along the optical axis, NaN where unknown
    view.ask("How far is the table?").text

Every public name is imported at its first use: importing this package loads nothing else.
"""

from __future__ import annotations

import importlib
from pkgutil import extend_path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from depthlm_ros.core import (
        Answer,
        DepthMap,
        Frame,
        Intrinsics,
        Matches,
        Measurement,
        PointDepths,
        Question,
        Region,
        RelativePose,
        Status,
    )
    from depthlm_ros.errors import (
        BackendFailed,
        BadBundle,
        BadImage,
        BadInput,
        BadIntrinsics,
        BadQuestion,
        DepthLMError,
        OutOfMemory,
        SetupError,
        UnknownName,
    )
    from depthlm_ros.model import Model, PairView, View, load_model

# The ROS interfaces (depthlm_ros.msg, .srv, .action) are generated into the same package name in an overlay. This
# lets the source tree and the overlay be one package.
__path__ = extend_path(__path__, __name__)

__all__ = [
    "Answer",
    "BackendFailed",
    "BadBundle",
    "BadImage",
    "BadInput",
    "BadIntrinsics",
    "BadQuestion",
    "DepthLMError",
    "DepthMap",
    "Frame",
    "Intrinsics",
    "Matches",
    "Measurement",
    "Model",
    "OutOfMemory",
    "PairView",
    "PointDepths",
    "Question",
    "Region",
    "RelativePose",
    "SetupError",
    "Status",
    "UnknownName",
    "View",
    "load_model",
]

# Names that do not come from core.py or errors.py.
_IN_MODEL = ("Model", "PairView", "View", "load_model")


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module_name in ("model",) if name in _IN_MODEL else ("core", "errors"):
        module = importlib.import_module(f"{__name__}.{module_name}")
        if hasattr(module, name):
            globals()[name] = value = getattr(module, name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
