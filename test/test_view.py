# SPDX-License-Identifier: Apache-2.0
"""What is read from a look: the certainty of a number in words, and words that are checked against the depth map."""

import math
from dataclasses import replace

import numpy as np
import pytest

from depthlm_ros import view as view_module
from depthlm_ros.backends.generation import GeneratedTokens
from depthlm_ros.backends.number_uncertainty import SYMBOLS, GenerationResult
from depthlm_ros.core import DepthMap, Frame, Intrinsics, Measurement, Question, Region, Status
from depthlm_ros.errors import BadQuestion
from depthlm_ros.families.base import Reply
from depthlm_ros.model import Model, load_model
from depthlm_ros.model_files.spec import ErrorCalibration
from depthlm_ros.view import UNSEEN, compose_answer, find_comparable_measurement, local_depth_std

CAMERA = Intrinsics(30.0, 30.0, 20.0, 15.0, 41, 31)
MIDDLE = np.array([[20.0, 15.0]])
IMPOSSIBLE = -60.0
NO_PIXELS = np.zeros((0, 2))
CONFIDENCE = {"confidence_gain": 2.0, "confidence_offset": -1.0}


def result_of(token_texts, doubts=(), log_probability=None, finished=True):
    """A reply of these tokens. doubts: (step, other symbol, its probability); all else was certain."""
    watched = np.full((len(token_texts) + 1, len(SYMBOLS)), IMPOSSIBLE)
    for step, text in enumerate(token_texts):
        if text in SYMBOLS:
            watched[step, SYMBOLS.index(text)] = 0.0
    for step, other, probability in doubts:
        watched[step, SYMBOLS.index(token_texts[step])] = math.log(1 - probability)
        watched[step, SYMBOLS.index(other)] = math.log(probability)
    log_probability = (0.0,) * len(token_texts) if log_probability is None else tuple(log_probability)
    tokens = GeneratedTokens(tuple(range(len(token_texts))), log_probability, finished, watched)
    return GenerationResult("".join(token_texts), tuple(token_texts), tokens)


def flat_map(depth_m=2.0):
    return DepthMap(np.full((31, 41), depth_m, np.float32), CAMERA)


def distance(value, unit="m", quantity="distance", text="It is there."):
    return Reply(text, Status.OK, value, unit, (), quantity)


def answer_at_middle(reply, std=0.05, relative_std=0.0, depth_m=2.0, confidence=0.9):
    return compose_answer(reply, std, confidence, flat_map(depth_m), MIDDLE, (), relative_std)


class TestConfidence:
    def test_confidence_is_the_geometric_mean_of_the_token_probabilities(self):
        result = result_of("ab", log_probability=(math.log(0.9), math.log(0.4)))
        assert result.confidence == pytest.approx(math.sqrt(0.9 * 0.4))

    def test_one_unlikely_token_does_not_count_less_in_a_longer_reply_of_the_same_mean(self):
        short = result_of("ab", log_probability=(math.log(0.5), 0.0))
        long = result_of("abcd", log_probability=(math.log(0.5), 0.0, math.log(0.5), 0.0))
        assert short.confidence == pytest.approx(long.confidence) == pytest.approx(math.sqrt(0.5))

    def test_confidence_of_a_reply_without_tokens_is_unknown(self):
        assert math.isnan(result_of([]).confidence)


