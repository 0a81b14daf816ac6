# SPDX-License-Identifier: Apache-2.0
"""The image processor of a checkpoint: which file describes it, to which sizes it resizes images, and how.

nets/backbone.py reads from the same fields how the values of pixels are scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonObject, JsonValue
from depthlm_ros.geometry.resize_rules import CanvasRule
from depthlm_ros.model_files.bounded_files import read_json

# transformers 5 writes all processors into one file. If that file holds the image processor, it takes precedence.
PROCESSOR_FILE, IMAGE_PROCESSOR_FILE = "processor_config.json", "preprocessor_config.json"
# What transformers' classes do where a file leaves a field out.
QWEN_DEFAULTS: JsonObject = {
    "patch_size": 14,
    "merge_size": 2,
    "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
}
PIXTRAL_DEFAULTS: JsonObject = {"patch_size": 16, "size": {"longest_edge": 1024}}
# Filter of a processor by the field resample, a number of PIL.Image.Resampling. Both classes use 3 by default.
FILTERS_BY_NUMBER = {2: "bilinear", 3: "bicubic"}
_ADVICE = "download the checkpoint again."


@dataclass(frozen=True)
class SizeRule:
    """How an image processor resizes an image.

    resizes: False if the processor leaves the image at its size. multiple_px: the sides become multiples of this.
    least_pixels, most_pixels: limits of the area, 0 for none (Qwen). most_px: limit of the longer side, None for none
    (Pixtral). filter: a name in antialiased_resize.FILTERS.
    """

    resizes: bool
    multiple_px: int
    least_pixels: int = 0
    most_pixels: int = 0
    most_px: int | None = None
    filter: str = "bicubic"


def read_image_processor(folder: Path) -> tuple[Path, JsonObject]:
    """Returns the file that describes the image processor of a checkpoint, and its fields. Raises BadBundle."""
    for name in (PROCESSOR_FILE, IMAGE_PROCESSOR_FILE):
        path = folder / name
        if not path.is_file():
            continue
        try:
            fields = read_json(path)
        except (OSError, ValueError) as exc:
            raise BadBundle(f"{path} is damaged ({exc}): {_ADVICE}") from exc
        if not isinstance(fields, dict):
            raise BadBundle(f"{path} holds no fields: {_ADVICE}")
        if name == IMAGE_PROCESSOR_FILE:
            return path, fields
        if isinstance(inner := fields.get("image_processor"), dict):
            return path, inner
    raise BadBundle(
        f"{folder} has no {IMAGE_PROCESSOR_FILE} (nor an image processor in {PROCESSOR_FILE}), which says how images "
        "are resized and how pixels are scaled: copy it from the model that was trained further; training often does "
        "not save it."
    )


def read_size_rule(folder: Path) -> SizeRule:
    """Reads to which sizes a checkpoint's image processor resizes, and by which filter.

    Raises BadBundle if the folder has no image processor, one of an unknown kind, or one with impossible sizes.
    """
    path, fields = read_image_processor(folder)
    kind = str(fields.get("image_processor_type", fields.get("feature_extractor_type", "")))
    try:
        if kind.startswith("Qwen"):
            rule = _qwen_rule({**QWEN_DEFAULTS, **fields})
        elif kind.startswith("Pixtral"):
            rule = _pixtral_rule({**PIXTRAL_DEFAULTS, **fields})
        else:
            raise BadBundle(f"{path} is of the kind {kind!r}: only those of Qwen-VL and Pixtral are known.")
    except (LookupError, TypeError, ValueError, OverflowError) as exc:
        raise BadBundle(f"{path}: patch_size, merge_size or size is wrong ({exc!r}): {_ADVICE}") from exc
    sizes = (rule.multiple_px, rule.least_pixels + 1, rule.most_pixels + 1, rule.most_px or 1)
    if min(sizes) < 1 or 0 < rule.most_pixels < rule.least_pixels:
        raise BadBundle(f"{path}: sizes {rule} are impossible: {_ADVICE}")
    number = fields.get("resample", 3)
    if not isinstance(number, int) or number not in FILTERS_BY_NUMBER:
        raise BadBundle(
            f"{path}: resample is {number!r}: images are resized by 3 (bicubic, as all published checkpoints do) or 2 "
            "(bilinear)."
        )
    return replace(rule, filter=FILTERS_BY_NUMBER[number])


def apply_size_rule(canvas: CanvasRule, rule: SizeRule) -> CanvasRule:
    """Returns the canvas rule with the checkpoint's own sizes and filter. The YAML file can limit most_pixels further.

    If a Pixtral's processor does not resize, pixels that do not fill a patch are not seen, whatever the YAML file says:
    the patch convolution has no padding. Steps before the processor are bicubic unless the YAML file names a filter.
    """
    most_pixels = min((n for n in (canvas.most_pixels, rule.most_pixels) if n), default=0)
    multiple_by = "crop" if canvas.multiple_by == "up" else canvas.multiple_by
    if rule.resizes:
        multiple_by = "nearest" if rule.most_px is None else "up"
    return replace(
        canvas,
        least_pixels=min(rule.least_pixels, most_pixels or rule.least_pixels),
        most_pixels=most_pixels,
        most_px=rule.most_px,
        multiple_px=rule.multiple_px,
        multiple_by=multiple_by,
        canonical_filter=canvas.canonical_filter or "bicubic",
        snap_filter=canvas.snap_filter or "bicubic",
        processor_filter=rule.filter,
    )


def _qwen_rule(fields: Mapping[str, JsonValue]) -> SizeRule:
    """Reads limits of the area. min_pixels and max_pixels take precedence over size, as in transformers."""
    size = fields["size"] or {}
    if not isinstance(size, dict):
        raise TypeError(size)
    multiple_px = _patch_side(fields["patch_size"]) * _whole(fields["merge_size"])
    if not fields.get("do_resize", True):
        return SizeRule(False, multiple_px)
    least_pixels = _first_number(fields.get("min_pixels"), size.get("min_pixels"), size.get("shortest_edge"))
    most_pixels = _first_number(fields.get("max_pixels"), size.get("max_pixels"), size.get("longest_edge"))
    return SizeRule(True, multiple_px, least_pixels, most_pixels)


def _pixtral_rule(fields: Mapping[str, JsonValue]) -> SizeRule:
    multiple_px = _patch_side(fields["patch_size"])
    if not fields.get("do_resize", True):
        return SizeRule(False, multiple_px)
    size = fields["size"]
    return SizeRule(True, multiple_px, most_px=_whole(size["longest_edge"] if isinstance(size, dict) else size))


def _patch_side(size: JsonValue) -> int:
    """Reads the side of a square patch, which is one number or a height and a width."""
    (side,) = {_whole(n) for n in size.values()} if isinstance(size, dict) else {_whole(size)}
    return side


def _first_number(*values: JsonValue) -> int:
    for value in values:
        if value is not None:
            return _whole(value)
    raise LookupError("no limit of the area")


def _whole(value: JsonValue) -> int:
    if not isinstance(value, (int, float, str)):
        raise TypeError(value)
    return int(value)
