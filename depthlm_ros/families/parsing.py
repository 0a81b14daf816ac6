"""Numbers and measurements in a model's words. What is not written plainly is no number: never a made-up depth.

All patterns take time in proportion to the text, however it is made.

Boxes as numbers of 0 to 1000, in which VLM3, Qwen3-VL and the embedded model write them.

Text on its way to a model and back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from depthlm_ros.core import Region

LARGEST_M = 10_000.0
# Two statements of one length that differ by no more are the same, rounded or in other units.
SAME_SHARE = 0.03

# As written -> (unit of core.Answer, factor). "o'clock" is a direction; see vlm3_object.
_LENGTHS = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 0.01),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 0.001),
    **dict.fromkeys(("km", "kilometer", "kilometers", "kilometre", "kilometres"), 1000.0),
    **dict.fromkeys(("ft", "foot", "feet"), 0.3048),
    **dict.fromkeys(("inch", "inches"), 0.0254),
}
_SPEEDS = ("m/s", "meters/second", "metres/second", "meters per second", "metres per second", "meter per second")
UNITS = {
    **{name: ("m", factor) for name, factor in _LENGTHS.items()},
    **dict.fromkeys(_SPEEDS, ("m/s", 1.0)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("s", 1.0)),
    **dict.fromkeys(("deg", "degree", "degrees", "°"), ("deg", 1.0)),
    **dict.fromkeys(("o'clock", "o’clock"), ("o'clock", 1.0)),  # noqa: RUF001
}

# Everything that hangs together with a digit, so that "1e9", "3,5" and "1.2.3" are seen whole.
_RUN = re.compile(r"(?:(?P<sign>[-−–—])\s*|\+)?(?P<word>[\w.,/%°]+)")  # noqa: RUF001
_PLAIN = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([a-z°/]*)", re.IGNORECASE)
_UNIT = re.compile(
    rf"[\s-]{{0,3}}({'|'.join(sorted(map(re.escape, UNITS), key=len, reverse=True))})(?![\w/]|\s+(?:per|squared)\b)",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:\b(?:than|least|most|within|under|over|beyond|not|up to)|n't|(?:^|\s)[<>≤≥])\s*"
    r"(?:(?:about|around|approximately|roughly|only)\s+)?$",
    re.IGNORECASE,
)
# What stands between two numbers that belong together.
_JOINTS = {"", "to", "and", "or", "-", "–", "—", "~", "±", "x", "×"}  # noqa: RUF001
_HEDGES = re.compile(r"\b(?:about|around|approximately|approx|roughly)\b", re.IGNORECASE)


# A number with its sign, whole: neither "1e9" nor "3.5.2" holds one.
SIGNED = r"[+\-−]?[0-9]{1,6}(?:\.[0-9]{1,12})?(?![0-9]|\.[0-9]|e[-+0-9])"  # noqa: RUF001
_TUPLE = re.compile(  # whole: what goes on as something else than a number is none
    rf"(?<![\w.+\-−]){SIGNED}(?:\s*,\s*{SIGNED})+(?!\s*,\s*[+\-−]?\.?[0-9])",  # noqa: RUF001
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A number at text[start:end], its unit included. value: in `unit`, NaN if it is not written plainly; unit: as in
    core.Answer, or "o'clock", or "" where none follows. exact: False for a bound ("less than 2 m") and for part of a
    range or of a sum ("2 to 3 m", "5 feet 3 inches")."""

    value: float
    unit: str
    exact: bool
    start: int
    end: int


def numbers(text: str) -> list[Number]:
    """Everything in a text that holds a digit, in order."""
    found = [_number(text, run) for run in _RUN.finditer(text) if any(map(str.isdigit, run["word"]))]
    joined = [text[left.end : right.start].strip() in _JOINTS for left, right in pairwise(found)]
    parts = [before or after for before, after in zip([False, *joined], [*joined, False], strict=True)]
    return [replace(number, exact=False) if part else number for number, part in zip(found, parts, strict=False)]


def answered_metres(reply: str) -> float:
    """Metres in a reply to a depth question: the number in its answer tag, else the last number; NaN if there is none
    that is plain and positive.

    A tag that never closes may hold half a number: what stands before it counts.
    """
    before, closed, _ = reply.rpartition("</answer>")
    number = alone(before.rpartition("<answer>")[2]) if closed else last(reply.partition("<answer>")[0])
    return positive_metres(number)


def alone(text: str) -> Number | None:
    """The number of a text that holds nothing else than it, its unit and "about"."""
    found = numbers(text)
    if len(found) != 1:
        return None
    rest = text[: found[0].start] + " " + text[found[0].end :]
    return None if re.search(r"\w", _HEDGES.sub("", rest)) else found[0]


def last(text: str) -> Number | None:
    """The last number of a text."""
    found = numbers(text)
    return found[-1] if found else None


def positive_metres(number: Number | None) -> float:
    """The value of a number in metres or without unit; NaN if it is none, not exact, not positive or far too large."""
    if number is None or not number.exact or number.unit not in ("", "m"):
        return math.nan
    return number.value if 0 < number.value < LARGEST_M else math.nan


def stated(text: str, units: Iterable[str]) -> tuple[float, str]:
    """(value, unit) of the one measurement in any of the units that a text states; (NaN, "") if it states none, or
    several that differ, or only a bound or a range. "2.5 meters (8.2 feet)" is one."""
    wanted = set(units)
    found = [number for number in numbers(text) if number.unit in wanted]
    values = [number.value for number in found if number.exact and 0 <= number.value < LARGEST_M]
    if not found or len(values) < len(found) or len({number.unit for number in found}) > 1:
        return math.nan, ""
    if max(values) - min(values) > SAME_SHARE * max(values):
        return math.nan, ""
    return values[0], found[0].unit


