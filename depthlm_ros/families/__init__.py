# SPDX-License-Identifier: Apache-2.0
"""How a trained model is asked and how its reply is read: prompts, coordinates, chat templates and parsing.

Pure text and numbers: one file for each family of models, and registry.py, which finds families and chat templates by
name. A new family is one file, one line in the registry, and one YAML file in config/models.
"""

__all__ = ["base", "depthlm", "parsing", "qwen_vl", "registry", "tiny", "vlm3"]
