"""Losses and gradients as CUDA graphs: a small model's step is thousands of kernels, and starting them one by one takes
longer than running them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from depthlm_ros.training.synthetic.dataset import Batch

WARM_UP = 3


@dataclass(frozen=True)
class _Recorded:
    graph: Any
    batch: Batch
    losses: Any
    gradients: list[torch.Tensor | None]


class Graphed:
    """Calls `losses(batch)` and `.total.backward()` of its result, recorded once for each shape of batch.

    `losses` must not look at values on the GPU. What is returned is overwritten by the next call.
    """

    def __init__(self, losses: Callable[[Batch], Any], parameters: Sequence[torch.nn.Parameter]) -> None:
        self._losses, self._parameters = losses, parameters
        self._recorded: dict[tuple[torch.Size, ...], _Recorded] = {}

    def __call__(self, batch: Batch) -> Any:
        """Sets every parameter's gradient; returns the losses."""
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

    def _record(self, batch: Batch) -> _Recorded:
        fixed = Batch(*(getattr(batch, field.name).clone() for field in fields(batch)))
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._forget_gradients()
                self._losses(fixed).total.backward()
        torch.cuda.current_stream().wait_stream(aside)
        self._forget_gradients()
        graph = torch.cuda.CUDAGraph()
        # One at a time runs, so all work in the same memory.
        shared = next(iter(self._recorded.values())).graph.pool() if self._recorded else None
        with torch.cuda.graph(graph, pool=shared):
            losses = self._losses(fixed)
            losses.total.backward()
        return _Recorded(graph, fixed, losses, [parameter.grad for parameter in self._parameters])

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
