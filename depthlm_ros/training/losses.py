"""Losses of dense depth with text.

Losses of dense depth and of words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from depthlm_ros.nets.depth_heads import resize
from depthlm_ros.training.finetune.packing import IGNORED


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


def silog_of_map(predicted_m: torch.Tensor, truth_m: torch.Tensor) -> torch.Tensor | None:
    """DepthVLM's loss of one image: sqrt(mean d^2 - 0.5 (mean d)^2 + 1e-8), d = ln p - ln g where g > 0 and p > 0.

    predicted_m (h, w) is brought to the size of truth_m (H, W), bilinear with aligned corners. None if no pixel counts.
    """
    predicted_m = resize(predicted_m.float()[None, None], tuple(truth_m.shape))[0, 0]
    counts = (truth_m > 0) & (predicted_m > 0)
    if not counts.any():
        return None
    difference = predicted_m[counts].log() - truth_m[counts].log()
    return (difference.square().mean() - 0.5 * difference.mean().square() + 1e-8).sqrt()


def silog_of_maps(predicted_m: Sequence[torch.Tensor], truth_m: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean over images of any sizes; those without a pixel that counts are left out."""
    losses = [silog_of_map(p, g.to(p.device)) for p, g in zip(predicted_m, truth_m, strict=True)]
    found = [loss for loss in losses if loss is not None]
    # Zero, but with a gradient: every process must have one.
    return torch.stack(found).mean() if found else torch.stack([p.sum() for p in predicted_m]).sum() * 0.0


def next_token_of_states(states: torch.Tensor, head: torch.nn.Module, next_id: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the tokens that are learnt. states: (B, T, C) final states; next_id: (B, T), IGNORED where
    nothing is learnt. Logits are made at learnt places only: a vocabulary is a hundred times as wide as a state."""
    learnt = next_id != IGNORED
    logits = head(states[learnt]).float()
    if not len(logits):
        return states.sum() * 0.0
    return functional.cross_entropy(logits, next_id[learnt])
