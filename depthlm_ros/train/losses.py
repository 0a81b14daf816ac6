"""Losses of dense depth with text."""

from __future__ import annotations

import torch
from torch.nn import functional


def silog(predicted_m: torch.Tensor, truth_m: torch.Tensor) -> torch.Tensor:
    """DepthVLM's loss, averaged over images: sqrt(mean d^2 - 0.5 (mean d)^2 + 1e-8), d = ln p - ln g, over g > 0.

    Both (B, H, W); truth NaN where there is no label. Images without a label count nothing.
    """
    valid = truth_m > 0
    difference = torch.where(valid, log_m(predicted_m) - log_m(torch.where(valid, truth_m, 1.0)), 0.0)
    count = valid.sum((1, 2)).clamp(min=1)
    mean = difference.sum((1, 2)) / count
    mean_square = difference.square().sum((1, 2)) / count
    per_image = (mean_square - 0.5 * mean.square() + 1e-8).sqrt()
    has_label = valid.flatten(1).any(1)
    return (per_image * has_label).sum() / has_label.sum().clamp(min=1)


def gradient(predicted_m: torch.Tensor, truth_m: torch.Tensor, scales: int = 3) -> torch.Tensor:
    """Mean absolute difference of the log-depth gradients at `scales` halvings: edges stay where they are."""
    valid = truth_m > 0
    difference = log_m(predicted_m) - log_m(torch.where(valid, truth_m, 1.0))
    total = predicted_m.new_zeros(())
    for scale in range(scales):
        step = 2**scale
        d, m = difference[:, ::step, ::step], valid[:, ::step, ::step]
        for a, b, ok in (
            (d[:, 1:], d[:, :-1], m[:, 1:] & m[:, :-1]),
            (d[:, :, 1:], d[:, :, :-1], m[:, :, 1:] & m[:, :, :-1]),
        ):
            total = total + ((a - b).abs() * ok).sum() / ok.sum().clamp(min=1)
    return total / (2 * scales)


def next_token(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits (M, V) against labels (M,), -100 = none; 0 without any."""
    total = functional.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def log_m(depth_m: torch.Tensor) -> torch.Tensor:
    return depth_m.float().clamp(min=1e-3).log()
