# SPDX-License-Identifier: Apache-2.0
"""Small random models of the released architectures, and the logits of our forward pass over text and images."""

import torch
from transformers import LlavaConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from depthlm_ros.nets.positions import PromptLayout
from depthlm_ros.nets.text_decoder import DeepStackTokens, causal_mask, prefill

IMAGE_ID, BREAK_ID, END_ID = 5, 6, 7


def qwen25_config(**changes):
    """Windows of 4 x 4 tokens, full attention in one block of three, grouped keys, sections of M-RoPE."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 64,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 3]},
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_heads": 2,
            "out_hidden_size": 48,
            "fullatt_block_indexes": [1],
        },
        **{"image_token_id": IMAGE_ID, "video_token_id": 8} | changes,
    )


def qwen3_config(**changes):
    """Three DeepStack levels; patches of 16 px as in the released models."""
    return Qwen3VLConfig(
        text_config={
            "vocab_size": 64,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_heads": 2,
            "patch_size": 16,
            "out_hidden_size": 48,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        **{"image_token_id": IMAGE_ID, "video_token_id": 8} | changes,
    )


def pixtral_config(**changes):
    """Heads that are wider than hidden / heads, as in Mistral Nemo."""
    return LlavaConfig(
        text_config={
            "model_type": "mistral",
            "vocab_size": 64,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": None,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 16,
            "hidden_act": "silu",
        },
        **{
            "image_token_index": IMAGE_ID,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "projector_hidden_act": "gelu",
        }
        | changes,
    )


def roughen(module, amount=0.1, seed=1):
    """Makes weights larger than the usual initialisation, so that a wrong position or missing norm changes results."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * amount)
    return module.eval()


def random_images(sizes_px, batch=1, seed=2):
    """Returns uint8 (batch, H, W, 3) for each (width, height)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (batch, h, w, 3), dtype=torch.uint8, generator=generator) for w, h in sizes_px]


def layout_of(backbone, texts, sizes_px):
    return PromptLayout(tuple(map(len, texts)), tuple(map(backbone.image_span, sizes_px)))


def our_states(backbone, texts, images):
    """Returns the final states (B, P, C) of text, image, ..., text, DeepStack's tokens by level, and the layout."""
    sizes_px = [(image.shape[2], image.shape[1]) for image in images]
    layout = layout_of(backbone, texts, sizes_px)
    seen = [backbone.encode_image(image) for image in images]
    batch = images[0].shape[0]
    pieces = []
    for index, text in enumerate(texts):
        pieces.append(backbone.embed(torch.tensor([text], dtype=torch.long)).expand(batch, -1, -1))
        if index < len(seen):
            pieces.append(seen[index][0])
    deep = [torch.cat(level, dim=1) for level in zip(*(deep for _, deep in seen), strict=True)]
    cos, sin = backbone.prefix_rope(layout)
    states, _, _ = prefill(
        backbone.language,
        torch.cat(pieces, dim=1),
        cos,
        sin,
        causal_mask(layout.length),
        DeepStackTokens(deep, layout.spans) if deep else None,
    )
    return states, deep, layout


def our_logits(backbone, texts, images):
    """Returns logits (B, P, V)."""
    with torch.no_grad():
        return backbone.logits(our_states(backbone, texts, images)[0])


def qwen_patches(images, rule, vision):
    """Returns pixels of images (1, H, W, 3) in the form in which transformers' Qwen2VL image processor passes them on:
    patches (patches, 3 * 2 * p * p) and grids (images, 3). A still image is two equal frames, and the patches of a
    token follow each other."""
    p, m = vision.patch_size, vision.spatial_merge_size
    patches, grids = [], []
    for image in images:
        pixels = (image[0].permute(2, 0, 1).double() * rule.scale - column(rule.mean)) / column(rule.std)
        rows, columns = pixels.shape[1] // p, pixels.shape[2] // p
        x = pixels[None].repeat(2, 1, 1, 1).reshape(1, 2, 3, rows // m, m, p, columns // m, m, p)
        patches.append(x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1).float())
        grids.append([1, rows, columns])
    return torch.cat(patches), torch.tensor(grids)


def column(values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None]
