# SPDX-License-Identifier: Apache-2.0
"""Builds engines: a checkpoint becomes ONNX graphs (build, write_bundle), and the graphs become TensorRT plans
(trt_builder). engine_store manages the folders of built engines.

Graphs need torch and transformers; plans need only onnx and TensorRT.
"""

__all__ = [
    "build",
    "build_progress",
    "engine_store",
    "onnx_graphs",
    "onnx_rewrites",
    "parity",
    "precision",
    "trt_builder",
    "trt_support",
    "trt_support_table",
    "weights",
    "write_bundle",
]
