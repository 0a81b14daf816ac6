"""Losses of dense depth and of words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from depthlm_ros.finetune.rows import IGNORED
from depthlm_ros.nets.depth_heads import resize


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


def silog(predicted_m: Sequence[torch.Tensor], truth_m: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean over images of any sizes; those without a pixel that counts are left out."""
    losses = [silog_of_map(p, g.to(p.device)) for p, g in zip(predicted_m, truth_m, strict=True)]
    found = [loss for loss in losses if loss is not None]
    # Zero, but with a gradient: every process must have one.
    return torch.stack(found).mean() if found else torch.stack([p.sum() for p in predicted_m]).sum() * 0.0


def next_token(states: torch.Tensor, head: torch.nn.Module, next_id: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the tokens that are learnt. states: (B, T, C) final states; next_id: (B, T), IGNORED where
    nothing is learnt. Logits are made at learnt places only: a vocabulary is a hundred times as wide as a state."""
    learnt = next_id != IGNORED
    logits = head(states[learnt]).float()
    if not len(logits):
        return states.sum() * 0.0
    return functional.cross_entropy(logits, next_id[learnt])
