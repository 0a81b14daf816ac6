# SPDX-License-Identifier: Apache-2.0
"""The optimisers and the learning rate of both phases, and the Muon optimiser.

Muon optimises the matrices of the language model (https://kellerjordan.github.io/posts/muon/), with steps scaled to
those of AdamW (https://arxiv.org/abs/2502.16982). The numbers are those of torch.optim.Muon with
adjust_lr_fn="match_rms_adamw"; all matrices of one shape are in one product, which starts fewer kernels on a GPU.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from depthlm_ros.nets.depth_first import EMBEDDING_WEIGHT, DepthFirstModel
from depthlm_ros.training.embedded.recipe import PhaseSettings

# The learning rate at the end, as a share of the recipe's.
FINAL_RATE = 0.02
MOMENTUM = 0.95
# Coefficients of the quintic iteration that brings all singular values near 1, and its number of iterations.
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
EPS = 1e-7


def learning_rate(step: int, settings: PhaseSettings) -> float:
    """Returns the rate of a step: linear warm-up, then half a cosine down to 2 %."""
    warm_up = min(1.0, (step + 1) / settings.warmup_steps)
    progress = min(step / settings.steps, 1.0)
    return settings.learning_rate * warm_up * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


def depth_optimiser(model: DepthFirstModel, settings: PhaseSettings) -> torch.optim.Optimizer:
    """Returns AdamW for encoder, decoder and names. The pretrained encoder learns more slowly."""
    parts: list[nn.Module] = [model.decoder, model.semantic, model.names]
    others = [parameter for part in parts for parameter in part.parameters()]
    groups = [
        {"params": list(model.encoder.parameters()), "weight_decay": 0.0, "factor": settings.encoder_rate},
        {"params": [one for one in others if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in others if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def words_optimisers(model: DepthFirstModel, settings: PhaseSettings) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices of the language model, and AdamW for embeddings, norms and biases."""
    matrices: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim == 2 and name != EMBEDDING_WEIGHT
            (matrices if is_matrix else plain).append(parameter)
    rate, decay = settings.learning_rate, settings.weight_decay
    is_cpu = plain[0].device.type == "cpu"
    muon = Muon(matrices, rate, decay, torch.float32 if is_cpu else torch.bfloat16)
    return [muon, torch.optim.AdamW(plain, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


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
