# SPDX-License-Identifier: Apache-2.0
"""Parses numbers, measurements and boxes in a model's words, and prepares a user's text for a model.

Numbers that are not written plainly count as unknown, so that no depth is invented. All patterns take time in
proportion to the text, whatever it contains. Boxes are numbers of 0 to 1000, as VLM3, Qwen3-VL and the embedded model
write them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from depthlm_ros.core import Region

LARGEST_M = 10_000.0
# Two statements of a length that differ by at most this share are the same length, rounded or in other units.
SAME_SHARE = 0.03

# Word -> factor to metres.
_LENGTHS = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 0.01),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 0.001),
    **dict.fromkeys(("km", "kilometer", "kilometers", "kilometre", "kilometres"), 1000.0),
    **dict.fromkeys(("ft", "foot", "feet"), 0.3048),
    **dict.fromkeys(("inch", "inches"), 0.0254),
}
_SPEEDS = ("m/s", "meters/second", "metres/second", "meters per second", "metres per second", "meter per second")
# Word -> (unit of core.Answer, factor). "o'clock" is a direction; see Vlm3Object.
UNITS = {
    **{name: ("m", factor) for name, factor in _LENGTHS.items()},
    **dict.fromkeys(_SPEEDS, ("m/s", 1.0)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("s", 1.0)),
    **dict.fromkeys(("deg", "degree", "degrees", "°"), ("deg", 1.0)),
    **dict.fromkeys(("o'clock", "o’clock"), ("o'clock", 1.0)),  # noqa: RUF001
}

# Matches everything that is connected to a digit, so that "1e9", "3,5" and "1.2.3" are seen as one word.
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
# Texts between two numbers that belong together.
_JOINTS = {"", "to", "and", "or", "-", "–", "—", "~", "±", "x", "×"}  # noqa: RUF001
_HEDGES = re.compile(r"\b(?:about|around|approximately|approx|roughly)\b", re.IGNORECASE)


# Matches a complete number with its sign: neither "1e9" nor "3.5.2" contains one.
SIGNED = r"[+\-−]?[0-9]{1,6}(?:\.[0-9]{1,12})?(?![0-9]|\.[0-9]|e[-+0-9])"  # noqa: RUF001
_TUPLE = re.compile(  # Complete: a tuple that continues with something other than a number does not match.
    rf"(?<![\w.+\-−]){SIGNED}(?:\s*,\s*{SIGNED})+(?!\s*,\s*[+\-−]?\.?[0-9])",  # noqa: RUF001
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A number at text[start:end], including its unit.

    value: in `unit`, NaN if it is not written plainly. unit: as in core.Answer, or "o'clock", or "" if none follows.
    exact: False for a bound ("less than 2 m") and for part of a range or of a sum ("2 to 3 m", "5 feet 3 inches").
    """

    value: float
    unit: str
    exact: bool
    start: int
    end: int


def find_numbers(text: str) -> list[Number]:
    """Returns everything in a text that contains a digit, in order."""
    found = [_number(text, run) for run in _RUN.finditer(text) if any(map(str.isdigit, run["word"]))]
    joined = [text[left.end : right.start].strip() in _JOINTS for left, right in pairwise(found)]
    parts = [before or after for before, after in zip([False, *joined], [*joined, False], strict=True)]
    return [replace(number, exact=False) if part else number for number, part in zip(found, parts, strict=False)]


def scale_lengths(text: str, factor: float, is_length: bool = False) -> str:
    """Returns a text in which every length is multiplied. is_length: whether a number alone, without unit, is one."""
    found, follows = find_numbers(text), False
    for number in reversed(found):
        alone = is_length and len(found) == 1
        # "2 to 3 m": the unit of the second number is that of both.
        follows = number.unit == "m" or (number.unit == "" and (alone or (follows and not number.exact)))
        digits = re.search(r"[0-9]+(?:\.([0-9]+))?", text[number.start : number.end])
        if not (follows and digits and math.isfinite(number.value)):
            continue
        stated = factor * float(digits[0])
        decimals = max(len(digits[1] or ""), 2 if stated < 100 else 0)
        start = number.start + digits.start()
        text = f"{text[:start]}{stated:.{decimals}f}{text[start + len(digits[0]) :]}"
    return text


def parse_answer_m(reply: str) -> float:
    """Returns metres from a reply to a depth question: the number in its answer tag, else the last number.

    NaN if there is no plain positive number. A tag that is not closed may contain half a number, so only the text
    before it is read.
    """
    before, closed, _ = reply.rpartition("</answer>")
    number = only_number(before.rpartition("<answer>")[2]) if closed else last_number(reply.partition("<answer>")[0])
    return positive_metres(number)


def only_number(text: str) -> Number | None:
    """Returns the number of a text that contains only this number, its unit and "about"; None for other texts."""
    found = find_numbers(text)
    if len(found) != 1:
        return None
    rest = text[: found[0].start] + " " + text[found[0].end :]
    return None if re.search(r"\w", _HEDGES.sub("", rest)) else found[0]


def last_number(text: str) -> Number | None:
    """Returns the last number of a text; None without one."""
    found = find_numbers(text)
    return found[-1] if found else None


def positive_metres(number: Number | None) -> float:
    """Returns the value of a number in metres or without unit; NaN for None, inexact, not positive or far too large."""
    if number is None or not number.exact or number.unit not in ("", "m"):
        return math.nan
    return number.value if 0 < number.value < LARGEST_M else math.nan


