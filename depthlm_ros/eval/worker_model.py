# SPDX-License-Identifier: Apache-2.0
"""Models for evaluations and labelling in several processes: `ModelRequest` loads one where it is used.

The process that keeps the results does not load the weights: it asks an `UnloadedModel` what is known without them.
`Parallel` says where the records of an evaluation are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NoReturn, TypeVar

from depthlm_ros.core import Frame
from depthlm_ros.data.worker_pool import Workers, worker_index
from depthlm_ros.errors import SetupError
from depthlm_ros.eval.result_file import NoResult
from depthlm_ros.families.registry import family_named
from depthlm_ros.model import Model, chosen_backend, find_words_model, load_model, spec_of_both
from depthlm_ros.model_files.checkpoint import (
    VLM3_CHECKPOINTS,
    ModelSource,
    ReleasedCheckpoint,
    Source,
    Vlm3Checkpoints,
    find_source,
)
from depthlm_ros.model_files.depth_network import DepthNetwork

RecordT = TypeVar("RecordT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class ModelRequest:
    """Which model a worker process loads, and how; see load_model.

    devices: the workers on one machine take them in turn; "" is the best one. threads: of each worker, 0 for all cores.
    quantise: of a checkpoint, "" for not.
    """

    name: str
    backend: str = "auto"
    devices: tuple[str, ...] = ("",)
    threads: int = 0
    as_released: bool = False
    quantise: str = ""

    def load(self) -> Model:
        """Returns the model, which this process loads once. Raises SetupError."""
        device = self.devices[worker_index() % len(self.devices)]
        try:
            return _load(self, device)
        except SetupError as exc:
            # A failure of the backend would be taken for one at a single picture, and not every error can be pickled.
            raise SetupError(f"model {self.name} cannot be loaded: {exc}") from exc


@lru_cache(maxsize=4)
def _load(request: ModelRequest, device: str) -> Model:
    source = find_source(request.name)
    if request.quantise and isinstance(source, ReleasedCheckpoint):
        source = source.quantised(request.quantise)
    return load_model(source, request.backend, request.threads, device, request.as_released)


@dataclass(frozen=True)
class RecordEvaluator(Generic[RecordT, ResultT]):
    """Evaluates a record with the model of a request. It can be pickled if `evaluate` can."""

    request: ModelRequest
    evaluate: Callable[[Model, RecordT], ResultT]

    def __call__(self, record: RecordT) -> ResultT:
        """Returns the result of a record. Raises what `evaluate` raises, and SetupError."""
        return self.evaluate(self.request.load(), record)


@dataclass(frozen=True)
class Parallel:
    """Where the records of an evaluation are evaluated, and with which model."""

    request: ModelRequest
    workers: Workers

    def evaluator(self, evaluate: Callable[[Model, RecordT], ResultT]) -> RecordEvaluator[RecordT, ResultT]:
        """Returns the evaluation of one record by a worker. evaluate: a function of a module, or a partial of one."""
        return RecordEvaluator(self.request, evaluate)


class UnloadedModel(Model):
    """What is known of a model without its weights: its name, how it is asked, what it can do.

    backend_name: of the backend that would run it. Whoever uses what only a loaded model has gets NoResult.
    """

    def __init__(self, source: Source, backend: str = "auto", as_released: bool = False) -> None:
        parts = _parts(source)
        spec = source.spec.as_released() if as_released else source.spec
        self.spec = (
            spec if len(parts) == 1 or isinstance(source, Vlm3Checkpoints) else spec_of_both(spec, parts[1].spec)
        )
        self.family = family_named(self.spec.family, self.spec.most_coordinate)
        self._backend_name = "+".join(dict.fromkeys(chosen_backend(part, backend) for part in parts))

    @property
    def backend_name(self) -> str:
        """The name of the backend, or of both of a pair."""
        return self._backend_name

    def __getattr__(self, name: str) -> NoReturn:
        """Raises NoResult: called for what a loaded model has, such as its backend."""
        raise NoResult(f"{self.spec.name} is not loaded: it has no {name}.")

    def look(self, frame: Frame) -> NoReturn:
        """Raises NoResult."""
        raise NoResult(f"{self.name} is not loaded.")

    def look_pair(self, first: Frame, second: Frame) -> NoReturn:
        """Raises NoResult."""
        raise NoResult(f"{self.name} is not loaded.")


def _parts(source: Source) -> list[ModelSource]:
    """Returns the models that a model is made of: itself, a network for depth and its words, or VLM3's checkpoints."""
    if isinstance(source, Vlm3Checkpoints):
        found = []
        for ability in VLM3_CHECKPOINTS:
            with suppress(SetupError):
                found.append(source.find(ability))
        return found or [source.find("points")]
    if isinstance(source, DepthNetwork) and source.fields.words:
        return [source, find_words_model(source)]
    return [source]
