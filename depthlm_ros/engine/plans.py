"""TensorRT plans of an engine's graphs, on the machine that will run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from depthlm_ros.backends.tensorrt.cuda_device import open_device
from depthlm_ros.backends.tensorrt.runtime import load_tensorrt
from depthlm_ros.engine.orders import Limits, plan_orders
from depthlm_ros.engine.progress import Bars
from depthlm_ros.engine.targets import Target, parse_version, target_for
from depthlm_ros.engine.trt import PlanReport, build_plan, default_workspace, timing_cache_path
from depthlm_ros.errors import BackendFailed
from depthlm_ros.model_files.bundle import Bundle


@dataclass(frozen=True)
class PlanWishes:
    """workspace_bytes: what the builder may try tactics in, None for half of the free memory. limits: of text."""

    workspace_bytes: int | None = None
    limits: Limits = field(default_factory=Limits)
    only_depth: bool = False


def build_plans(bundle: Bundle, wishes: PlanWishes, bars: Bars, say: Callable[[str], None]) -> list[PlanReport]:
    """Builds what is not there yet. Timings are kept beside the engine's folder, for all engines.

    Raises BackendFailed, OutOfMemory, BadBundle, SetupError as build_plan does.
    """
    tensorrt = str(load_tensorrt().__version__)
    facts = open_device().facts()
    workspace = wishes.workspace_bytes or default_workspace(facts)
    only_depth = wishes.only_depth or bundle.only_depth
    orders = plan_orders(bundle, bundle.folder, bundle.precision, workspace, wishes.limits, only_depth)
    timings = timing_cache_path(bundle.folder.parent, facts, tensorrt)
    return [build_plan(order, facts, timings, bars, say) for order in orders]


def target_here() -> Target | None:
    """The target that this machine's TensorRT fits, None without one (or with one too old)."""
    try:
        tensorrt = load_tensorrt()
    except BackendFailed:
        return None
    return target_for(parse_version(str(tensorrt.__version__)))
