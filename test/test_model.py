# SPDX-License-Identifier: Apache-2.0
"""One look gives depth and the answers to any number of questions, and nothing about pixels that it did not see."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from depthlm_ros.backends.generation import Query, generate
from depthlm_ros.core import Frame, Intrinsics, Question, Region, Status
from depthlm_ros.errors import BadIntrinsics, BadQuestion
from depthlm_ros.model import load_model


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", threads=1)


def noise(width=640, height=480, focal=560.0, seed=0):
    rgb = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Frame(rgb, Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height), 17, "optical")


@pytest.fixture(scope="module")
def view(model):
    return model.look(noise())


def test_depth_has_the_size_header_and_camera_of_the_frame(view):
    depth = view.depth()
    assert depth.depth_m.shape == (480, 640)
    assert depth.depth_m.dtype == np.float32
    assert (depth.stamp_ns, depth.frame_id, depth.intrinsics) == (17, "optical", view.frame.intrinsics)
    assert np.isfinite(depth.depth_m).all()
    assert (depth.depth_m > 0).all()


def test_depth_outside_every_canvas_is_unknown(model):
    # 640 px at a focal length of 150 px is a field of view of 130 degrees: more than any canvas holds.
    wide = model.look(noise(focal=150.0))
    depth_m = wide.depth().depth_m
    assert np.isnan(depth_m[:, 0]).all()
    assert np.isfinite(depth_m[240, 320])
    at = wide.depth_at(np.array([[0.0, 0.0], [320.0, 240.0]]))
    assert np.isnan(at.depth_m[0])
    assert np.isnan(at.std_m[0])
    assert np.isfinite(at.depth_m[1])
    assert np.isnan(wide.tell_depth_at(np.array([[0.0, 0.0]])).depth_m).all()


def test_depth_at_a_pixel_equals_the_dense_map(view):
    uv_px = np.random.default_rng(3).integers(0, 480, (50, 2))
    at = view.depth_at(uv_px)
    np.testing.assert_array_equal(at.depth_m, view.depth().depth_m[uv_px[:, 1], uv_px[:, 0]])
    assert (at.std_m >= 0).all()


def test_questions_about_pixels_that_the_model_does_not_see_are_refused(model):
    wide = model.look(noise(focal=150.0))
    with pytest.raises(BadQuestion, match=r"does not see pixel \(0, 0\)"):
        wide.ask("How far is this point?", [(0.0, 0.0)])
    with pytest.raises(BadQuestion, match="region 20 x 20"):
        wide.ask("How far is this object?", regions=[Region(0, 0, 20, 20)])


def test_depth_is_unknown_where_rectification_left_no_image(model):
    frame = noise()
    seen = np.ones((480, 640), bool)
    seen[:100] = False
    view = model.look(replace(frame, seen=seen))
    depth_m = view.depth().depth_m
    assert np.isnan(depth_m[:100]).all()
    assert np.isfinite(depth_m[100:]).all()
    for at in (view.depth_at([(300.0, 50.0)]), view.tell_depth_at([(300.0, 50.0)])):
        assert np.isnan(at.depth_m).all()
        assert np.isnan(at.std_m).all()


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 0, 10), (630, 0, 20, 20), (0, 0, float("nan"), 4)])
def test_an_impossible_region_is_refused(view, box):
    with pytest.raises(BadQuestion, match="region"):
        view.ask("How far is this object?", regions=[Region(*box)])


def test_questions_in_one_batch_get_the_same_answers_as_one_by_one(view):
    questions = [
        Question("How far is the red box?"),
        Question("How far is this point?", np.array([[320.0, 240.0]])),
        Question("How far is this object?", regions=(Region(100, 100, 80, 90),)),
        Question("Is there a table?"),
    ]
    together = view.ask_all(questions)
    apart = [view.ask(question.text, question.uv_px, question.regions) for question in questions]
    assert [answer.text for answer in together] == [answer.text for answer in apart]
    assert view.ask_all([]) == []


def test_a_question_with_too_many_tokens_is_refused_before_it_uses_memory(view):
    with pytest.raises(BadQuestion, match="at most 512"):
        view.ask("\U0001f600" * 2000)
    with pytest.raises(BadQuestion, match="at most 512"):
        view.ask("Which point is closer?", np.full((200, 2), 300.0))


def test_points_in_one_batch_get_the_same_depth_as_one_by_one(view):
    uv_px = np.random.default_rng(4).uniform(0, 479, (40, 2))
    together = view.tell_depth_at(uv_px).depth_m
    apart = np.array([view.tell_depth_at(uv_px[i : i + 1]).depth_m[0] for i in range(len(uv_px))])
    np.testing.assert_array_equal(together, apart)


def test_questions_of_different_lengths_get_the_same_tokens_as_one_by_one(model, view):
    texts = [
        "How far is the red box?",
        "distance to the table",
        "Which is closer, the blue ball or the green box?",
        "a",
    ]
    queries = [Query(model.tokenizer.encode(text + model.chat.header).ids, model._is_end_token, 12) for text in texts]
    watched = np.array([0])
    together = [reply.ids for reply in generate(model.backend, view._look, queries, watched)]
    assert together == [generate(model.backend, view._look, [query], watched)[0].ids for query in queries]


def test_a_token_that_the_tokenizer_does_not_have_cuts_the_reply_off(model, view):
    query = Query(model.tokenizer.encode("How far is the red box?" + model.chat.header).ids, np.zeros(2, bool), 12)
    (reply,) = generate(model.backend, view._look, [query], np.array([0]))
    assert reply.ids == () and not reply.finished


def test_answers_agree_with_the_depth_map_or_name_the_contradiction(view):
    """Every distance lies between the words and the depth at its point, and near it; or the status says otherwise."""
    questions = [Question("How far is this point?", np.array([[u, 240.0]])) for u in range(60, 600, 30)]
    results = view._generate([view._prompt(question) for question in questions])
    pairs = zip(view.ask_all(questions), results, strict=True)
    pairs = [pair for pair in pairs if pair[0].status in (Status.OK, Status.INCONSISTENT)]
    assert pairs
    for answer, result in pairs:
        measured = answer.measurements[0]
        assert (measured.quantity, measured.unit) == ("distance", "m")
        assert measured.value == pytest.approx(np.linalg.norm(answer.points_m[0]), rel=1e-5)
        if answer.status is Status.INCONSISTENT:
            assert "But the depth map says" in answer.text and answer.value == measured.value
            assert answer.std == pytest.approx(abs(answer.words_value - measured.value))
        else:
            low_m, high_m = sorted((answer.words_value, measured.value))
            assert low_m - 1e-9 <= answer.value <= high_m + 1e-9
            words_std = result.number_std(answer.words_value, view._model.spec.calibration)
            assert min(words_std, measured.std) <= answer.std + 1e-9 <= max(words_std, measured.std) + 2e-9
            assert f"{answer.value:.2f} meters" in answer.text


def test_no_points_give_empty_results(view):
    assert view.tell_depth_at(np.zeros((0, 2))).depth_m.shape == (0,)
    assert view.depth_at(np.zeros((0, 2))).depth_m.shape == (0,)


@pytest.mark.parametrize("uv", [(-1.0, 0.0), (640.0, 0.0), (0.0, 480.0), (np.nan, 3.0), (np.inf, 3.0)])
def test_a_pixel_outside_the_image_is_refused_with_the_size(view, uv):
    with pytest.raises(BadQuestion, match="outside the 640 x 480 image"):
        view.ask("How far is this point?", [uv])
    with pytest.raises(BadQuestion, match="outside"):
        view.depth_at([uv])


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_an_empty_question_is_refused(view, question):
    with pytest.raises(BadQuestion, match="empty"):
        view.ask(question)


def test_a_very_long_question_is_refused_with_its_length(view):
    with pytest.raises(BadQuestion, match="100000 characters"):
        view.ask("x" * 100_000)


@pytest.mark.parametrize(
    "question", ["\x00\x01", "<|im_end|><|im_end|>", "сколько метров?", "<|image_pad|>" * 50, "?" * 200]
)
def test_strange_questions_get_an_answer_or_not_understood(view, question):
    answer = view.ask(question)
    assert isinstance(answer.status, Status)
    assert answer.status is Status.OK or np.isnan(answer.value)


@pytest.mark.parametrize(
    "camera", [(1e7, 1e7, 320, 240), (560, 1e300, 320, 240), (560, 560, 1e5, 240), (560, 560, 320, -9e9)]
)
def test_impossible_cameras_are_refused_with_their_numbers(model, camera):
    frame = replace(noise(), intrinsics=Intrinsics(*camera, 640, 480))
    with pytest.raises(BadIntrinsics, match="640 x 480"):
        model.look(frame)


def test_a_model_without_references_is_freed_immediately():
    model = load_model("tiny", threads=1)
    model.look(noise())
    alive = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert alive() is None
    finally:
        gc.enable()


def test_small_wide_and_long_cameras_all_give_depth(model):
    for width, height, focal in [(5, 5, 1.0), (16, 2000, 300.0), (1280, 720, 900.0), (64, 48, 900.0), (3, 3, 0.01)]:
        depth_m = model.look(noise(width, height, focal)).depth().depth_m
        assert depth_m.shape == (height, width)
        assert not (depth_m <= 0).any()
