"""The two graphs of a model, as torch modules: look (images) and step (text after them).

They are what is exported, and what the torch backend runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.text_decoder import Deep, Past, causal_mask, follow, read


class LookGraph(nn.Module):
    """Images, each uint8 (B, H, W, 3) -> depth_m (B, H, W) of the first (only of a model with a depth head), keys and
    values (layers, B, heads_kv, P, D) of the prefix.

    texts: token ids before, between and after the images, of sizes_px (width, height). Text embeddings, positions and
    mask are constants.
    """

    def __init__(self, model: Backbone, texts: Sequence[Sequence[int]], sizes_px: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.model = model
        images = tuple(model.span(size_px) for size_px in sizes_px)
        self.layout = PromptLayout(tuple(len(text) for text in texts), images)
        device = next(model.language.parameters()).device
        with torch.no_grad():
            for index, text in enumerate(texts):
                ids = torch.tensor([list(text)], dtype=torch.int64, device=device)
                self.register_buffer(f"prefix_text_{index}", model.embed(ids).clone())
            cos, sin = model.prefix_rope(self.layout)
        self.register_buffer("prefix_cos", cos)
        self.register_buffer("prefix_sin", sin)
        self.register_buffer("prefix_mask", causal_mask(self.layout.length, device).to(cos.dtype))

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pieces = self._text(0, images[0])
        deeps = []
        for index, image in enumerate(images):
            tokens, deep = self.model.see(image)
            pieces += [tokens, *self._text(index + 1, image)]
            deeps.append(deep)
        levels = [torch.cat(level, dim=1) if len(images) > 1 else level[0] for level in zip(*deeps, strict=True)]
        states, keys, values = read(
            self.model.language,
            torch.cat(pieces, dim=1),
            self.prefix_cos,
            self.prefix_sin,
            self.prefix_mask,
            Deep(levels, self.layout.spans),
        )
        depth_m = self.model.depth(states, levels, self.layout)
        return (keys, values) if depth_m is None else (depth_m, keys, values)

    def _text(self, index: int, image: torch.Tensor) -> list[torch.Tensor]:
        """The embeddings of one text; nothing for none, since TensorRT takes no empty tensors."""
        if self.layout.texts[index] == 0:
            return []
        embedded = self.get_buffer(f"prefix_text_{index}")
        return [embedded if image.shape[0] == 1 else embedded.expand(image.shape[0], -1, -1)]


class StepGraph(nn.Module):
    """Text behind G prefixes, for N = G * R rows at once; serves questions (T tokens) and decoding (T = 1).

    ids, positions: int64 (N, T), padded on the right. last: int64 (N,), index of each row's last real token.
    prefix_keys, prefix_values: (layers, G, heads_kv, P, D). own_keys, own_values: (layers, N, heads_kv, S, D), the
    text seen before; own_mask: float (N, S), 0 where valid, -inf elsewhere; at least one slot, be it masked.
    -> logits (N, V) after `last`, keys and values (layers, N, heads_kv, T, D) of this text.
    """

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        last: torch.Tensor,
        prefix_keys: torch.Tensor,
        prefix_values: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
        own_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        past = Past(prefix_keys.unbind(0), prefix_values.unbind(0), own_keys.unbind(0), own_values.unbind(0), own_mask)
        cos, sin = self.model.text_rope(positions)
        states, keys, values = follow(self.model.language, self.model.embed(ids), cos, sin, last, past)
        return self.model.logits(states), keys, values