class TestNumbersInWords:
    REPLY = ("It", " is", " ", "2", ".", "3", "5", " m")

    def test_a_number_that_was_certain_has_no_spread(self):
        assert result_of(self.REPLY).number_spread(2.35) == pytest.approx(0.0, abs=1e-6)

    def test_a_doubt_in_the_first_digit_is_a_spread_of_half_a_metre(self):
        """2.35 or 3.00 to 3.99, each with probability one half: the means differ by 1.145 m."""
        spread = result_of(self.REPLY, [(3, "3", 0.5)]).number_spread(2.35)
        # The middle of the interval of width 1 is 3.5.
        assert spread == pytest.approx(math.sqrt((1.15 / 2) ** 2 + 0.5 / 12), rel=1e-6)

    def test_the_spread_is_read_at_the_tokens_of_the_number(self):
        """A doubt in another number of the same reply does not matter."""
        texts = ("9", " or ", "2", ".", "3", "5")
        assert result_of(texts, [(0, "1", 0.5)]).number_spread(2.35) == pytest.approx(0.0, abs=1e-6)
        assert result_of(texts, [(0, "1", 0.5)]).number_spread(9.0) > 1

    def test_a_negative_number_has_the_spread_of_its_digits(self):
        doubts = [(1, "3", 0.5)]
        assert result_of(("-", "2"), doubts).number_spread(-2.0) == result_of(("", "2"), doubts).number_spread(2.0) > 0

    def test_a_number_that_the_reply_does_not_contain_has_no_spread(self):
        assert result_of(self.REPLY, [(3, "3", 0.5)]).number_spread(7.0) == 0.0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_number_that_is_not_finite_has_an_unknown_spread(self, value):
        assert math.isnan(result_of(self.REPLY).number_spread(value))

    def test_no_number_has_an_unknown_standard_deviation(self):
        calibration = ErrorCalibration(words_spread=0.0, words_relative=0.0)
        assert math.isnan(result_of(self.REPLY).number_std(math.nan, calibration))

    def test_spread_and_relative_error_are_scaled_and_added_as_variances(self):
        result = result_of(self.REPLY, [(3, "3", 0.5)])
        spread = result.number_spread(2.35)
        std = result.number_std(2.35, ErrorCalibration(words_spread=3.0, words_relative=0.2))
        assert std == pytest.approx(math.hypot(3.0 * spread, 0.2 * 2.35))
        assert result.number_std(2.35, ErrorCalibration()) == pytest.approx(spread)


class TestComparableMeasurement:
    HEIGHT = Measurement("height", 0.7, "m", 0.1)
    FIRST = Measurement("distance", 2.0, "m", 0.1, (0,))
    SECOND = Measurement("distance", 3.0, "m", 0.1, (1,))

    def test_the_first_of_the_same_quantity_is_taken(self):
        assert find_comparable_measurement(distance(2.5), [self.HEIGHT, self.FIRST, self.SECOND]) is self.FIRST

    def test_a_reply_that_names_one_thing_gives_the_nearest_of_several_distances(self):
        """The second point is closer: ..."""
        assert find_comparable_measurement(distance(2.5), [self.SECOND, self.FIRST]) is self.FIRST
        boxes = (Region(0, 0, 4, 4), Region(4, 4, 4, 4))
        two_things = replace(distance(2.5), boxes=boxes)
        assert find_comparable_measurement(two_things, [self.SECOND, self.FIRST]) is self.SECOND
        wide = replace(self.HEIGHT, value=0.5)
        assert find_comparable_measurement(distance(0.6, quantity="height"), [self.HEIGHT, wide]) is self.HEIGHT

    def test_one_of_unknown_value_is_skipped(self):
        unknown = replace(self.FIRST, value=math.nan)
        assert find_comparable_measurement(distance(2.5), [unknown, self.SECOND]) is self.SECOND

    def test_an_infinite_one_is_skipped(self):
        assert find_comparable_measurement(distance(2.5), [replace(self.FIRST, value=math.inf)]) is None

    @pytest.mark.parametrize(
        "reply",
        [
            distance(2.5, quantity="width"),
            distance(2.5, unit="deg"),
            distance(2.5, quantity=""),
            distance(math.nan),
            distance(math.inf),
        ],
        ids=["another quantity", "another unit", "no quantity", "no number", "infinite"],
    )
    def test_nothing_is_compared(self, reply):
        assert find_comparable_measurement(reply, [self.FIRST]) is None

    def test_nothing_was_measured(self):
        assert find_comparable_measurement(distance(2.5), []) is None


