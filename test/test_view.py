"""What is read from a look: the certainty of a number in words, and words that are checked against the depth map."""

import math
from dataclasses import replace

import numpy as np
import pytest

from depthlm_ros import view as view_module
from depthlm_ros.backends.generation import GeneratedTokens
from depthlm_ros.backends.number_uncertainty import SYMBOLS
from depthlm_ros.core import DepthMap, Frame, Intrinsics, Measurement, Region, Status
from depthlm_ros.families.base import Reply
from depthlm_ros.model import Model, load_model
from depthlm_ros.model_files.spec import ErrorCalibration
from depthlm_ros.view import GenerationResult, compose_answer, find_comparable_measurement, local_depth_std

CAMERA = Intrinsics(30.0, 30.0, 20.0, 15.0, 41, 31)
MIDDLE = np.array([[20.0, 15.0]])
IMPOSSIBLE = -60.0
NO_PIXELS = np.zeros((0, 2))


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


def answer_at_middle(reply, std=0.05, relative_std=0.0, depth_m=2.0):
    return compose_answer(reply, std, 0.9, flat_map(depth_m), MIDDLE, (), relative_std)


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
    def test_a_contradiction_is_named_and_becomes_the_standard_deviation(self):
        answer = answer_at_middle(distance(5.0))
        assert answer.text == "It is there. But the depth map says 2.00 meters."
        assert answer.std == pytest.approx(3.0)
        assert (answer.value, answer.unit, answer.status, answer.confidence) == (5.0, "m", Status.OK, 0.9)

    def test_the_number_is_too_small_by_the_same_rule(self):
        answer = answer_at_middle(distance(0.5))
        assert "But the depth map says 2.00 meters." in answer.text
        assert answer.std == pytest.approx(1.5)

    def test_agreement_changes_neither_words_nor_standard_deviation(self):
        answer = answer_at_middle(distance(2.04))
        assert (answer.text, answer.std) == ("It is there.", 0.05)

    def test_the_uncertainty_of_the_words_is_allowed_for(self):
        assert answer_at_middle(distance(2.3), std=0.31).text == "It is there."
        assert "But the depth map says" in answer_at_middle(distance(2.3), std=0.29).text

    def test_the_uncertainty_of_the_depth_map_is_allowed_for(self):
        """0.15 m apart: more than the 0.05 m of the words, less than the 0.2 m of the map."""
        answer = answer_at_middle(distance(2.15), relative_std=0.1)
        assert answer.measurements[0].std == pytest.approx(0.2)
        assert (answer.text, answer.std) == ("It is there.", 0.05)

    def test_both_uncertainties_are_added_as_variances(self):
        """hypot(0.3, 0.2) = 0.36."""
        assert answer_at_middle(distance(2.35), std=0.3, relative_std=0.1).text == "It is there."
        assert "But the depth map says" in answer_at_middle(distance(2.37), std=0.3, relative_std=0.1).text

    def test_a_number_of_unknown_uncertainty_is_not_contradicted(self):
        answer = answer_at_middle(distance(5.0), std=math.nan)
        assert answer.text == "It is there." and math.isnan(answer.std)

    def test_unknown_depth_contradicts_nothing(self):
        answer = answer_at_middle(distance(5.0), depth_m=math.nan)
        assert (answer.text, answer.std) == ("It is there.", 0.05)
        assert math.isnan(answer.measurements[0].value) and np.isnan(answer.points_m).all()

    def test_another_unit_is_named_as_it_is(self, monkeypatch):
        angle = Measurement("angle", 30.0, "deg", 1.0)
        monkeypatch.setattr(view_module, "measure", lambda *_: (angle,))
        assert answer_at_middle(distance(60.0, "deg", "angle")).text.endswith("But the depth map says 30.00 deg.")


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
    """From a calibration to a view of the same noise with it."""
    tiny = load_model("tiny", threads=1)
    rgb = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    frame = Frame(rgb, Intrinsics(560.0, 560.0, 319.5, 239.5, 640, 480))

    def look(**calibration):
        spec = replace(tiny.spec, calibration=ErrorCalibration(**calibration))
        return Model(spec, tiny.family, tiny.chat, tiny.backend, tiny.tokenizer).look(frame)

    return look


def test_the_spread_of_the_map_counts_by_its_calibrated_factor(looked):
    uv_px = np.random.default_rng(3).integers(0, 480, (20, 2))
    once, thrice, never = (looked(dense_spread=factor).depth_at(uv_px).std_m for factor in (1.0, 3.0, 0.0))
    assert (once > 0).all() and not never.any()
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)


def test_spread_and_relative_error_of_the_map_are_added_as_variances(looked):
    uv_px = np.random.default_rng(3).integers(0, 480, (20, 2))
    spread_m = looked(dense_spread=2.0).depth_at(uv_px).std_m
    both = looked(dense_spread=2.0, dense_relative=0.3).depth_at(uv_px)
    np.testing.assert_allclose(both.std_m, np.hypot(spread_m, 0.3 * both.depth_m), rtol=1e-5)


def test_an_answer_has_the_confidence_of_its_tokens(looked):
    view = looked()
    prompt = view._model.family.question_prompt("How far is this point?", np.array([[60.0, 50.0]]), (), (128, 96))
    (result,) = view._model.generate_replies(view._look, [prompt])
    assert 0 < result.confidence < 1
    assert result.confidence == pytest.approx(math.exp(np.mean(result.tokens.log_probability)))