def signed(word: str) -> float:
    """The value of what SIGNED matched; the sign may be the typographic minus."""
    return float(word.replace("−", "-"))  # noqa: RUF001


def tuples_in(text: str) -> list[tuple[float, ...]]:
    """The runs of two or more comma-separated numbers in a text."""
    return [tuple(signed(word.strip()) for word in run[0].split(",")) for run in _TUPLE.finditer(text)]


_OBSERVER = r"(?:the camera|the viewer|the observer|you|us|me)"
_KINDS = {
    "distance": re.compile(rf"\bfrom {_OBSERVER}\b|\baway\b(?! from)", re.IGNORECASE),
    "width": re.compile(r"\b(?:wide|width)\b", re.IGNORECASE),
    "height": re.compile(r"\btall\b|(?<!at a )\bheight\b", re.IGNORECASE),
    "gap": re.compile(rf"\bapart\b|\bfrom each other\b|\b(?:distance|gap) between (?!{_OBSERVER})", re.IGNORECASE),
}
_OTHERWISE = re.compile(r"\b(?:horizontal|vertical|lateral|forward|higher|taller|wider|deep|depth)", re.IGNORECASE)


def quantity_of(text: str) -> str:
    """What a length in a sentence is, as core.Measurement names it; "" where the words do not leave one choice."""
    kinds = [kind for kind, words in _KINDS.items() if words.search(text)]
    return kinds[0] if len(kinds) == 1 and not _OTHERWISE.search(text) else ""


def _number(text: str, run: re.Match[str]) -> Number:
    word = run["word"].rstrip(".,/")
    start, end = run.start(), run.start("word") + len(word)
    plain = _PLAIN.fullmatch(word)
    if plain is None:
        return Number(math.nan, "", False, start, end)
    name = plain[2].lower()
    if not name and word == run["word"] and (after := _UNIT.match(text, end)):
        name, end = after[1].lower(), after.end()
    if name and name not in UNITS:
        return Number(math.nan, "", False, start, end)
    unit, factor = UNITS.get(name, ("", 1.0))
    value = float(plain[1]) * factor * (-1 if run["sign"] else 1)
    return Number(value, unit, not _BOUND.search(text[max(0, start - 24) : start]), start, end)


BOX_SCALE = 1000
# "(x1, y1, x2, y2)" as it stands in questions and replies.
BOX = re.compile(r"\(([0-9]{1,4}), ([0-9]{1,4}), ([0-9]{1,4}), ([0-9]{1,4})\)")


def box_text(region: Region, size_px: tuple[int, int]) -> str:
    """A region of an image (width, height) as "(x1, y1, x2, y2)"; corners outside go to its edge."""
    return "(" + ", ".join(map(str, box_corners(region, size_px))) + ")"


def box_corners(region: Region, size_px: tuple[int, int]) -> tuple[int, ...]:
    """(x1, y1, x2, y2), each round(1000 * pixel / extent) with halves to even, as the released data have it.

    Rounded in two steps, so that a half that arithmetic left a hair away still counts as one.
    """
    right, bottom = region.x_px + region.width_px, region.y_px + region.height_px
    edges = ((region.x_px, 0), (region.y_px, 1), (right, 0), (bottom, 1))
    scaled = (round(round(BOX_SCALE * value / size_px[axis], 6)) for value, axis in edges)
    return tuple(min(max(value, 0), BOX_SCALE) for value in scaled)


def region_of(
    corners: Iterable[float], extent: tuple[float, float], size_px: tuple[int, int], label: str = ""
) -> Region | None:
    """A Region in pixels of an image (width, height) from corners x1, y1, x2, y2 of 0 to `extent`; None if it is empty,
    its corners are in the wrong order, or it lies outside."""
    x1, y1, x2, y2 = corners
    (wide, high), (width, height) = extent, size_px
    if not (0 <= x1 < x2 <= wide and 0 <= y1 < y2 <= high):
        return None
    x, y = x1 / wide * width, y1 / high * height
    return Region(x, y, (x2 - x1) / wide * width, (y2 - y1) / high * height, label)


def boxes_in(text: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
    """The possible boxes that a text names, each once, in order."""
    corners = (map(int, match.groups()) for match in BOX.finditer(text))
    found = (region_of(four, (BOX_SCALE, BOX_SCALE), size_px) for four in corners)
    return tuple(dict.fromkeys(region for region in found if region is not None))


# What the checkpoints' tokenizers take for control tokens: <|im_start|> and its like (Qwen), [INST], [/INST] and
# [SYSTEM_PROMPT], <s>, </s>, <unk> and <pad> (Pixtral).
_CONTROL = re.compile(r"<(?=\|)|\[(?=/?[A-Z]+(?:_[A-Z]+)*\])|<(?=/?(?:s|unk|pad)>|SPECIAL_)")


def without_control(question: str) -> str:
    """The question with control tokens taken apart by a space, so that a user's text never is more than text."""
    return _CONTROL.sub(lambda opening: f"{opening.group()} ", question)


def without_thinking(reply: str) -> str:
    """The reply behind its last <think> block; before it, if the block never ends."""
    _, ended, after = reply.rpartition("</think>")
    return (after if ended else reply.partition("<think>")[0]).strip()
