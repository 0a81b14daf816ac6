"""What the numbers of a recipe may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from depthlm_ros.errors import SetupError


def check_limits(settings: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raises SetupError for a field of settings that is no number between its limits, a whole one if these are."""
    for name, (least, most) in limits.items():
        value = getattr(settings, name)
        kinds = (int,) if isinstance(least, int) else (int, float)
        if type(value) in kinds and least <= value <= most:
            continue
        number = "a whole number" if isinstance(least, int) else "a number"
        hint = " YAML reads 3e-4 as text: write 3.0e-4." if isinstance(value, str) else ""
        raise SetupError(f"{name} {value!r}: it must be {number} from {least} to {most}.{hint}")