def stated_value(text: str, units: Iterable[str]) -> tuple[float, str]:
    """Returns (value, unit) of the only measurement in a text that is in any of these units.

    (NaN, "") if there is none, or several that differ, or a bound or a range. "2.5 meters (8.2 feet)" is one
    measurement.
    """
    wanted = set(units)
    found = [number for number in find_numbers(text) if number.unit in wanted]
    values = [number.value for number in found if number.exact and 0 <= number.value < LARGEST_M]
    if not found or len(values) < len(found) or len({number.unit for number in found}) > 1:
        return math.nan, ""
    if max(values) - min(values) > SAME_SHARE * max(values):
        return math.nan, ""
    return values[0], found[0].unit


def parse_signed(word: str) -> float:
    """Returns the value of a match of SIGNED; the sign may be the typographic minus."""
    return float(word.replace("−", "-"))  # noqa: RUF001


def find_tuples(text: str) -> list[tuple[float, ...]]:
    """Returns each sequence of two or more comma-separated numbers in a text."""
    return [tuple(parse_signed(word.strip()) for word in run[0].split(",")) for run in _TUPLE.finditer(text)]


_OBSERVER = r"(?:the camera|the viewer|the observer|you|us|me)"
_KINDS = {
    "distance": re.compile(rf"\bfrom {_OBSERVER}\b|\baway\b(?! from)", re.IGNORECASE),
    "width": re.compile(r"\b(?:wide|width)\b", re.IGNORECASE),
    "height": re.compile(r"\btall\b|(?<!at a )\bheight\b", re.IGNORECASE),
    "gap": re.compile(rf"\bapart\b|\bfrom each other\b|\b(?:distance|gap) between (?!{_OBSERVER})", re.IGNORECASE),
}
_OTHERWISE = re.compile(r"\b(?:horizontal|vertical|lateral|forward|higher|taller|wider|deep|depth)", re.IGNORECASE)


def quantity_in(text: str) -> str:
    """Returns what a length in a sentence is, with the names of core.Measurement; "" if the words are ambiguous."""
    kinds = [kind for kind, words in _KINDS.items() if words.search(text)]
    return kinds[0] if len(kinds) == 1 and not _OTHERWISE.search(text) else ""


def _number(text: str, run: re.Match[str]) -> Number:
    """Returns the number in a match of _RUN, with the unit that follows it."""
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
# Matches "(x1, y1, x2, y2)" as in questions and replies.
BOX = re.compile(r"\(([0-9]{1,4}), ([0-9]{1,4}), ([0-9]{1,4}), ([0-9]{1,4})\)")


def format_box(region: Region, size_px: tuple[int, int]) -> str:
    """Returns a region of an image (width, height) as "(x1, y1, x2, y2)"; corners outside are moved to the edge.

    Each number is round(1000 * pixel / extent), with halves to even as in the released data. It is rounded in two
    steps, so that a half that is inexact after the arithmetic still counts as a half.
    """
    right, bottom = region.x_px + region.width_px, region.y_px + region.height_px
    edges = ((region.x_px, 0), (region.y_px, 1), (right, 0), (bottom, 1))
    scaled = (round(round(BOX_SCALE * value / size_px[axis], 6)) for value, axis in edges)
    return "(" + ", ".join(str(min(max(value, 0), BOX_SCALE)) for value in scaled) + ")"


def region_from_corners(
    corners: Iterable[float], extent: tuple[float, float], size_px: tuple[int, int], label: str = ""
) -> Region | None:
    """Returns a Region in pixels of an image (width, height) from corners x1, y1, x2, y2 of 0 to `extent`.

    None if it is empty, its corners are in the wrong order, or it lies outside.
    """
    x1, y1, x2, y2 = corners
    (wide, high), (width, height) = extent, size_px
    if not (0 <= x1 < x2 <= wide and 0 <= y1 < y2 <= high):
        return None
    x, y = x1 / wide * width, y1 / high * height
    return Region(x, y, (x2 - x1) / wide * width, (y2 - y1) / high * height, label)


def find_boxes(text: str, size_px: tuple[int, int]) -> tuple[Region, ...]:
    """Returns the valid boxes in a text, each once, in order."""
    corners = (map(int, match.groups()) for match in BOX.finditer(text))
    found = (region_from_corners(four, (BOX_SCALE, BOX_SCALE), size_px) for four in corners)
    return tuple(dict.fromkeys(region for region in found if region is not None))


# Matches the first character of control tokens of the checkpoints' tokenizers: <|im_start|> and others (Qwen), [INST],
# [/INST] and [SYSTEM_PROMPT], <s>, </s>, <unk> and <pad> (Pixtral).
_CONTROL = re.compile(r"<(?=\|)|\[(?=/?[A-Z]+(?:_[A-Z]+)*\])|<(?=/?(?:s|unk|pad)>|SPECIAL_)")


def escape_control_tokens(question: str) -> str:
    """Returns the question with a space inside control tokens, so that a user's text cannot contain any."""
    return _CONTROL.sub(lambda opening: f"{opening.group()} ", question)


def strip_thinking(reply: str) -> str:
    """Returns the reply after its last <think> block, or before the block if that does not end."""
    _, ended, after = reply.rpartition("</think>")
    return (after if ended else reply.partition("<think>")[0]).strip()
