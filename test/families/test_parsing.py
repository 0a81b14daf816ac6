# SPDX-License-Identifier: Apache-2.0
"""Tests of parsing numbers in realistic and in hostile replies."""
# ruff: noqa: RUF001  # look-alikes of digits and signs are what is tested

import math

import pytest

from depthlm_ros.families.parsing import find_tuples, parse_answer_m, quantity_in, stated_value

WHOLE = "<think> The point is around 2.31 meters away from the camera. </think>\n\n<answer> 2.31 </answer>"

# Between bars.
NOT_PLAIN = (
    "|meters|-1.2|- 1.2|−1.2|3,5|1e9|1E-3|1.2.3|0.00|nan|inf|-inf|Infinity|.|99999999|10000|٣|２.３１|²|1/2|50%|x2|2x|"
    "0x1F|1,200.5|3 seconds|30 deg|2 to 3|2-3 meters|2 or 3|2 ± 1|less than 3|at least 2 meters|> 3|not 3|"
    "5 feet 3 inches"
)
NOT_MEASURED = (
    "|near|2.5|2.5 boxes|-2.5 meters|2,5 meters|1e9 meters|1,200 meters|1.2.3 m|５ meters|1.0 m tall and 2.0 m wide|"
    "2 to 3 meters|between 2 and 3 meters|2–3 m|2 m ± 0.1 m|5 feet 3 inches|less than 2 m|More than about 2 m|"
    "at most 2 m|Within 2 m|up to 2 m|it isn't 2 m|is not 2 m|2 m/s|2 meters per second|2 m²|2 meters squared|"
    "2.5 million|2 minutes|99999999 m"
)


@pytest.mark.parametrize(
    ("reply", "depth_m"),
    [
        ("2.31", 2.31),
        (" 2.31 meters away", 2.31),
        ("12", 12.0),
        ("0.05", 0.05),
        ("2.31.", 2.31),
        ("+2.31", 2.31),
        ("2.31m", 2.31),
        ("<answer>2.31</answer>", 2.31),
        ("<answer> 2.31 meters </answer> 7", 2.31),
        ("<answer> about 2.31 </answer>", 2.31),
        ("<answer>\n$2.31$\n</answer>", 2.31),
        ("<answer> 231 cm </answer>", 2.31),
        (WHOLE, 2.31),
        (WHOLE.removeprefix("<think> The point is around "), 2.31),
        ("3.00 meters away. </think>\n\n<answer> 2.31 </answer>", 2.31),
        ("Of 2 boxes and 3 balls, this is 2.31 meters away", 2.31),
        (WHOLE.partition("<answer>")[0] + "<answer> 2", 2.31),
        ("<answer> </answer> tags: <answer>2.31</answer>", 2.31),
    ],
)
def test_the_depth_is_the_number_in_the_tag_or_else_the_last_number(reply, depth_m):
    assert parse_answer_m(reply) == pytest.approx(depth_m)


@pytest.mark.parametrize("number", NOT_PLAIN.split("|"))
@pytest.mark.parametrize("form", ["{}", "around {}", "<think> around 2.31 </think> <answer> {} </answer>"])
def test_anything_but_one_plain_positive_number_is_unknown(number, form):
    assert math.isnan(parse_answer_m(form.format(number)))


@pytest.mark.parametrize("inside", ["", "2.31 3.5", "2.31, 3.5", "2.31 minutes", "the point", "2.31 and 2.31"])
def test_a_tag_with_more_or_less_than_a_number_is_not_replaced_by_other_words(inside):
    assert math.isnan(parse_answer_m(f"<think> around 2.31 meters </think> <answer> {inside} </answer>"))


@pytest.mark.parametrize(
    "piece",
    ["a", "1", "1 ", " ", "-", "- ", "<answer>", "</answer>", "<think>", "m ", "1 m ", "{", "1,", "(1, ", "9" * 50],
)
def test_very_long_text_is_read_quickly(piece):
    """A parser whose time grows with the square of the length would take minutes."""
    text = piece * (60_000 // len(piece))
    parse_answer_m(text)
    parse_answer_m(f"around 2 {text} x")
    stated_value(text + "x", ("m", "deg"))
    find_tuples(text + "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The box is 2.5 meters away.", 2.5),
        ("about 2.5 m", 2.5),
        ("2.5m", 2.5),
        ("a 2.5-meter gap", 2.5),
        ("2.5 metres, I think", 2.5),
        ("250 cm", 2.5),
        ("2500 mm", 2.5),
        ("0.0025 km", 2.5),
        ("10 feet", 3.048),
        ("10 ft.", 3.048),
        ("100 inches", 2.54),
        ("2.5 meters (8.2 feet)", 2.5),
        ("It is 2.5 meters away, that is 250 cm.", 2.5),
        ("0.00 meters", 0.0),
        ("Region 3 of 7 is 2.5 METERS wide.", 2.5),
    ],
)
def test_the_only_measurement_is_read_in_metres(text, value):
    assert stated_value(text, ("m",)) == (pytest.approx(value), "m")


@pytest.mark.parametrize("text", NOT_MEASURED.split("|"))
def test_missing_several_or_bounded_measurements_give_no_value(text):
    value, unit = stated_value(text, ("m",))
    assert math.isnan(value)
    assert unit == ""


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("6.0m/s", "m/s", 6.0),
        ("6.0 meters per second", "m/s", 6.0),
        ("4.0 seconds", "s", 4.0),
        ("89.7 degrees", "deg", 89.7),
        ("89.7°", "deg", 89.7),
        ("at 3 o'clock", "o'clock", 3.0),
        ("at 3 o’clock", "o'clock", 3.0),
    ],
)
def test_other_units_are_distinguished(text, unit, value):
    assert stated_value(text, (unit,)) == (value, unit)
    assert math.isnan(stated_value(text, {"m", "m/s", "s", "deg", "o'clock"} - {unit})[0])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(512, 300)", [(512.0, 300.0)]),
        ("(512,300) then [1.5, -2]", [(512.0, 300.0), (1.5, -2.0)]),
        ("(-0.69, +0.02, −0.72).", [(-0.69, 0.02, -0.72)]),
        ("(1, 2, 3, 4)", [(1.0, 2.0, 3.0, 4.0)]),
        ("1e9, 5", []),
        ("(1, 2e5)", []),
        ("(1, 2, 3.4.5)", []),
        ("12345678, 5", []),
        ("５, 6", []),
        ("(x, y)", []),
        ("7", []),
    ],
)
def test_only_complete_tuples_are_read(text, found):
    assert find_tuples(text) == found


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("The box is 2 m away.", "distance"),
        ("The box is 2 m from the camera.", "distance"),
        ("The box is 2 m away from the chair.", ""),
        ("The box is 2 m wide.", "width"),
        ("The width of the box is 2 m.", "width"),
        ("The box is 2 m tall.", "height"),
        ("The lamp hangs at a height of 2 m.", ""),
        ("They are 2 m apart.", "gap"),
        ("The distance between the box and the ball is 2 m.", "gap"),
        ("The distance between the camera and the ball is 2 m.", ""),
        ("The horizontal distance between the box and the ball is 2 m.", ""),
        ("The box is 2 m taller than it is wide.", ""),
        ("The box is 2 m tall and as far away.", ""),
        ("2 m", ""),
    ],
)
def test_a_quantity_is_named_only_if_the_words_are_unambiguous(text, quantity):
    assert quantity_in(text) == quantity
