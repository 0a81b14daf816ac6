# SPDX-License-Identifier: Apache-2.0
"""Settings of a build that only newer versions or only one kind of TensorRT have.

Public names: name_capabilities, allow_attention_in_parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthlm_ros.errors import SetupError


def name_capabilities(trt: Any, config: Any, names: Sequence[str], title: str) -> None:
    """Tells the builder of TensorRT for RTX for which compute capabilities a plan is. For () its default stays.

    Raises SetupError for one that this version (title) does not know. TensorRT itself would ignore it in silence.
    """
    if not names:
        return
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        kind = getattr(trt.ComputeCapability, f"SM{name.replace('.', '')}", None)
        if kind is None or not config.set_compute_capability(kind, index):
            raise SetupError(f"{title} does not build for compute capability {name}: leave it out.")


def allow_attention_in_parts(trt: Any, network: Any) -> None:
    """Lets TensorRT compute an Attention node by several kernels where it has no single kernel for it.

    Otherwise it refuses the graph, and for fp32 it has none. TensorRT before 10.14 knows no such node.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "ATTENTION_INPUT":
            layer.__class__ = trt.IAttentionInputLayer  # the bindings' way to what only this kind of layer has
            layer.attention.decomposable = True
