# SPDX-License-Identifier: Apache-2.0
"""Losses of dense depth and of replies, for both trainings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from depthlm_ros.nets.depth_heads import resize
from depthlm_ros.training.packing import IGNORED

# Keeps the square root's gradient finite (DepthVLM's released code).
SILOG_EPS = 1e-8
# Predictions of the embedded model below this depth count as this depth.
LEAST_DEPTH_M = 1e-3


def silog_loss(predicted_m: torch.Tensor, truth_m: torch.Tensor) -> torch.Tensor:
    """Returns the mean over images of `silog_per_image`, 0 if no image has a label.

    Both (B, H, W); truth_m is NaN where there is no label. Contains no step that depends on values, so that a CUDA
    graph can record it.
    """
    known = truth_m > 0
    log_error = torch.where(known, _log_depth(predicted_m) - _log_depth(torch.where(known, truth_m, 1.0)), 0.0)
    return _mean_over_labelled(silog_per_image(log_error, known), known.flatten(1).any(1))


def silog_loss_of_maps(predicted_m: Sequence[torch.Tensor], truth_m: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the same for images of different sizes, (h, w) and (H, W) each.

    A prediction is resized to its label, bilinear with aligned corners. Pixels without a positive prediction are left
    out. Without any label the loss is 0 and has a gradient of 0, since every process must have a gradient.
    """
    losses, labelled = [], []
    for predicted, truth in zip(predicted_m, truth_m, strict=True):
        truth = truth.to(predicted.device)[None]
        predicted = resize(predicted.float()[None, None], tuple(truth.shape[1:]))[0]
        known = (truth > 0) & (predicted > 0)
        log_error = torch.where(known, predicted, 1.0).log() - torch.where(known, truth, 1.0).log()
        losses.append(silog_per_image(log_error, known))
        labelled.append(known.any())
    return _mean_over_labelled(torch.cat(losses), torch.stack(labelled))


def silog_per_image(log_error: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Returns (B,): DepthVLM's loss of each image, sqrt(mean d^2 - 0.5 (mean d)^2 + 1e-8).

    log_error: d = ln predicted - ln true (B, H, W), 0 where known (B, H, W) is False; means are over known pixels.
    """
    count = known.sum((1, 2)).clamp(min=1)
    mean = log_error.sum((1, 2)) / count
    mean_square = log_error.square().sum((1, 2)) / count
    return (mean_square - 0.5 * mean.square() + SILOG_EPS).sqrt()


def depth_gradient_loss(predicted_m: torch.Tensor, truth_m: torch.Tensor, scales: int = 3) -> torch.Tensor:
    """Returns the mean absolute difference of log-depth gradients at `scales` halvings, which keeps edges in place.

    Both (B, H, W); truth_m is NaN where there is no label.
    """
    known = truth_m > 0
    log_error = _log_depth(predicted_m) - _log_depth(torch.where(known, truth_m, 1.0))
    total = predicted_m.new_zeros(())
    for scale in range(scales):
        step = 2**scale
        d, k = log_error[:, ::step, ::step], known[:, ::step, ::step]
        for a, b, both in (
            (d[:, 1:], d[:, :-1], k[:, 1:] & k[:, :-1]),
            (d[:, :, 1:], d[:, :, :-1], k[:, :, 1:] & k[:, :, :-1]),
        ):
            total = total + ((a - b).abs() * both).sum() / both.sum().clamp(min=1)
    return total / (2 * scales)


def next_token_loss(logits: torch.Tensor, next_id: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross-entropy of logits (M, V) against next_id (M,); IGNORED ones do not count.

    0 if nothing counts.
    """
    total = functional.cross_entropy(logits.float(), next_id, ignore_index=IGNORED, reduction="sum")
    return total / (next_id != IGNORED).sum().clamp(min=1)


def _mean_over_labelled(per_image: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    return (per_image * labelled).sum() / labelled.sum().clamp(min=1)


def _log_depth(depth_m: torch.Tensor) -> torch.Tensor:
    return depth_m.float().clamp(min=LEAST_DEPTH_M).log()
