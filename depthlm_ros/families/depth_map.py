# SPDX-License-Identifier: Apache-2.0
"""Networks for depth alone: they have no words, so no question in words can be put to them."""

from __future__ import annotations

from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import ABILITIES, Family


class DepthMap(Family):
    """The family of all models that are an ONNX file with a depth_map.yaml. Every question in words is refused."""

    name = "depth_map"
    abilities = frozenset()

    def _cannot(self, ability: str) -> BadQuestion:
        task, models = ABILITIES[ability]
        return BadQuestion(
            f"this model is a network for depth alone, which cannot {task}: ask for the depth at pixels (depth_at, "
            f"service query_depth), add `words: tiny` to its depth_map.yaml, or use {models}."
        )
