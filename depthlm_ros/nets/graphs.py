"""The two graphs of a Qwen3-VL with a depth head, as torch modules: look (an image) and step (text after it).

They are what is exported, and what the torch backend runs.
"""

from __future__ import annotations

import torch
from torch import nn

from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth, causal_mask


class LookGraph(nn.Module):
    """image uint8 (1, H, W, 3) -> depth_m (1, H, W), keys and values (layers, 1, heads_kv, P, D) of the prefix.

    The text around the image, all positions and the mask are constants.
    """

    def __init__(self, model: Qwen3VLDepth, before: list[int], after: list[int], size_px: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.layout = PromptLayout(len(before), model.grid(size_px[1], size_px[0]), len(after))
        with torch.no_grad():
            self.register_buffer("prefix_before", model.embed(torch.tensor([before])).clone())
            self.register_buffer("prefix_after", model.embed(torch.tensor([after])).clone())
            cos, sin = model.prefix_rope(self.layout)
        self.register_buffer("prefix_cos", cos)
        self.register_buffer("prefix_sin", sin)
        self.register_buffer("prefix_mask", causal_mask(self.layout.length))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens, deep = self.model.see(image)
        x = torch.cat([self.prefix_before, tokens, self.prefix_after], dim=1)
        states, keys, values = self.model.decode(
            x, self.prefix_cos, self.prefix_sin, self.prefix_mask, deep=deep, before=self.layout.before
        )
        return self.model.depth(states, deep, self.layout), keys, values


class StepGraph(nn.Module):
    """Text after a prefix, for N rows at once; serves questions (T tokens) and decoding (T = 1).

    ids, positions: int64 (N, T), padded on the right. last: int64 (N,), index of each row's last real token.
    past_keys, past_values: (layers, N, heads_kv, S, D). past_mask: float (N, S), 0 where valid, -inf elsewhere.
    -> logits (N, V) after `last`, new keys and values (layers, N, heads_kv, T, D).
    """

    def __init__(self, model: Qwen3VLDepth) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        last: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
        past_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, count = ids.shape
        cos, sin = self.model.text_rope(positions)
        causal = causal_mask(count, ids.device).expand(rows, 1, count, count)
        past = past_mask[:, None, None, :].expand(rows, 1, count, past_mask.shape[1])
        states, keys, values = self.model.decode(
            self.model.embed(ids),
            cos,
            sin,
            torch.cat([past, causal], dim=-1),
            (past_keys.unbind(0), past_values.unbind(0)),
        )
        chosen = states[torch.arange(rows, device=ids.device), last]
        return self.model.vlm.lm_head(chosen), keys, values
