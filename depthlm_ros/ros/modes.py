"""What the node publishes, and which models can be published so."""

from __future__ import annotations

from depthlm_ros.errors import SetupError
from depthlm_ros.families.registry import family_named
from depthlm_ros.model_files.spec import ModelSpec

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