class TestConsistency:
    SAYS_5 = "It is 5.00 meters away."

    def test_a_contradiction_is_named_and_the_measured_number_is_the_value(self):
        answer = answer_at_middle(distance(5.0, text=self.SAYS_5))
        assert answer.text == "It is 5.00 meters away. But the depth map says 2.00 meters."
        assert answer.std == pytest.approx(3.0)
        assert (answer.value, answer.unit, answer.status, answer.confidence) == (2.0, "m", Status.INCONSISTENT, 0.9)
        assert answer.words_value == 5.0

    def test_a_number_that_is_too_small_contradicts_too(self):
        answer = answer_at_middle(distance(0.5))
        assert "But the depth map says 2.00 meters." in answer.text
        assert (answer.status, answer.std) == (Status.INCONSISTENT, pytest.approx(1.5))

    def test_two_numbers_that_agree_become_one_in_value_and_text(self):
        """The variances are 0.2 and 0.1 squared: the measured number counts 4 / 5."""
        answer = answer_at_middle(distance(2.2, text="It is 2.20 meters away."), std=0.2, relative_std=0.05)
        assert answer.measurements[0].std == pytest.approx(0.1)
        assert answer.value == pytest.approx(2.04)
        assert answer.std == pytest.approx(0.2 / 5 + 0.1 * 4 / 5)
        assert (answer.text, answer.status, answer.words_value) == ("It is 2.04 meters away.", Status.OK, 2.2)

    def test_the_more_certain_number_counts_more(self):
        sure_words = answer_at_middle(distance(2.2), std=0.01, relative_std=0.1)
        sure_map = answer_at_middle(distance(2.2), std=0.1, relative_std=0.005)
        assert abs(sure_words.value - 2.2) < 0.002 and abs(sure_map.value - 2.0) < 0.002

    def test_numbers_contradict_each_other_beyond_three_standard_deviations(self):
        """3 * hypot(0.3, 0.2) = 1.08."""
        agrees = answer_at_middle(distance(3.07), std=0.3, relative_std=0.1)
        contradicts = answer_at_middle(distance(3.09), std=0.3, relative_std=0.1)
        assert (agrees.status, contradicts.status) == (Status.OK, Status.INCONSISTENT)

    def test_a_number_of_unknown_uncertainty_gives_way_to_the_measured_one(self):
        answer = answer_at_middle(distance(5.0, text=self.SAYS_5), std=math.nan, relative_std=0.1)
        assert (answer.text, answer.status) == ("It is 2.00 meters away.", Status.OK)
        assert (answer.value, answer.std, answer.words_value) == (2.0, pytest.approx(0.2), 5.0)

    def test_a_map_of_unknown_uncertainty_leaves_the_words(self):
        answer = answer_at_middle(distance(5.0, text=self.SAYS_5), relative_std=math.nan)
        assert (answer.text, answer.value, answer.std) == (self.SAYS_5, 5.0, 0.05)

    def test_unknown_depth_leaves_the_words(self):
        answer = answer_at_middle(distance(5.0, text=self.SAYS_5), depth_m=math.nan)
        assert (answer.text, answer.status, answer.value, answer.std) == (self.SAYS_5, Status.OK, 5.0, 0.05)
        assert math.isnan(answer.measurements[0].value) and np.isnan(answer.points_m).all()

    def test_another_unit_is_named_as_it_is(self, monkeypatch):
        angle = Measurement("angle", 30.0, "deg", 1.0)
        monkeypatch.setattr(view_module, "measure", lambda *_: (angle,))
        assert answer_at_middle(distance(60.0, "deg", "angle")).text.endswith("But the depth map says 30.00 deg.")

    def test_the_standard_deviation_of_each_pixel_counts(self):
        """The map tells it: 0.5 m on the left, 0.02 m on the right. The scalar does not matter then."""
        std_m = np.full((31, 41), 0.02, np.float32)
        std_m[:, :20] = 0.5
        depth = replace(flat_map(), std_m=std_m)
        found = [
            compose_answer(distance(2.4), 0.05, 0.9, depth, np.array([[u, 15.0]]), (), 9.9).status for u in (5.0, 20.0)
        ]
        assert found == [Status.OK, Status.INCONSISTENT]


class TestUncertainty:
    BOX = (Region(19.5, 14.5, 3, 3, "box"),)

    def about_object(self, confidence, value=2.0):
        reply = distance(value, text=f"The box is {value:.2f} meters away.")
        return compose_answer(reply, 0.05, confidence, flat_map(), NO_PIXELS, self.BOX, 0.02).text

    def test_an_answer_about_an_object_says_that_it_is_not_sure(self):
        assert self.about_object(0.34) == "I am not sure: The box is 2.00 meters away."
        assert self.about_object(0.36) == "The box is 2.00 meters away."

    def test_a_contradiction_is_said_without_it(self):
        assert self.about_object(0.1, value=9.0).startswith("The box is 9.00 meters away. But")

    def test_unknown_confidence_and_marked_pixels_need_no_remark(self):
        assert self.about_object(math.nan) == "The box is 2.00 meters away."
        assert answer_at_middle(distance(2.0), confidence=0.1).text == "It is there."


