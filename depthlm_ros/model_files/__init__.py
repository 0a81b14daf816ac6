# SPDX-License-Identifier: Apache-2.0
"""What a model is on disk: its spec, its YAML file, exported bundles, released checkpoints and where they are found.

This is the one place that reads a model's folder. It needs neither torch nor transformers, and it downloads nothing.
"""

__all__ = [
    "bundle",
    "checkpoint",
    "checkpoint_settings",
    "hf_cache",
    "image_processor",
    "inspection",
    "install_paths",
    "safetensors_files",
    "spec",
    "spec_yaml",
    "tokenizer_files",
    "yaml_dataclass",
]
