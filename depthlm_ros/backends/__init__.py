# SPDX-License-Identifier: Apache-2.0
"""How a model is run: one class for each runtime (ONNX Runtime, TensorRT, torch) with the calls of base.Backend.

generation.py decodes replies greedily over any of them; number_uncertainty.py says how certain a model was about a
number; registry.py opens a backend by name.
"""

__all__ = ["base", "generation", "number_uncertainty", "onnx_runtime", "registry", "tensorrt", "torch_backend"]
