"""Where a reply has to look: the image tokens that hold what its question is about, and a loss that teaches it.

From words alone a model finds out late that the digits of a box belong to a place in the picture. The renderer knows
the place: one attention head in each of two layers is taught to look there from every token of the reply (as Liu et al.
taught captions, https://arxiv.org/abs/1605.09553). The first looks at what is given, say at the pixel whose match is
wanted, the second at what is found; where only one thing is asked about, both look at it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from depthlm_ros.nets.positions import PromptLayout

LOOKS = 2
# The one head of each layer that is taught, and with it the first of the keys, which heads share.
HEAD = 0

# Two bool (N,), one of each look: the image tokens, row by row, that hold what is to be looked at.
Gaze = tuple[np.ndarray, np.ndarray]


def tokens_of(mask: np.ndarray, token_px: int) -> np.ndarray:
    """bool (N,): the tokens that show a pixel of the mask (H, W)."""
    height, width = mask.shape
    return mask.reshape(height // token_px, token_px, width // token_px, token_px).any((1, 3)).ravel()


def tokens_at(u_px: float, v_px: float, size_px: tuple[int, int], token_px: int) -> np.ndarray:
    """bool (N,): the token that shows a pixel of a picture of this size (width, height)."""
    columns, rows = (extent // token_px for extent in size_px)
    shown = np.zeros((rows, columns), bool)
    row, column = (round(value) // token_px for value in (v_px, u_px))
    shown[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return shown.ravel()


def gaze_loss(
    queries: Sequence[torch.Tensor],
    keys: torch.Tensor,
    scaling: float,
    mask: torch.Tensor,
    gaze: torch.Tensor,
    layout: PromptLayout,
) -> torch.Tensor:
    """Mean -log of the share of attention that goes where it should; 0 where nothing is to be looked at.

    queries: of each layer (B, heads, T, D). keys: (layers, B, heads_kv, T, D). mask: bool (B, 1, T, T), True where
    attention is allowed. gaze: bool (B, LOOKS, Q, M) for the last Q of the T tokens and the M tokens of all images.
    """
    # The last layer says what was found: it is left alone.
    layers = [max(len(queries) - 1 - back, 0) for back in range(LOOKS, 0, -1)]
    device = gaze.device
    columns = torch.cat([torch.arange(start, start + count, device=device) for start, count in layout.spans])
    losses, counts = [], []
    for look, layer in enumerate(layers):
        wanted = gaze[:, look].any(-1)
        query, key = queries[layer][:, HEAD, layout.length :], keys[layer][:, 0]
        scores = (scaling * query @ key.transpose(-1, -2)).float()
        scores = scores.masked_fill(~mask[:, 0, layout.length :], -torch.inf)
        # Nothing here depends on how many are wanted: a CUDA graph takes it. What is not wanted may look anywhere.
        elsewhere = ~gaze[:, look] & wanted[..., None]
        seen = scores.log_softmax(-1)[..., columns].masked_fill(elsewhere, -torch.inf).logsumexp(-1)
        losses.append((-seen * wanted).sum() / wanted.sum().clamp(min=1))
        counts.append(wanted.any())
    return torch.stack(losses).sum() / torch.stack(counts).sum().clamp(min=1)