class TestPoints:
    def test_points_lie_at_the_pixels(self):
        uv_px = np.array([[20.0, 15.0], [35.0, 0.0]])
        answer = compose_answer(distance(2.0), 0.1, 0.9, flat_map(), uv_px, (), 0.0)
        np.testing.assert_allclose(answer.points_m, [[0, 0, 2], [1, -1, 2]])

    def test_points_lie_in_the_middle_of_regions_if_there_are_no_pixels(self):
        regions = [Region(10.5, 5.5, 20, 20, "box"), Region(20.5, 5.5, 30 - 20.5, 20)]
        answer = compose_answer(distance(2.0), 0.1, 0.9, flat_map(), NO_PIXELS, regions, 0.0)
        np.testing.assert_allclose(answer.points_m[0], [0, 0, 2])
        assert answer.points_m.shape == (2, 3) and answer.regions == tuple(regions)

    def test_there_are_points_at_the_pixels_only_if_there_are_both(self):
        answer = compose_answer(distance(2.0), 0.1, 0.9, flat_map(), MIDDLE, [Region(0, 0, 9, 9)], 0.0)
        np.testing.assert_allclose(answer.points_m, [[0, 0, 2]])

    @pytest.mark.parametrize("outside", [(-0.6, 15), (40.5, 15), (20, -0.6), (20, 30.5), (math.nan, 15)])
    def test_there_are_no_points_outside_the_image(self, monkeypatch, outside):
        monkeypatch.setattr(view_module, "measure", lambda *_: ())
        uv_px = np.array([outside, MIDDLE[0]])
        answer = compose_answer(distance(2.0), 0.1, 0.9, flat_map(), uv_px, (), 0.0)
        np.testing.assert_allclose(answer.points_m, [[0, 0, 2]])

    def test_a_question_about_nothing_has_no_points(self):
        answer = compose_answer(distance(2.0), 0.1, 0.9, flat_map(), NO_PIXELS, (), 0.0)
        assert answer.points_m.shape == (0, 3) and answer.measurements == ()


class TestSpreadOfTheMap:
    MAP_M = np.arange(12, dtype=np.float32).reshape(3, 4) ** 2

    def test_it_is_the_standard_deviation_of_the_pixels_around(self):
        around = self.MAP_M[0:3, 1:4].astype(np.float64)
        assert local_depth_std(self.MAP_M, np.array([[2.2, 0.9]])) == pytest.approx([around.std()])

    def test_the_edge_is_repeated_at_the_border(self):
        around = np.pad(self.MAP_M.astype(np.float64), 1, mode="edge")[0:3, 0:3]
        assert local_depth_std(self.MAP_M, np.array([[0, 0]])) == pytest.approx([around.std()])

    def test_it_is_unknown_beside_unknown_depth(self):
        map_m = self.MAP_M.copy()
        map_m[0, 0] = np.nan
        assert np.isnan(local_depth_std(map_m, np.array([[1, 1], [3, 1]]))).tolist() == [True, False]


@pytest.fixture(scope="module")
def looked():
    """From a calibration to a view of the same noise with it. tells_std: whether the map tells its deviations."""
    tiny = load_model("tiny", threads=1)
    rgb = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    frame = Frame(rgb, Intrinsics(560.0, 560.0, 319.5, 239.5, 640, 480))

    def look(tells_std=True, **calibration):
        spec = replace(tiny.spec, calibration=ErrorCalibration(**calibration))
        view = Model(spec, tiny.family, tiny.chat, tiny.backend, tiny.tokenizer).look(frame)
        if not tells_std:
            view._newest_look = replace(view._newest_look, relative_std=None)
        return view

    return look


def test_the_spread_of_the_map_counts_by_its_calibrated_factor(looked):
    uv_px = np.random.default_rng(3).integers(0, 480, (20, 2))
    once, thrice, never = (looked(False, dense_spread=factor).depth_at(uv_px).std_m for factor in (1.0, 3.0, 0.0))
    assert (once > 0).all() and not never.any()
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)


