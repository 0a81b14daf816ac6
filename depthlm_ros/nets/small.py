"""A small Qwen3-VL with a depth head, from a plain dictionary of sizes."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import Qwen3VLConfig

from depthlm_ros.nets.dpt import DptConfig
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth


@dataclass(frozen=True)
class SmallConfig:
    """Sizes of the model; the defaults are the embedded model's."""

    vocab: int = 1024
    patch_px: int = 8
    vision_width: int = 192
    vision_depth: int = 6
    vision_heads: int = 4
    deepstack: tuple[int, ...] = (1, 3, 4)
    width: int = 192
    depth: int = 5
    heads: int = 4
    heads_kv: int = 2
    feed_forward: int = 512
    head_projected: tuple[int, int, int, int] = (32, 48, 64, 96)
    head_features: int = 40


def build(config: SmallConfig, image_id: int, pad_id: int) -> Qwen3VLDepth:
    """A randomly initialised model (torch's global seed decides)."""
    head_dim = config.width // config.heads
    third = head_dim // 6
    vlm = Qwen3VLConfig(
        text_config={
            "vocab_size": config.vocab,
            "hidden_size": config.width,
            "intermediate_size": config.feed_forward,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads_kv,
            "head_dim": head_dim,
            "max_position_embeddings": 2048,
            "pad_token_id": pad_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head_dim // 2 - 2 * third, third, third],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": config.vision_depth,
            "hidden_size": config.vision_width,
            "intermediate_size": 4 * config.vision_width,
            "num_heads": config.vision_heads,
            "patch_size": config.patch_px,
            "out_hidden_size": config.width,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": list(config.deepstack),
        },
        image_token_id=image_id,
        video_token_id=image_id,
        tie_word_embeddings=True,
    )
    head = DptConfig(config.width, config.head_projected, config.head_features, pixels_per_token=2 * config.patch_px)
    return Qwen3VLDepth(vlm, head)
