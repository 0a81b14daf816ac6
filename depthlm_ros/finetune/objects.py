"""Records of questions about objects, as SpatialRGPT's data set has them, one JSON object per line:

{"image": path, "intrinsics": [fx, fy, cx, cy, W, H], "bbox": [[x1, y1, x2, y2], ...], pixels,
 "conversations": [{"from": "human", "value": "<image>\\nIs <mask> <depth> taller than <mask> <depth>?"},
                   {"from": "gpt", "value": "No, Region [0] is shorter than Region [1]."}, ...]}

The masks of a conversation take the boxes in their order; "Region [i]" in an answer is the question's own i-th. In a
question without masks it is the record's i-th box. `jq -c '.[]'` makes such lines of the published array.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from depthlm_ros.core import Intrinsics, Region
from depthlm_ros.data.fields import camera, image, numbers
from depthlm_ros.data.problems import BadRecord
from depthlm_ros.data.reading import require
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.parsing import box_text
from depthlm_ros.families.vlm3 import REGION, placed

IMAGE_MARK = "<image>"
# The region token that stands for a mask, and the one for its depth, which VLM3 has no use for.
_MASK = re.compile(r"<mask>(?:\s*<depth>)?")


@dataclass(frozen=True)
class ObjectRecord:
    """turns: (question, answer) with the boxes in words."""

    where: str
    image: Path
    intrinsics: Intrinsics
    turns: tuple[tuple[str, str], ...]


def parse_objects(fields: Mapping[str, object], where: str, folder: Path) -> ObjectRecord:
    """Raises BadRecord if the line is no usable record."""
    require(fields, ("image", "intrinsics", "bbox", "conversations"))
    path, intrinsics = image(fields["image"], folder), camera(fields["intrinsics"])
    boxes = [_region(box, intrinsics) for box in _boxes(fields["bbox"])]
    words = [REGION.format(box=box_text(box, intrinsics.size_px)) for box in boxes]
    try:
        turns = tuple(_in_words(_texts(fields["conversations"]), words))
    except BadQuestion as exc:
        raise BadRecord("regions malformed", str(exc)) from exc
    if not turns:
        raise BadRecord("record without a question", "conversations hold no question with its answer.")
    return ObjectRecord(where, path, intrinsics, turns)


def _boxes(values: object) -> list[list[float]]:
    found = numbers("bbox", values)
    if found.size and (found.ndim != 2 or found.shape[1] != 4):
        raise BadRecord("bbox malformed", f"bbox has shape {found.shape}: expected (N, 4), [x1, y1, x2, y2] each.")
    return list(found.tolist())


def _region(box: Sequence[float], intrinsics: Intrinsics) -> Region:
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise BadRecord("bbox malformed", f"bbox {list(box)}: expected x1 < x2 and y1 < y2, pixels.")
    if x1 >= intrinsics.width_px or y1 >= intrinsics.height_px or x2 <= 0 or y2 <= 0:
        raise BadRecord("bbox malformed", f"bbox {list(box)} is outside the image of {intrinsics.size_px}.")
    return Region(x1, y1, x2 - x1, y2 - y1)


def _texts(conversations: object) -> list[tuple[str, str]]:
    """(question, answer) as they stand in the file."""
    if not isinstance(conversations, list) or len(conversations) % 2:
        raise BadRecord("conversations malformed", "conversations are no list of questions and answers in turn.")
    texts = []
    for asked, said in zip(conversations[::2], conversations[1::2], strict=True):
        try:
            who, question, answer = (asked["from"], said["from"]), asked["value"], said["value"]
        except (TypeError, KeyError) as exc:
            raise BadRecord("conversations malformed", f"a turn lacks {exc}: expected from and value.") from exc
        if who != ("human", "gpt") or not isinstance(question, str) or not isinstance(answer, str):
            raise BadRecord("conversations malformed", f"turns are from {who}: expected texts of human, then gpt.")
        texts.append((question.replace(IMAGE_MARK, "").strip(), answer.strip()))
    return texts


def _in_words(texts: Sequence[tuple[str, str]], boxes: Sequence[str]) -> list[tuple[str, str]]:
    turns, taken = [], 0
    for question, answer in texts:
        question = _MASK.sub("<mask>", question)
        count = question.count("<mask>")
        own = list(boxes[taken : taken + count]) if count else list(boxes)
        if len(own) < count:
            raise BadRecord("regions malformed", f"there are more masks in the questions than boxes ({len(boxes)}).")
        taken += count
        turns.append((placed(question, own) if count else _named(question, own), _named(answer, own)))
    return turns


def _named(text: str, boxes: Sequence[str]) -> str:
    """Each "Region [i]" as box i."""

    def box(match: re.Match[str]) -> str:
        index = int(match[1])
        if index >= len(boxes):
            raise BadRecord("regions malformed", f"a text names region {index} of {len(boxes)}.")
        return boxes[index]

    return re.sub(r"\bRegion \[([0-9]{1,3})\]", box, text)