def test_spread_and_relative_error_of_the_map_are_added_as_variances(looked):
    uv_px = np.random.default_rng(3).integers(0, 480, (20, 2))
    spread_m = looked(False, dense_spread=2.0).depth_at(uv_px).std_m
    both = looked(False, dense_spread=2.0, dense_relative=0.3).depth_at(uv_px)
    np.testing.assert_allclose(both.std_m, np.hypot(spread_m, 0.3 * both.depth_m), rtol=1e-5)


def test_a_map_that_tells_its_deviations_uses_their_own_factor_and_floor(looked):
    uv_px = np.random.default_rng(3).integers(0, 480, (20, 2))
    once, thrice = (looked(map_std_factor=factor, dense_spread=9.0).depth_at(uv_px) for factor in (1.0, 3.0))
    np.testing.assert_allclose(thrice.std_m, 3 * once.std_m, rtol=1e-5)
    both = looked(map_std_factor=1.0, map_std_floor=0.3).depth_at(uv_px)
    np.testing.assert_allclose(both.std_m, np.hypot(once.std_m, 0.3 * once.depth_m), rtol=1e-5)


def test_deviations_grow_with_the_distance_of_the_median_from_the_centre(looked):
    uv_px = np.random.default_rng(3).integers(0, 480, (20, 2))
    plain, median_m = looked().depth_at(uv_px).std_m, float(np.median(looked().depth().depth_m))
    for centre_m in (median_m / 2, 2 * median_m):
        grown = looked(map_std_growth=1.5, map_std_centre_m=centre_m, map_std_factor=0.5).depth_at(uv_px).std_m
        np.testing.assert_allclose(grown, 0.5 * 2**1.5 * plain, rtol=0.02)


def test_deviations_grow_towards_the_top_of_the_picture(looked):
    uv_px = np.array([[100, 0], [100, 120], [100, 239], [300, 240], [100, 479]])
    plain, grown = (looked(map_std_upper=upper).depth_at(uv_px).std_m for upper in (0.0, 0.6))
    expected = np.exp(0.6 * (0.5 - (uv_px[:, 1] + 0.5) / 480))
    np.testing.assert_allclose(grown / plain, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("boxes", "status"),
    [
        ([Region(10, 20, 40, 40)], Status.NOT_FOUND),
        ([Region(180, 20, 40, 40)], Status.OK),
        ([Region(10, 20, 40, 40), Region(180, 20, 40, 40)], Status.OK),
        ([], Status.OK),
    ],
)
def test_a_thing_where_the_frame_shows_nothing_has_no_distance(looked, boxes, status):
    view, seen = looked(), np.ones((480, 640), bool)
    seen[:, :320] = False
    view.frame = replace(view.frame, seen=seen)
    answer = view._answer(Question("How far is it?"), result_of(["2"]), distance(2.0), tuple(boxes))
    assert answer.status in (status, Status.INCONSISTENT if status is Status.OK else status)
    assert math.isnan(answer.value) == (status is Status.NOT_FOUND)
    assert (answer.text == UNSEEN) == (status is Status.NOT_FOUND)


def test_a_frame_that_shows_nothing_has_no_answer(looked):
    view = looked()
    view.frame = replace(view.frame, seen=np.zeros((480, 640), bool))
    answer = view._answer(Question("How far is it?"), result_of(["2"]), distance(2.0), ())
    assert (answer.status, answer.text) == (Status.NOT_FOUND, UNSEEN)


def test_a_question_that_is_no_text_is_refused_with_what_to_do(looked):
    with pytest.raises(BadQuestion, match=r"\\ud800.*UTF-8"):
        looked().ask("How far is \ud800?")


def test_the_confidence_of_an_answer_is_calibrated(looked):
    """logit(p') = 2 logit(p) - 1."""
    plain, calibrated = (looked(**given).ask("How far is the red box?") for given in ({}, CONFIDENCE))
    assert 0 < plain.confidence < 1
    logit = math.log(plain.confidence / (1 - plain.confidence))
    assert calibrated.confidence == pytest.approx(1 / (1 + math.exp(-(2 * logit - 1))))


def test_an_answer_has_the_confidence_of_its_tokens(looked):
    view = looked()
    prompt = view._model.family.question_prompt("How far is this point?", np.array([[60.0, 50.0]]), (), (128, 96))
    (result,) = view._model.generate_replies(view._look, [prompt])
    assert 0 < result.confidence < 1
    assert result.confidence == pytest.approx(math.exp(np.mean(result.tokens.log_probability)))
