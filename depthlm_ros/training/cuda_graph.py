"""Losses and gradients as CUDA graphs.

A step of a small model is thousands of kernels, and starting them one by one takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Generic, Protocol, TypeVar

import torch

from depthlm_ros.model_files.yaml_dataclass import DataclassInstance

# Runs before a recording: lazily initialised libraries must not initialise themselves inside it.
WARM_UP_RUNS = 3


class HasTotal(Protocol):
    """The losses of a step."""

    @property
    def total(self) -> torch.Tensor: ...


BatchT = TypeVar("BatchT", bound=DataclassInstance)
LossesT = TypeVar("LossesT", bound=HasTotal)


@dataclass(frozen=True)
class _RecordedStep(Generic[BatchT, LossesT]):
    graph: torch.cuda.CUDAGraph
    batch: BatchT
    losses: LossesT
    gradients: list[torch.Tensor | None]


class GraphedBackward(Generic[BatchT, LossesT]):
    """Calls `losses(batch)` and `.total.backward()` of its result, recorded once for each shape of batch.

    A batch is a dataclass of tensors. `losses` must not look at values on the GPU. The next call overwrites the losses
    and gradients of this one.
    """

    def __init__(self, losses: Callable[[BatchT], LossesT], parameters: Sequence[torch.nn.Parameter]) -> None:
        self._losses, self._parameters = losses, parameters
        self._recorded: dict[tuple[torch.Size, ...], _RecordedStep[BatchT, LossesT]] = {}

    def __call__(self, batch: BatchT) -> LossesT:
        """Sets every parameter's gradient and returns the losses."""
        shapes = tuple(getattr(batch, field.name).shape for field in fields(batch))
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(batch)
        recorded = self._recorded[shapes]
        for field in fields(batch):
            getattr(recorded.batch, field.name).copy_(getattr(batch, field.name))
        recorded.graph.replay()
        for parameter, gradient in zip(self._parameters, recorded.gradients, strict=True):
            parameter.grad = gradient
        return recorded.losses

    def _record(self, batch: BatchT) -> _RecordedStep[BatchT, LossesT]:
        fixed = type(batch)(*(getattr(batch, field.name).clone() for field in fields(batch)))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._clear_gradients()
                self._losses(fixed).total.backward()
        torch.cuda.current_stream().wait_stream(stream)
        self._clear_gradients()
        graph = torch.cuda.CUDAGraph()
        # Only one graph runs at a time, so all of them share their memory.
        shared = next(iter(self._recorded.values())).graph.pool() if self._recorded else None
        with torch.cuda.graph(graph, pool=shared):
            losses = self._losses(fixed)
            losses.total.backward()
        return _RecordedStep(graph, fixed, losses, [parameter.grad for parameter in self._parameters])

    def _clear_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
