"""Torch modules: the published vision-language models and their depth heads, on images of fixed sizes.

The same code trains, exports and runs. The weights are transformers' own modules, so that published checkpoints load;
the forward passes are written here. This room needs torch and transformers.
"""

__all__ = [
    "backbone",
    "depth_heads",
    "graphs",
    "loading",
    "pixels",
    "pixtral",
    "positions",
    "qwen3vl",
    "qwen25vl",
    "small_model",
    "text_decoder",
]
