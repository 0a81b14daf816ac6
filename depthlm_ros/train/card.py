"""The scores on rendered scenes that a model's card tells."""

from __future__ import annotations

from typing import Any

from depthlm_ros.json_util import plain
from depthlm_ros.model import Model
from depthlm_ros.train.validate import validate
from depthlm_ros.train.validate_pairs import validate_pairs


def rendered_scores(model: Model, images: int) -> dict[str, Any]:
    """Of `images` scenes and a third as many pairs, fit for JSON."""
    return dict(plain(validate(model, images).as_dict() | {"two_views": validate_pairs(model, max(images // 3, 1))}))
