# SPDX-License-Identifier: Apache-2.0
"""The graphs of a model as torch modules: look (the images) and step (the text behind them).

In models that give depth first, DepthLookGraph looks at one image and ReadGraph makes the prefix of one or two of them.

They are exported to ONNX, and the torch backend runs them directly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from depthlm_ros.nets.backbone import Backbone
from depthlm_ros.nets.depth_first import DepthFirstModel
from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.text_decoder import DeepStackTokens, KeyValueCache, causal_mask, extend, prefill, project_prefix


class PrefixGraph(nn.Module):
    """The text around images, as constants of a graph: embeddings, and cos and sin of the whole prefix.

    texts: token ids before, between and after the images. sizes_px: (width, height) of the images.
    """

    def __init__(self, model: Backbone, texts: Sequence[Sequence[int]], sizes_px: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.model = model
        self.layout = PromptLayout(tuple(map(len, texts)), tuple(model.image_span(size_px) for size_px in sizes_px))
        model.check_window(self.layout.length)
        self.device = next(model.language.parameters()).device
        with torch.no_grad():
            for index, text in enumerate(texts):
                ids = torch.tensor([list(text)], dtype=torch.int64, device=self.device)
                self.register_buffer(f"prefix_text_{index}", model.embed(ids).clone())
            cos, sin = model.prefix_rope(self.layout)
        self.register_buffer("prefix_cos", cos)
        self.register_buffer("prefix_sin", sin)

    def embed_text(self, index: int, batch: int) -> list[torch.Tensor]:
        """Returns the embeddings of one text, or nothing for an empty text: TensorRT does not accept empty tensors."""
        if self.layout.texts[index] == 0:
            return []
        embedded = self.get_buffer(f"prefix_text_{index}")
        return [embedded if batch == 1 else embedded.expand(batch, -1, -1)]


class LookGraph(PrefixGraph):
    """Images, each uint8 (B, H, W, 3) -> depth_m (B, H, W) of the first image (only in models with a depth head), and
    keys and values (layers, B, heads_kv, P, D) of the prefix.
    """

    def __init__(self, model: Backbone, texts: Sequence[Sequence[int]], sizes_px: Sequence[tuple[int, int]]) -> None:
        super().__init__(model, texts, sizes_px)
        mask = causal_mask(self.layout.length, self.device)
        self.register_buffer("prefix_mask", mask.to(self.get_buffer("prefix_cos").dtype))

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch = images[0].shape[0]
        pieces = self.embed_text(0, batch)
        deeps = []
        for index, image in enumerate(images):
            tokens, deep = self.model.encode_image(image)
            pieces += [tokens, *self.embed_text(index + 1, batch)]
            deeps.append(deep)
        levels = [torch.cat(level, dim=1) if len(images) > 1 else level[0] for level in zip(*deeps, strict=True)]
        states, keys, values = prefill(
            self.model.language,
            torch.cat(pieces, dim=1),
            self.prefix_cos,
            self.prefix_sin,
            self.prefix_mask,
            DeepStackTokens(levels, self.layout.spans),
        )
        depth_m = self.model.depth(states, levels, self.layout)
        return (keys, values) if depth_m is None else (depth_m, keys, values)


class DepthLookGraph(nn.Module):
    """Image, uint8 (B, H, W, 3) -> depth_m, relative_std (B, H, W) and features (B, C, H/16, W/16)."""

    def __init__(self, model: DepthFirstModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.look(image))


class ReadGraph(PrefixGraph):
    """Features, depth_m and relative_std of an image (B, ...) -> keys and values (layers, B, heads_kv, P, D) of the
    prefix, which no layer of the language model changes: features and depth already know the whole image.
    """

    model: DepthFirstModel

    def forward(
        self, features: torch.Tensor, depth_m: torch.Tensor, relative_std: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch = features.shape[0]
        tokens = self.model.build_tokens(features, depth_m, relative_std)
        pieces = [*self.embed_text(0, batch), tokens, *self.embed_text(1, batch)]
        return project_prefix(self.model.language, torch.cat(pieces, dim=1), self.prefix_cos, self.prefix_sin)


class StepGraph(nn.Module):
    """Text behind G prefixes, for N = G * R rows at once: questions (T tokens) and decoding (T = 1).

    ids, positions: int64 (N, T), padded on the right. last: int64 (N,), index of each row's last real token.
    prefix_keys, prefix_values: (layers, G, heads_kv, P, D).
    own_keys, own_values: (layers, N, heads_kv, S, D), of earlier text of the same rows.
    own_mask: float (N, S), 0 where a slot is valid, -inf elsewhere. S is at least 1; the slot may be masked.
    Returns logits (N, V) after `last`, and keys and values (layers, N, heads_kv, T, D) of this text.
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
        cache = KeyValueCache(
            prefix_keys.unbind(0), prefix_values.unbind(0), own_keys.unbind(0), own_values.unbind(0), own_mask
        )
        cos, sin = self.model.text_rope(positions)
        states, keys, values = extend(self.model.language, self.model.embed(ids), cos, sin, last, cache)
        return self.model.logits(states), keys, values
