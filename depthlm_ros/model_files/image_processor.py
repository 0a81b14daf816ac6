"""Which sizes a checkpoint's own image processor makes, from the file that comes with it.

How it scales the values of pixels is read where they are scaled (nets/pixels.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.spec import CanvasRule

# transformers 5 writes all processors into one file; where that holds the image processor, it counts.
WHOLE_FILE, IMAGE_FILE = "processor_config.json", "preprocessor_config.json"
# What the classes do where a file leaves something out (transformers' defaults).
QWEN_DEFAULTS = {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}}
PIXTRAL_DEFAULTS = {"patch_size": 16, "size": {"longest_edge": 1024}}


@dataclass(frozen=True)
class SizeRule:
    """resizes: False where the image is taken as it comes. multiple_px: sides are multiples of this.

    least_pixels, most_pixels: limits of the area, 0 for none (Qwen); most_px: limit of the longer side, None for none
    (Pixtral).
    """

    resizes: bool
    multiple_px: int
    least_pixels: int = 0
    most_pixels: int = 0
    most_px: int | None = None


def read_size_rule(folder: Path) -> SizeRule:
    """Raises BadBundle if the folder has no image processor, one of an unknown kind, or one with unusable sizes."""
    path, facts = _processor(folder)
    kind = str(facts.get("image_processor_type", facts.get("feature_extractor_type", "")))
    try:
        if kind.startswith("Qwen"):
            rule = _qwen({**QWEN_DEFAULTS, **facts})
        elif kind.startswith("Pixtral"):
            rule = _pixtral({**PIXTRAL_DEFAULTS, **facts})
        else:
            raise BadBundle(f"{path} is of the kind {kind!r}: only those of Qwen-VL and Pixtral are known.")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise BadBundle(f"{path}: patch_size, merge_size, size or the like is wrong ({exc!r}): {_AGAIN}") from exc
    sizes = (rule.multiple_px, rule.least_pixels + 1, rule.most_pixels + 1, rule.most_px or 1)
    if min(sizes) < 1 or 0 < rule.most_pixels < rule.least_pixels:
        raise BadBundle(f"{path}: sizes {rule} are impossible: {_AGAIN}")
    return rule


def settled(canvas: CanvasRule, rule: SizeRule) -> CanvasRule:
    """The canvas with the checkpoint's own sizes. most_pixels of the YAML stays as a further limit.

    Where a Pixtral's processor does not resize, the YAML says what becomes of pixels that fill no patch.
    """
    most_pixels = min((n for n in (canvas.most_pixels, rule.most_pixels) if n), default=0)
    multiple_by = canvas.multiple_by
    if rule.resizes:
        multiple_by = "nearest" if rule.most_px is None else "up"
    return replace(
        canvas,
        least_pixels=min(rule.least_pixels, most_pixels or rule.least_pixels),
        most_pixels=most_pixels,
        most_px=rule.most_px,
        multiple_px=rule.multiple_px,
        multiple_by=multiple_by,
    )


_AGAIN = "download the checkpoint again."


def _processor(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    for name in (WHOLE_FILE, IMAGE_FILE):
        path = folder / name
        if not path.is_file():
            continue
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise BadBundle(f"{path} is damaged ({exc}): {_AGAIN}") from exc
        if not isinstance(facts, dict):
            raise BadBundle(f"{path} holds no fields: {_AGAIN}")
        if name == IMAGE_FILE:
            return path, facts
        if isinstance(facts.get("image_processor"), dict):
            return path, facts["image_processor"]
    raise BadBundle(
        f"{folder} has no {IMAGE_FILE} (nor an image processor in {WHOLE_FILE}), which says how images are resized and "
        "scaled: copy it from the model that was trained further; training often does not save it."
    )


def _qwen(facts: Mapping[str, Any]) -> SizeRule:
    """Limits are areas; min_pixels and max_pixels, where given, count before those in size, as in transformers."""
    size = facts["size"] or {}
    multiple_px = _side(facts["patch_size"]) * int(facts["merge_size"])
    if not facts.get("do_resize", True):
        return SizeRule(False, multiple_px)
    least_pixels = _first(facts.get("min_pixels"), size.get("min_pixels"), size.get("shortest_edge"))
    most_pixels = _first(facts.get("max_pixels"), size.get("max_pixels"), size.get("longest_edge"))
    return SizeRule(True, multiple_px, least_pixels, most_pixels)


def _first(*given: Any) -> int:
    known = [int(value) for value in given if value is not None]
    return known[0]


def _pixtral(facts: Mapping[str, Any]) -> SizeRule:
    multiple_px = _side(facts["patch_size"])
    if not facts.get("do_resize", True):
        return SizeRule(False, multiple_px)
    size = facts["size"]
    return SizeRule(True, multiple_px, most_px=int(size["longest_edge"] if isinstance(size, dict) else size))


def _side(size: Any) -> int:
    """A patch is given by one number or by height and width."""
    sides = {int(n) for n in size.values()} if isinstance(size, dict) else {int(size)}
    (side,) = sides
    return side
