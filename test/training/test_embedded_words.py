# SPDX-License-Identifier: Apache-2.0
"""Names and questions of the embedded training: label grids, questions about photographs, packing, tokenizer."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.embedded_training import FOCAL_PX, PICTURES, RECIPE, make_photo, make_tokenizer  # noqa: E402
from support.paths import ROOT  # noqa: E402

from depthlm_ros.core import Status  # noqa: E402
from depthlm_ros.data.photo_labels import SEGMENT_CLASSES, UNKNOWN_SEGMENT, PhotoBox  # noqa: E402
from depthlm_ros.errors import BadInput, SetupError  # noqa: E402
from depthlm_ros.families.tiny import PLACES, Tiny, point_text  # noqa: E402
from depthlm_ros.geometry.pinhole import centred_camera, rays  # noqa: E402
from depthlm_ros.nets.positions import PromptLayout  # noqa: E402
from depthlm_ros.nets.text_decoder import prefill, project_prefix  # noqa: E402
from depthlm_ros.scenes.camera.viewpoints import sample_scene_and_pose  # noqa: E402
from depthlm_ros.scenes.questions.generate import sample_questions  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.scenes.world.colours import NAMED_COLOURS  # noqa: E402
from depthlm_ros.training.embedded import tokenizer as tokenizer_module  # noqa: E402
from depthlm_ros.training.embedded.dataset import turns_about_depth  # noqa: E402
from depthlm_ros.training.embedded.losses import read_mask  # noqa: E402
from depthlm_ros.training.embedded.names import (  # noqa: E402
    ABSENT,
    DETECTED_NAMES,
    INDEX,
    NAMES,
    PRESENT,
    UNKNOWN,
    name_of_class,
    photo_names,
    rendered_names,
    similar_names,
)
from depthlm_ros.training.embedded.photo_questions import find_things, turns_about_photo  # noqa: E402
from depthlm_ros.training.embedded.pictures import Picture, PictureSources, draw_photo  # noqa: E402
from depthlm_ros.training.embedded.prompts import (  # noqa: E402
    CHAT,
    attention_target,
    make_turn,
    pack_supervised,
    point_turn,
    read_prompt_tokens,
    region_turns,
    token_at_pixel,
    tokens_in_box,
    tokens_in_mask,
    turns_about_picture,
    without_colours,
)
from depthlm_ros.training.embedded.tokenizer import load_or_make_tokenizer  # noqa: E402
from depthlm_ros.training.embedded.trainer import make_model  # noqa: E402
from depthlm_ros.training.packing import tokenize_turn  # noqa: E402

pytestmark = pytest.mark.torch
FAMILY = Tiny()
CAMERA = centred_camera((96, 64), FOCAL_PX)
SIZE_PX, TOKEN_PX = CAMERA.size_px, 16
CHAIR = PhotoBox("chair", 0.9, 16.0, 16.0, 64.0, 48.0)  # in pixels of the canvas


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def rendered():
    rng = np.random.default_rng(3)
    return render(*sample_scene_and_pose(rng), CAMERA)


# ---- label grids


def test_a_rendered_token_shows_what_fills_a_tenth_of_it_or_has_a_quarter_of_itself_there(rendered):
    grid, checked = rendered_names(rendered, TOKEN_PX), 0
    kinds = {thing.object_id: thing.kind for thing in rendered.scene.objects}
    for token in range(24):
        row, column = divmod(token, 6)
        cell = rendered.object_id[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        expected = set()
        for index in set(np.unique(cell)) - {-1}:
            pixels, whole = (cell == index).sum(), (rendered.object_id == index).sum()
            if kinds.get(index) in INDEX and (pixels >= 25.6 or pixels >= whole / 4):
                expected.add(kinds[index])
        assert {name for name, label in zip(NAMES, grid[token], strict=True) if label == PRESENT} == expected
        checked += len(expected)
    assert checked > 8
    assert (grid[:, INDEX["oven"]] == UNKNOWN).all(), "what cannot be rendered is not known to be absent"


def grid_of(boxes=(), maybe=(), segments=None, has_boxes=True):
    grid = photo_names(tuple(boxes), frozenset(maybe), segments, has_boxes, SIZE_PX, TOKEN_PX)
    return grid.reshape(4, 6, len(NAMES))


def test_a_box_shows_its_name_inside_and_leaves_its_border_open():
    chair = grid_of([CHAIR])[:, :, INDEX["chair"]]
    assert (chair[1:3, 1:4] == PRESENT).sum() >= 2 and chair[0, 5] == chair[3, 5] == ABSENT
    assert (chair[1, 2], chair[2, 2]) == (PRESENT, PRESENT)
    others = grid_of([CHAIR])
    assert (others[:, :, INDEX["bed"]] == ABSENT).all() and (others[:, :, INDEX["window"]] == UNKNOWN).all()


def test_what_may_be_there_is_unknown_and_without_a_detector_everything_is():
    grid = grid_of([CHAIR], maybe=("couch",))
    assert (grid[:, :, INDEX["sofa"]] == UNKNOWN).all()
    assert (grid_of(has_boxes=False) == UNKNOWN).all()


def test_a_segment_is_present_where_it_fills_a_token_and_absent_where_it_has_no_pixel():
    segments = np.full((16, 24), SEGMENT_CLASSES.index("wall"), np.uint8)
    segments[:, :8] = SEGMENT_CLASSES.index("window")
    segments[:, 8:9] = SEGMENT_CLASSES.index("window")
    segments[12:, 20:] = UNKNOWN_SEGMENT
    window = grid_of(segments=segments, has_boxes=False)[:, :, INDEX["window"]]
    assert (window[:, :2] == PRESENT).all() and (window[:, 2] == UNKNOWN).all() and (window[:3, 3:] == ABSENT).all()
    assert window[3, 5] == UNKNOWN, "where the segmenter was not sure, nothing is known"


def test_every_word_of_a_detector_is_a_name_or_nothing():
    assert set(DETECTED_NAMES) <= set(NAMES)
    assert name_of_class("couch") == "sofa" and name_of_class("giraffe") == "giraffe"
    assert "armchair" in similar_names("chair") and "chair" in similar_names("chair")


# ---- questions about photographs


def asked(photo, seeds=range(40), **settings):
    """Returns turns about a photograph on canvases that it covers, with the pictures they are about."""
    chosen = replace(PICTURES, **{"points": 1, "questions": 6} | settings)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        picture = draw_photo(rng, chosen, CAMERA, photo)
        for turn in turns_about_photo(rng, chosen, FAMILY, picture, CAMERA):
            yield picture, turn


def test_replies_about_photographs_are_true():
    seen = {"distance": 0, "absent": 0, "count": 0, "point": 0, "region": 0}
    lengths = np.linalg.norm(rays(CAMERA), axis=2)[2::4, 2::4]
    for picture, turn in asked(make_photo()):
        if turn.question.startswith("Depth at"):
            u, v = (np.array([int(n) for n in re.findall(r"<(\d+)>", turn.question)]) / 1000 * SIZE_PX).tolist()
            near = picture.depth_m[int(v) // 4, int(u) // 4]
            seen["point"] += 1
            assert FAMILY.read_point(turn.reply) == pytest.approx(near, rel=0.15)
            continue
        reply = FAMILY.read_reply(turn.reply, SIZE_PX)
        if reply.status is Status.NOT_FOUND:
            name = re.fullmatch(r"There is no ([a-z ]+) in this image\.", turn.reply)[1]
            assert name in DETECTED_NAMES and not similar_names(name) & {"chair", "sofa"}
            seen["absent"] += 1
        elif reply.quantity == "count":
            assert (reply.value, "chair" in turn.reply) == (1.0, True)
            seen["count"] += 1
        elif reply.boxes:
            (box,) = reply.boxes
            (true_box,) = picture.boxes
            assert box.x_px == pytest.approx(true_box.x0, abs=0.3) and box.y_px == pytest.approx(true_box.y0, abs=0.2)
            assert box.x_px + box.width_px == pytest.approx(true_box.x1, abs=0.3)
            inner = np.s_[
                math.floor(box.y_px / 4) : math.ceil((box.y_px + box.height_px) / 4),
                math.floor(box.x_px / 4) : math.ceil((box.x_px + box.width_px) / 4),
            ]
            ranges_m = (picture.depth_m * lengths)[inner]
            assert np.nanmin(ranges_m) - 0.01 <= reply.value <= np.nanmax(ranges_m) + 0.01
            inside = tokens_in_box((true_box.x0, true_box.y0, true_box.x1, true_box.y1), SIZE_PX, TOKEN_PX)
            assert np.array_equal(turn.attention[0], inside) and np.array_equal(turn.attention[1], inside)
            seen["distance"] += 1
        else:
            assert reply.status is Status.OK and "point" in turn.reply
            seen["region"] += 1
    assert min(seen.values()) > 3, seen


def test_absent_names_resemble_nothing_that_is_or_may_be_there():
    segments = np.full((12, 16), SEGMENT_CLASSES.index("bed"), np.uint8)
    boxes = (PhotoBox("cup", 0.3, 0.1, 0.1, 0.2, 0.2),)
    photo = make_photo(boxes=boxes, maybe=frozenset({"tv"}), segments=segments)
    names = {
        turn.reply[len("There is no ") : -len(" in this image.")] for _, turn in asked(photo) if "no " in turn.reply
    }
    assert len(names) > 8
    # A cup may be a bowl, a bottle or a vase; a television a laptop.
    assert not names & {"cup", "bottle", "bowl", "vase", "television", "laptop", "bed"}


def test_nothing_is_absent_where_no_detector_has_looked():
    photo = make_photo(boxes=(), maybe=frozenset(), has_boxes=False)
    assert not [turn for _, turn in asked(photo) if "There is no" in turn.reply]


@pytest.mark.parametrize(
    ("boxes", "maybe", "count"),
    [
        ((0.9, 0.8), (), "There are 2 chairs."),
        ((0.9, 0.6), (), None),
        ((0.9, 0.8), ("chair",), None),
        ((0.9,), (), "There is 1 chair."),
    ],
)
def test_things_are_counted_only_where_every_box_is_sure(boxes, maybe, count):
    placed = tuple(
        PhotoBox("chair", score, 0.35 + 0.12 * n, 0.4, 0.45 + 0.12 * n, 0.6) for n, score in enumerate(boxes)
    )
    photo = make_photo(boxes=placed, maybe=frozenset(maybe), segments=None)
    replies = {turn.reply for _, turn in asked(photo) if FAMILY.read_reply(turn.reply, SIZE_PX).quantity == "count"}
    assert replies == (set() if count is None else {count})


def test_a_box_that_the_canvas_cuts_off_is_not_counted():
    boxes = (PhotoBox("chair", 0.9, 0.4, 0.4, 0.5, 0.6), PhotoBox("chair", 0.9, 0.4, 0.0, 0.6, 0.02))
    photo = make_photo(
        boxes=boxes, segments=None, rgb=np.zeros((96, 64, 3), np.uint8), depth_m=np.ones((24, 16), np.float32)
    )
    turns = list(asked(photo))
    assert {len(picture.boxes) for picture, _ in turns} == {1}
    assert not [turn for _, turn in turns if FAMILY.read_reply(turn.reply, SIZE_PX).quantity == "count"]


def test_of_several_things_with_one_name_the_largest_is_asked_about_and_unknown_depth_is_not():
    boxes = (PhotoBox("chair", 0.9, 0.2, 0.2, 0.3, 0.3), PhotoBox("chair", 0.9, 0.4, 0.4, 0.7, 0.8))
    rng = np.random.default_rng(0)
    picture = draw_photo(rng, PICTURES, CAMERA, make_photo(boxes=boxes, segments=None))
    (thing,) = find_things(picture, CAMERA)
    assert (thing.name, thing.alike) == ("chair", 2)
    assert thing.box_px[2] - thing.box_px[0] == pytest.approx(3 * (picture.boxes[0].x1 - picture.boxes[0].x0), rel=1e-3)
    unknown = draw_photo(rng, PICTURES, CAMERA, make_photo(depth_m=np.full((12, 16), np.nan, np.float32)))
    assert find_things(unknown, CAMERA) == []
    replies = [FAMILY.read_reply(turn.reply, SIZE_PX) for _, turn in asked(unknown.labels, seeds=range(8))]
    assert replies and all(reply.status is Status.NOT_FOUND or reply.quantity == "count" for reply in replies)


def test_a_sensor_frame_is_asked_only_for_depths_of_its_known_pixels():
    depth_m = np.full((16, 24), np.nan, np.float32)
    depth_m[3, 5] = 1.25
    picture = Picture(np.zeros((64, 96, 3), np.uint8), depth_m, np.full((24, len(NAMES)), UNKNOWN, np.int8))
    turns = turns_about_depth(np.random.default_rng(0), PICTURES, FAMILY, picture)
    assert {(turn.question, turn.reply) for turn in turns} == {
        (FAMILY.point_prompt(22, 14, SIZE_PX).text, point_text(1.25))
    }


# ---- questions about rendered pictures


def test_the_family_reads_every_reply_about_pictures_back():
    texts = list(tokenizer_module.sample_texts(np.random.default_rng(5), PICTURES, PictureSources(), 12))
    for question, text in zip(texts[::2], texts[1::2], strict=True):
        if question.startswith("Depth at"):
            assert FAMILY.read_point(text) > 0
        else:
            reply = FAMILY.read_reply(text, SIZE_PX)
            assert (reply.value > 0) == (reply.status is Status.OK), text


def test_tokens_are_counted_row_by_row():
    mask = np.zeros((32, 48), bool)
    mask[20, 15:17] = True
    assert tokens_in_mask(mask, 16).tolist() == [False, False, False, True, True, False]
    assert token_at_pixel(47.4, 3.0, (48, 32), 16).tolist() == [False, False, True, False, False, False]
    # Half a pixel beyond the last pixel is still in the picture.
    assert token_at_pixel(47.5, 31.5, (48, 32), 16).tolist() == [False] * 5 + [True]
    assert tokens_in_box((0.0, 0.0, 20.0, 30.0), (48, 32), 16).tolist() == [True, False, False, True, False, False]
    assert tokens_in_box((33.0, 17.0, 37.0, 20.0), (48, 32), 16).tolist() == [False] * 5 + [True]


def test_the_target_of_a_question_is_where_its_first_and_last_thing_were_drawn():
    seen = {"things": 0, "points": 0, "none": 0}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene, pose = sample_scene_and_pose(rng)
        image = render(scene, pose, CAMERA)
        for question in sample_questions(rng, scene, image, CAMERA, 12):
            target = attention_target(question, image, TOKEN_PX)
            places = [token_at_pixel(u, v, SIZE_PX, 16) for u, v in question.uv_px]
            places += [tokens_in_mask(image.object_id == index, 16) for index in question.object_ids]
            assert (target is None) == (not places)
            kind = "things" if question.object_ids else "points" if places else "none"
            seen[kind] += 1
            if target is not None:
                assert [look.tolist() for look in target] == [places[0].tolist(), places[-1].tolist()]
    assert min(seen.values()) > 5, seen


def test_the_target_of_a_region_is_its_object():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        image = render(*sample_scene_and_pose(rng), CAMERA)
        for turn in region_turns(rng, FAMILY, image, CAMERA, TOKEN_PX):
            objects = [tokens_in_mask(image.object_id == index, 16) for index in np.unique(image.object_id)]
            assert any(np.array_equal(turn.attention[0], look) for look in objects)
            return
    pytest.fail("no scene had a region to ask about")


def test_turns_about_recoloured_pictures_name_no_colour(rendered):
    rng = np.random.default_rng(1)
    questions = sample_questions(rng, rendered.scene, rendered, CAMERA, 60, FAMILY.box_text)
    turns = turns_about_picture(rng, PICTURES, FAMILY, questions, rendered, CAMERA, TOKEN_PX)
    kept = without_colours(turns)
    words = [set(re.findall(r"\w+", f"{turn.question} {turn.reply}".lower())) for turn in kept]
    assert 5 < len(kept) < len(turns) and not set.union(*words) & set(NAMED_COLOURS)


# ---- packing and tokenizer


def test_only_replies_are_learnt(tokenizer):
    row, _ = pack_supervised([point_turn(3, 4, 2.31, FAMILY, SIZE_PX, TOKEN_PX)], tokenizer, 64, 0)
    learnt = tokenizer.decode(row.next_id[row.next_id >= 0].tolist(), skip_special_tokens=False)
    assert learnt == "2.31<|im_end|>"


def test_a_reply_is_supervised_up_to_its_first_digit_and_from_its_box_to_its_number(tokenizer):
    look, other = np.eye(6, dtype=bool)[[1, 4]]
    prompt = FAMILY.question_prompt("How far is the red box?", np.zeros((0, 2)), (), SIZE_PX)
    turns = [
        make_turn(prompt, "There is no red box in this image."),
        make_turn(prompt, "The red box is 1.00 meters away.", (look, other)),
        make_turn(prompt, "The red box at <10><5><45><65> is 8.00 meters away.", (look, other)),
        make_turn(prompt, "<90><10>", (look, other)),
    ]
    row, attention = pack_supervised(turns, tokenizer, 160, 0, image_tokens=6)
    for layer, place in enumerate((look, other)):
        supervised = attention[layer].any(-1)
        words = [tokenizer.decode(row.next_id[supervised & (row.segment == turn)].tolist()) for turn in range(4)]
        assert words == ["", "The red box is 1", "The red box at<10> is 8", "<90>"] or words[2].endswith("is 8")
        assert (attention[layer, supervised] == place).all()


def test_packed_questions_do_not_see_each_other(tokenizer):
    """The states of a packed question equal those of the same question alone after the same image."""
    model = make_model(RECIPE, tokenizer, None).eval()
    fixed = read_prompt_tokens(tokenizer)
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    layout = PromptLayout((len(fixed.before), len(fixed.after)), (model.image_span((64, 64)),))
    turns = [
        make_turn(FAMILY.question_prompt(text, np.zeros((0, 2)), (), (64, 64)), "There is no red box in this image.")
        for text in ("How far is the red box?", "Where is the blue ball?")
    ]
    row, _ = pack_supervised(turns, tokenizer, 96, 0)
    with torch.no_grad():
        seen = model.look(image)
        tokens = model.build_tokens(seen.features, seen.depth_m, seen.relative_std)
        texts = [model.embed(torch.tensor([ids])) for ids in (fixed.before, fixed.after)]
        embeddings = torch.cat([texts[0], tokens, texts[1]], 1)
        prefix = project_prefix(model.language, embeddings, *model.prefix_rope(layout))

        def states(ids, offsets, segment):
            mask = read_mask(segment, layout.length)
            bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
            rope = model.text_rope(offsets + layout.next_position)
            return prefill(model.language, model.embed(ids), *rope, bias, prefix=prefix)[0][0]

        packed = states(*(torch.from_numpy(part)[None] for part in (row.ids, row.offset, row.segment)))
        alone = tokenize_turn(turns[1], tokenizer, CHAT)
        ids = torch.tensor([[*alone.given, *alone.predicted]])
        expected = states(ids, torch.arange(ids.shape[1])[None], torch.zeros_like(ids))
    torch.testing.assert_close(packed[row.segment == 1], expected, rtol=1e-4, atol=1e-5)


def test_every_place_is_one_token(tokenizer):
    assert len(PLACES) == 201
    for place in PLACES:
        assert len(tokenizer.encode(place, add_special_tokens=False).ids) == 1, place
    reply = "The chair at <0><5><1000><995> is 1.25 meters away."
    assert tokenizer.decode(tokenizer.encode(reply).ids) == reply


def test_a_point_question_is_short_and_is_decoded_unchanged(tokenizer):
    prompt = FAMILY.point_prompt(63, 47, SIZE_PX)
    text = prompt.text + CHAT.header + prompt.forced
    ids = tokenizer.encode(text).ids
    assert len(ids) <= 5
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["How far is the red box?", "déjà vu 距離", "1234.5 (6, 7)", "tabs\tand\nlines", "  "])
def test_any_text_is_decoded_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_run_keeps_its_tokenizer_and_a_damaged_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "TOKENIZER_PICTURES", 4)
    opened = []

    def open_sources():
        opened.append(1)
        return PictureSources()

    made = load_or_make_tokenizer(RECIPE, tmp_path / "run", open_sources)
    again = load_or_make_tokenizer(replace(RECIPE, seed=9), tmp_path / "run", open_sources)
    assert again.to_str() == made.to_str() and len(opened) == 1
    (tmp_path / "run" / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match=r"tokenizer\.json is no tokenizer"):
        load_or_make_tokenizer(RECIPE, tmp_path / "run", open_sources)


def test_a_vocab_without_room_for_the_phrases_is_refused(tmp_path):
    small = replace(RECIPE, model=replace(RECIPE.model, vocab=300))
    with pytest.raises(SetupError, match=r"model.vocab is 300: at least \d+ is needed"):
        load_or_make_tokenizer(small, tmp_path, PictureSources)


def test_the_card_of_tiny_lists_the_names_that_it_knows():
    listed = (ROOT / "engines/tiny/README.md").read_text().split("The names: ")[1].split(".")[0]
    assert " ".join(listed.split()).split(", ") == list(NAMES)
