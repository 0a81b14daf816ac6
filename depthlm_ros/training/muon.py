"""The Muon optimiser, with all matrices of one shape in one product.

On a GPU, torch's own Muon spends a third of a step starting kernels. Source: https://kellerjordan.github.io/posts/muon/,
with steps scaled to those of AdamW (https://arxiv.org/abs/2502.16982). The numbers are those of torch.optim.Muon with
adjust_lr_fn="match_rms_adamw".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch

MOMENTUM = 0.95
# Coefficients of the quintic iteration that brings all singular values near 1, and its number of iterations.
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Optimises matrices, each of which must have a gradient at every step. precision: dtype of the products."""

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float,
        precision: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one step along the gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                momenta = [self._momentum(parameter) for parameter in parameters]
                gradients = [parameter.grad for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                nesterov = torch._foreach_lerp(gradients, momenta, MOMENTUM)
                steps = orthogonalise(torch.stack(nesterov).to(self.precision))
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(steps.to(parameters[0].dtype).unbind()), alpha=-rate)

    def _momentum(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Returns the matrices (N, R, C) with all their singular values brought near 1."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
