# SPDX-License-Identifier: Apache-2.0
"""The kernels that TensorRT for RTX compiles for this GPU from a portable plan, kept beside the plan.

A portable plan holds no code for one GPU. TensorRT for RTX compiles that when a plan is prepared and when it runs for
the first time. With the file of an earlier start it has less or nothing to compile. It refuses by itself a file of
another GPU, driver or version; then the file is replaced. Only names of TensorRT for RTX are used here.

Public names: KernelCache, compile_seconds.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from depthlm_ros.backends.tensorrt.plan_file import kernel_cache_path, write_engine_file
from depthlm_ros.errors import BackendFailed

logger = logging.getLogger(__name__)

# A pause that a person would notice is worth a line in the log.
NOTICED_S = 1.0
# Of every KernelCache of this process.
_SECONDS: list[float] = []


def compile_seconds() -> float:
    """Returns how long this process has spent compiling kernels, or reading them; NaN if it has no portable plan."""
    return sum(_SECONDS) if _SECONDS else math.nan


class KernelCache:
    """The compiled kernels of one plan."""

    def __init__(self, trt: ModuleType, engine: Any, plan: Path) -> None:
        self._engine, self._path = engine, kernel_cache_path(plan)
        self._unreported_s = 0.0
        self._config = engine.create_runtime_config()
        # The configuration does not keep the cache alive: TensorRT would use freed memory.
        self._cache = self._config.create_runtime_cache()
        self._content = self._path.read_bytes() if self._path.is_file() else b""
        self._is_warm = bool(self._content) and bool(self._cache.deserialize(self._content))
        self._config.set_runtime_cache(self._cache)
        if engine.num_optimization_profiles > 1:
            # Texts have many lengths. To compile for each of them takes longer than it saves, and to exchange kernels
            # later would make recorded runs invalid.
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            self._config.dynamic_shapes_kernel_specialization_strategy = strategies.NONE

    def create_context(self, strategy: object) -> Any:
        """Returns an execution context, None if TensorRT cannot make one. Most of the compiling is done here."""
        began_s = time.monotonic()
        self._config.set_execution_context_allocation_strategy(strategy)
        context = self._engine.create_execution_context(self._config)
        self._unreported_s += time.monotonic() - began_s
        return context

    def check_recordable(self, context: Any, stream: int) -> None:
        """Raises BackendFailed if TensorRT says that what a context does cannot be recorded."""
        if not context.is_stream_capturable(stream):
            raise BackendFailed("TensorRT says that its work cannot be recorded.")

    def keep(self, first_run_s: float) -> None:
        """Writes the kernels into the file if they are others than those in it, after a first run of so many seconds.

        A file that cannot be written costs time at the next start, not this run.
        """
        self._report(self._unreported_s + first_run_s)
        self._unreported_s = 0.0
        content = bytes(memoryview(self._cache.serialize()))
        if content == self._content:
            return
        self._content = content
        try:
            write_engine_file(self._path, content)
        except BackendFailed as exc:
            logger.warning("%s The kernels are compiled again at every start.", exc)

    def _report(self, seconds: float) -> None:
        _SECONDS.append(seconds)
        level = logging.WARNING if seconds >= NOTICED_S else logging.INFO
        start = "with" if self._is_warm else "without"
        logger.log(
            level, "%s: kernels for this GPU took %.1f s, %s those of an earlier start", self._path, seconds, start
        )
