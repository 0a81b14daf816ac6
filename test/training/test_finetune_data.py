"""What is shown in training: order, crops, arrows, and every prompt and reply to the byte."""

import json
import struct
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from accelerate import FullyShardedDataParallelPlugin  # noqa: E402
from support.line_drawing import drawing  # noqa: E402
from support.training_files import (  # noqa: E402
    ARCHITECTURES,
    CAMERA,
    HEIGHT,
    WIDTH,
    depth_line,
    make_base,
    object_line,
    pair_line,
    point_line,
    write_image,
    write_lines,
)

from depthlm_ros.cli.finetune import recipe_file, recipes  # noqa: E402
from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.data.read import parse_objects  # noqa: E402
from depthlm_ros.data.records import BadRecord  # noqa: E402
from depthlm_ros.errors import BadBundle, BadInput, SetupError, UnknownName  # noqa: E402
from depthlm_ros.eval.judges import read_records  # noqa: E402
from depthlm_ros.eval.released import depthlm_split  # noqa: E402
from depthlm_ros.families.depthlm import ARROW_PX  # noqa: E402
from depthlm_ros.geometry import focal_estimation  # noqa: E402
from depthlm_ros.geometry.focal_estimation import make_estimator  # noqa: E402
from depthlm_ros.image_io import read_rgb, write_rgb  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.spec_yaml import spec_named  # noqa: E402
from depthlm_ros.training.finetune.collator import visible  # noqa: E402
from depthlm_ros.training.finetune.grpo import REWARDS  # noqa: E402
from depthlm_ros.training.finetune.model import find_base  # noqa: E402
from depthlm_ros.training.finetune.packing import PREFIX  # noqa: E402
from depthlm_ros.training.finetune.recipe import FocalSettings, read_recipe  # noqa: E402
from depthlm_ros.training.finetune.record_files import Order, held_back, shuffled, weights_of  # noqa: E402
from depthlm_ros.training.finetune.run import Run  # noqa: E402
from depthlm_ros.training.finetune.samples import (  # noqa: E402
    centre_cut,
    label_on,
    nearest_valid,
    plain_cut,
    random_cut,
    stretched_cut,
)
from depthlm_ros.training.finetune.trainer import Plan, make_plan, rate, supervised  # noqa: E402

pytestmark = pytest.mark.torch
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER, ASSISTANT = "<|im_start|>user\n<|vision_start|>", "<|im_end|>\n<|im_start|>assistant\n"
ARROW = (
    "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)

POINT_REPLY = "<think> The point is around {d:.2f} meters away from the camera. </think>\n\n<answer> {d:.2f} </answer>"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_base(folder / kind, kind) for kind in ("qwen2_5_vl", "qwen3_vl", "llava")}


@pytest.fixture
def lesson(bases, tmp_path):
    """Makes the lesson of a recipe on one file of records."""

    def make(recipe_name, lines, *changes, length=1, name="data.jsonl"):
        recipe = read_recipe(recipe_file(recipe_name), changes)
        for number in range(2):
            if not (tmp_path / f"{number}.png").exists():
                write_image(tmp_path / f"{number}.png", number)
        file = write_lines(tmp_path / name, lines)
        base = find_base(recipe, str(bases[ARCHITECTURES[recipe.model]]))
        return Run(recipe, base, (str(file),), tmp_path / "out").lesson(length)

    return make


def texts(made, position=0):
    """The row as text with the pictures' tokens left out; and what is learnt of it, in one string each segment."""
    row, tokenizer = made[position].row, made.speech.tokenizer
    taken = {made.speech.image_id, *(made.speech.row_ids or ())}

    def words(ids):
        return tokenizer.decode([token for token in ids if token not in taken], skip_special_tokens=False)

    segments = [row.segment == segment for segment in dict.fromkeys(row.segment.tolist())]
    return words(row.ids.tolist()), [words(row.next_id[here & (row.next_id >= 0)].tolist()) for here in segments]


# ---- order


@pytest.mark.parametrize("length", [1, 2, 3, 10, 64, 1000])
def test_a_shuffle_shows_everything_once(length):
    assert sorted(shuffled(index, length, 5) for index in range(length)) == list(range(length))


def test_epochs_are_shuffled_differently_and_a_seed_repeats_them():
    order = Order((7, 3), None, seed=4)
    epochs = [[order.at(position + 10 * epoch) for position in range(10)] for epoch in range(3)]
    everything = [(0, index) for index in range(7)] + [(1, index) for index in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[1] == [Order((7, 3), None, seed=4).at(10 + position) for position in range(10)]


def test_weights_decide_how_often_a_data_set_is_shown():
    order = Order((5, 5000), (3.0, 1.0), seed=1, nominal=100)
    shown = Counter(order.at(position)[0] for position in range(2000))
    assert shown[0] / 2000 == pytest.approx(0.75, abs=0.03)
    assert {order.at(position)[1] for position in range(400) if order.at(position)[0] == 0} == set(range(5))
    assert order.epoch == 100 * 5005


def test_an_unusable_record_is_replaced_by_the_next_one():
    order = Order((10,), None, seed=0)
    first, second = order.at(3), order.at(3, attempt=1)
    assert second == (0, (first[1] + 1) % 10)


def test_what_the_published_evaluation_scores_is_held_out_of_training(lesson, tmp_path):
    write_image(tmp_path / "0.png")
    for count in (50, 99, 1000):
        path = tmp_path / f"scannetpp_{count}.jsonl"
        lines = [point_line("0.png", count=1, scene=str(number)) for number in range(count)]
        scored = depthlm_split(read_records(write_lines(path, lines))).records
        assert {record.where for record in scored} == {
            f"{path}:{row + 1}" for row in np.flatnonzero(held_back(count, 0.02))
        }
    lines = [point_line("0.png", seed=index) for index in range(50)]
    assert len(lesson("depthlm-3b", lines, name="scannetpp.jsonl").sources[0]) == 49
    assert len(lesson("depthlm-3b", lines, name="argoverse.jsonl").sources[0]) == 50


def test_a_sample_depends_on_seed_and_position_only(lesson):
    lines = [point_line("0.png"), point_line("1.png")]
    made, again = lesson("depthlm-3b", lines, length=8), lesson("depthlm-3b", lines, length=3)
    other = lesson("depthlm-3b", lines, "seed=1", length=8)
    for position in (2, 0):
        assert np.array_equal(made[position].pictures[0], again[position].pictures[0])
        assert np.array_equal(made[position].row.ids, again[position].row.ids)
    assert any(not np.array_equal(made[p].row.ids, other[p].row.ids) for p in range(8))


def test_weights_that_are_known_for_some_files_only_are_asked_for(lesson, bases, tmp_path):
    recipe = read_recipe(recipe_file("vlm3-depth"))
    base = find_base(recipe, str(bases["qwen3_vl"]))
    files = [write_lines(tmp_path / name, [point_line("0.png")]) for name in ("argoverse.jsonl", "mine.jsonl")]
    with pytest.raises(BadInput, match=r"mine.jsonl=WEIGHT"):
        Run(recipe, base, tuple(map(str, files)), tmp_path).plan()
    given = Run(recipe, base, (str(files[0]), f"{files[1]}=0.5"), tmp_path)
    assert weights_of(given.lesson(1).sources) == (0.21, 0.5)


# ---- pictures


def test_depthlm_crops_about_the_centre_within_its_ranges():
    cut = plain_cut(Intrinsics(500.0, 400.0, 799.5, 449.5, 1600, 900), spec_named("depthlm-3b").canvas)
    assert cut.whole_px == (3200, 1800)
    for seed in range(20):
        made = random_cut(cut, np.random.default_rng(seed), (700, 1200), (1000, 1400))
        (width, height), (left, top) = made.size_px, made.left_top_px
        assert 700 <= height <= 1200 and 1000 <= width <= 1400
        assert abs(left - (3200 - width) / 2) < 1 and abs(top - (1800 - height) / 2) < 1
    small = plain_cut(Intrinsics(1000.0, 1000.0, 299.5, 199.5, 600, 400), spec_named("depthlm-3b").canvas)
    assert random_cut(small, np.random.default_rng(0), (700, 1200), (1000, 1400)) == small


def test_a_crop_shows_the_pixels_that_it_says(tmp_path):
    camera = Intrinsics(1000.0, 1000.0, 49.5, 39.5, 100, 80)
    rgb = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    cut = replace(plain_cut(camera, spec_named("depthlm-3b").canvas), size_px=(40, 30))
    view = cut.view(camera.size_px)
    assert np.array_equal(view.image_to_canvas(rgb), rgb[25:55, 30:70])
    assert view.uv_to_canvas([(30, 25)]).tolist() == [[0.0, 0.0]]
    assert view.contains(np.array([(30, 25), (29, 25), (69, 54), (70, 54)])).tolist() == [True, False, True, False]


def test_one_data_set_is_stretched_instead_of_cropped(lesson):
    cut = plain_cut(Intrinsics(500.0, 500.0, 255.5, 255.5, 512, 512), spec_named("depthlm-3b").canvas)
    heights = {stretched_cut(cut, np.random.default_rng(seed), (1.0, 1.3)).size_px[1] for seed in range(30)}
    assert max(heights) <= 1024 and min(heights) >= int(1024 / 1.3) and len(heights) > 20
    changes = ("model=depthlm-12b", "data.stretch={taskonomy: [1.99, 2.0]}")
    plain, stretched = (
        lesson("depthlm-3b", [point_line("0.png")], *changes, name=name)[0].pictures[0].shape[:2]
        for name in ("argoverse.jsonl", "taskonomy.jsonl")
    )
    assert (plain, stretched) == ((48, 64), (32, 64))  # 48 x 72 and 36 x 72 in whole patches of 16


@pytest.mark.parametrize(
    ("valid", "drawn", "expected"),
    [
        ([1, 1, 1], 1, 1),
        ([1, 0, 1], 1, 0),  # both are as near: the lower one
        ([0, 0, 0, 0, 1], 0, 4),
        ([1, 0, 0, 1], 2, 3),
        ([0, 0], 0, None),
    ],
)
def test_an_invalid_point_is_replaced_by_the_nearest_in_the_list(valid, drawn, expected):
    assert nearest_valid(np.array(valid, bool), drawn) == expected


def test_the_arrow_points_at_the_point_whose_depth_is_told(lesson):
    """At the model's own focal length, with a processor that leaves the size alone, every pixel is known."""
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.345])
    made = lesson("depthlm-3b", [line], "model=depthlm-12b", "data.depth_type=label")
    scale = 750 / 1000
    u, v = (int(np.floor((at + 0.5) * scale)) for at in (40, 20))
    picture = made[0].pictures[0]
    red = {(u, v) for v, u in np.argwhere((picture == (255, 0, 0)).all(2)).tolist()}
    assert red == {(u + du, v + dv) for du, dv in ARROW_PX.tolist()}
    assert picture.shape == (48, 64, 3)  # of 48 x 72 the whole patches of 16


def test_depthvlm_labels_lie_where_the_pixels_lie():
    camera = Intrinsics(500.0, 500.0, 49.5, 39.5, 100, 80)
    cut = plain_cut(camera, spec_named("depthvlm-4b").canvas)
    assert cut.whole_px == (200, 160)
    depth_m = np.arange(20, dtype=np.float32).reshape(4, 5)
    label_m = label_on(cut, depth_m)
    assert label_m.shape == (160, 200)
    assert np.array_equal(label_m, depth_m.repeat(40, axis=0).repeat(40, axis=1))
    assert np.array_equal(label_on(centre_cut(cut, 100), depth_m), label_m[30:130, 50:150])
    assert centre_cut(cut, None) == cut


def test_without_crops_a_picture_is_what_the_model_sees_at_run_time(lesson, bases):
    from depthlm_ros.core import Frame

    made = lesson("vlm3-depth", [point_line("0.png")])
    model = load_model(f"vlm3-depth={bases['qwen3_vl']}", backend="torch", device="cpu")
    rgb = read_rgb(made.sources[0].path.parent / "0.png")
    view = model.look(Frame(rgb, Intrinsics(*CAMERA)))
    assert np.array_equal(made[0].pictures[0], view._placement.canvas)


def test_a_label_along_the_ray_becomes_what_the_model_means(lesson):
    corner = {"pixel_coords": [[6, 6]], "depth": [3.0]}
    length = np.sqrt(1 + ((6 - CAMERA[2]) / 1000) ** 2 + ((6 - CAMERA[3]) / 1000) ** 2)
    for said, wanted, expected in (("z", "range", 3 * length), ("range", "z", 3 / length), ("range", "range", 3.0)):
        line = point_line("0.png", **corner, depth_type=said)
        sample, _ = lesson("depthlm-3b", [line], f"data.depth_type={wanted}").shown(0)
        assert sample.truth_m[0] == pytest.approx(expected, rel=1e-12)
    mixed, _ = lesson("depthlm-3b", [point_line("0.png", **corner, depth_type="ray")], "data.depth_type=label").shown(0)
    assert mixed.truth_m == (3.0,)


def test_depthvlms_own_files_mean_distances_where_they_do(lesson, tmp_path):
    write_image(tmp_path / "0.png", 0)
    line = depth_line(tmp_path, "0.png") | {"depth_type": "z_depth"}
    ray = lesson("depthvlm-stage1", [line], name="argoverse.jsonl")[0].depth_m
    z = lesson("depthvlm-stage1", [line], name="ddad.jsonl")[0].depth_m
    assert (ray < z).mean() > 0.99 and np.allclose(ray, z, rtol=2e-3)


# ---- words


def test_depthlm_asks_and_answers_to_the_byte(lesson):
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.351], depth_type="range")
    made = lesson("depthlm-3b", [line])
    reply = POINT_REPLY.format(d=2.35)
    whole = f"{SYSTEM}{USER}<|vision_end|>{ARROW}{ASSISTANT}{reply}<|im_end|>\n<|im_start|>assistant\n"
    said, learnt = texts(made)
    assert said == whole
    assert learnt == [whole.removeprefix("<|im_start|>")]  # nothing comes before the first token
    only, (taught,) = texts(lesson("depthlm-3b", [line], "text.loss_on=reply", "text.trailing_header=false"))
    assert only == whole.removesuffix("\n<|im_start|>assistant\n") and taught == f"{reply}<|im_end|>"


def test_pixtral_is_asked_in_its_own_chat_with_rows_of_tokens(lesson):
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.0], depth_type="range")
    made = lesson("depthlm-3b", [line], "model=depthlm-12b")
    reply = POINT_REPLY.format(d=2.0)
    said, _ = texts(made)
    system = "[SYSTEM_PROMPT]You are a helpful assistant.[/SYSTEM_PROMPT]"
    assert said.replace(" ", "") == f"<s>{system}[INST]{ARROW}[/INST]{reply}</s>".replace(" ", "")
    row, (image, (brk, end)) = made[0].row, (made.speech.image_id, made.speech.row_ids)
    rows, columns = (side // 16 for side in made[0].pictures[0].shape[:2])
    tokens = [token for token in row.ids.tolist() if token in (image, brk, end)]
    assert tokens == ([image] * columns + [brk]) * (rows - 1) + [image] * columns + [end]
    learnt = set(row.next_id.tolist())
    assert not learnt & {image, brk, end}


def test_depthvlm_says_one_fixed_thing_and_nothing_in_its_first_stage(lesson, tmp_path):
    write_image(tmp_path / "0.png", 0)
    line = depth_line(tmp_path, "0.png")
    question = (
        "Given this image, estimate the metric depth (in meters, rounded to two decimal places) for every pixel of the "
        "image."
    )
    given = f"{SYSTEM}{USER}<|vision_end|>{question}{ASSISTANT}"
    said, learnt = texts(lesson("depthvlm-stage2", [line]))
    reply = "OK, I will estimate the depth map of this image.<|im_end|>"
    assert (said, learnt) == (given + reply, [reply])
    assert texts(lesson("depthvlm-stage1", [line])) == (given, [""])
    _, (after,) = texts(lesson("depthvlm-stage2", [line], "text.loss_on=after_image"))
    assert after == f"<|vision_end|>{question}{ASSISTANT}{reply}"


def test_vlm3_writes_coordinates_of_0_to_2000(lesson):
    line = point_line("0.png", pixel_coords=[[24, 16]], depth=[1.5], depth_type="range")
    question = (
        "Given this image, how far is the point at coordinates ({nx}, {ny}) from the camera? The coordinates are in "
        "normalised [0, 2000] format relative to image width and height. Output the thinking process in <think> "
        "</think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
    )
    reply = POINT_REPLY.format(d=1.5) + "<|im_end|>"
    said, learnt = texts(lesson("vlm3-depth", [line]))
    asked = question.format(nx=round(2000 * 24 / WIDTH), ny=round(2000 * 16 / HEIGHT))
    assert said == f"{USER}<|vision_end|>{asked}{ASSISTANT}{reply}"
    assert learnt == [reply]


def test_vlm3_boxes_stand_for_masks(lesson):
    boxes = ["(104, 125, 521, 625)", "(625, 312, 938, 938)"]  # round(1000 * x / W), halves to even
    first, second = (f"bounding box region {box}" for box in boxes)
    answers = [
        f"No, {first} is shorter than {second}.<|im_end|>",
        f"{first} is 0.52 meters wide.<|im_end|>",
    ]
    said, learnt = texts(lesson("vlm3-object", [object_line("0.png")], "text.layout=turns"))
    second_turn = f"\n<|im_start|>user\nHow wide is {first}?{ASSISTANT}"
    assert said == (
        f"{USER}<|vision_end|>Is {first} taller than {second}?{ASSISTANT}{answers[0]}{second_turn}{answers[1]}"
    )
    assert learnt == ["".join(answers)]
    _, packed = texts(lesson("vlm3-object", [object_line("0.png")]))
    assert packed == ["", *answers]


def test_vlm3_matches_are_thought_and_told(lesson):
    line = pair_line("0.png", "1.png") | {"pixel_coords": [[24, 16]], "matched_coords": [[48, 48]]}
    made = lesson("vlm3-corr", [line])
    height, width = made[0].pictures[0].shape[:2]
    (x1, x2), (y1, y2) = (
        [round(1000 * ((at + 0.5) * extent / whole - 0.5) / extent) for at in pixels]
        for pixels, extent, whole in (((24, 48), width, WIDTH), ((16, 48), height, HEIGHT))
    )
    question = (
        f"Given these two images, what pixel in the second image corresponds to pixel ({x1}, {y1}) in the first image? "
        "Report the answer as (x, y). Please think step by step and follow the format: "
        '"<think> [think process] </think>\n\n[answer]".'
    )
    said, (reply,) = texts(made)
    assert said == f"{USER}<|vision_end|><|vision_start|><|vision_end|>{question}{ASSISTANT}{reply}"
    assert reply.startswith("<think> ") and reply.endswith(f" </think>\n\n({x2}, {y2})<|im_end|>")


def test_vlm3_poses_are_told_in_three_of_four_replies(lesson):
    line = pair_line("0.png", "1.png")
    made = lesson("vlm3-pose", [line], length=20)
    expected = {
        "Rotation angle: 17.2 degrees<|im_end|>",
        "Yaw=+17.2°, Pitch=+0.0°, Roll=+0.0°<|im_end|>",
        "The camera moves right, forward, unit vector (+0.93, +0.00, +0.37).<|im_end|>",
        "Translation distance: 0.54 meters<|im_end|>",
    }
    told = [texts(made, position)[1] for position in range(20)]
    assert all(prefix == "" and len(replies) == 3 for prefix, *replies in told)
    assert {reply for _, *replies in told for reply in replies} == expected


def test_packed_questions_see_the_pictures_and_themselves_only():
    segment = torch.tensor([[PREFIX, PREFIX, 0, 0, 1, PREFIX]])
    here = torch.tensor([[True] * 5 + [False]])
    expected = [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "xx..x.",
        ".....x",
    ]
    assert ["".join(".x"[int(one)] for one in row) for row in visible(segment, here)[0, 0]] == expected


def test_a_row_that_is_too_long_is_passed_over_and_named(lesson):
    made = lesson("vlm3-depth", [point_line("0.png")], "text.sequence_tokens=50")
    with pytest.raises(BadInput, match="row too long"):
        made[0]


# ---- records of objects


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": [[1, 2, 3]]}, "bbox malformed"),
        ({"bbox": [[50, 8, 10, 40]] * 3}, "bbox malformed"),
        ({"bbox": [[500, 8, 510, 40]] * 3}, "bbox malformed"),
        ({"bbox": [[10, 8, 50, 40]]}, "regions malformed"),
        ({"conversations": [{"from": "human", "value": "Why?"}]}, "conversations malformed"),
        (
            {"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]},
            "conversations malformed",
        ),
        ({"conversations": []}, "record without a question"),
        (
            {"conversations": [{"from": "human", "value": "<mask>?"}, {"from": "gpt", "value": "Region [4]"}]},
            "regions malformed",
        ),
    ],
)
def test_wrong_records_of_objects_are_named(tmp_path, changes, reason):
    write_image(tmp_path / "0.png")
    with pytest.raises(BadRecord) as caught:
        parse_objects(object_line("0.png", **changes), "here:1", tmp_path)
    assert caught.value.reason == reason


# ---- focal length


def jpeg_with(tags):
    """A JPEG file's first bytes with Exif tags {tag: value}, a pair for a fraction."""
    entries, extra, at = b"", b"", 8 + 2 + 12 + 4
    at += 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        if isinstance(value, tuple):
            entries += struct.pack("<HHII", tag, 5, 1, at + len(extra))
            extra += struct.pack("<II", *value)
        else:
            entries += struct.pack("<HHIHH", tag, 3, 1, value, 0)
    pointer = struct.pack("<H", 1) + struct.pack("<HHII", focal_estimation.EXIF_IFD, 4, 1, 8 + 2 + 12 + 4) + bytes(4)
    tiff = b"II*\0" + struct.pack("<I", 8) + pointer + struct.pack("<H", len(tags)) + entries + bytes(4) + extra
    segment = b"Exif\0\0" + tiff
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + b"\xff\xda"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({focal_estimation.FOCAL_LENGTH_35MM: 26}, 26 * 5000 / 43.26661530556787),
        (
            {
                focal_estimation.FOCAL_LENGTH_MM: (50, 10),
                focal_estimation.PLANE_X_RESOLUTION: (20000, 1),
                focal_estimation.PLANE_UNIT: 3,
            },
            5 * 20000 / 10,
        ),
        ({focal_estimation.FOCAL_LENGTH_MM: (50, 10)}, None),
        ({focal_estimation.FOCAL_LENGTH_35MM: 0}, None),
    ],
)
def test_a_cameras_own_focal_length_is_read(tmp_path, tags, expected):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg_with(tags))
    found = focal_estimation.focal_px(path, (4000, 3000))
    assert found is None if expected is None else found == pytest.approx(expected)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\x89PNG", jpeg_with({0xA405: 26})[:40], b"\xff\xd8\xff\xe1\0\x08Exif"]
)
def test_files_that_say_nothing_or_break_off_have_no_focal_length(tmp_path, content):
    (tmp_path / "photo.jpg").write_bytes(content)
    assert focal_estimation.focal_px(tmp_path / "photo.jpg", (40, 30)) is None


def test_without_any_focal_length_a_field_of_view_is_assumed_aloud(tmp_path):
    write_image(tmp_path / "0.png")
    for name in ("auto", "exif"):
        estimator = make_estimator(FocalSettings(estimator=name, fallback_fov_deg=90.0))
        with pytest.warns(UserWarning, match="field of view of 90 degrees"):
            assert estimator.focal_px(tmp_path / "0.png", (96, 64)) == pytest.approx(48.0)


def test_where_a_file_does_not_say_its_focal_length_its_lines_do(tmp_path):
    write_rgb(tmp_path / "room.png", drawing(480.0, 35, -10))
    estimator = make_estimator(FocalSettings())
    assert estimator.focal_px(tmp_path / "room.png", (640, 480)) == pytest.approx(480.0, rel=0.05)


class Fixed:
    """An estimator of one's own."""

    def focal_px(self, image, size_px):
        return 1000.0


def test_another_estimator_can_be_named(lesson):
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.0])
    del line["intrinsics"]
    made = lesson("depthlm-3b", [line], "focal.estimator=test_finetune_data:Fixed")
    assert made.sources[0][0][0].intrinsics == Intrinsics(*CAMERA)
    for wrong in ("nowhere:Nothing", "json:loads", "collections:Counter"):
        with pytest.raises(SetupError, match="estimator"):
            make_estimator(FocalSettings(estimator=wrong))


# ---- recipes


def test_every_recipe_is_whole_and_names_the_source_of_every_value():
    for name in recipes():
        text = recipe_file(name).read_text()
        recipe = read_recipe(recipe_file(name))
        assert spec_named(recipe.model).architecture
        for line in text.partition("train:")[2].splitlines():
            assert not line.strip() or "#" in line, f"{name}: {line}"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("train.batch=many", "train.batch is 'many'"),
        ("train.size=3", "no field train.size"),
        ("task=depth", "task is 'depth': it must be one of"),
        ("train.batch", "group.field=value"),
        ("train.samples=0", "train.samples or train.epochs"),
        ("train.trains=[ears]", "ears"),
        ("train.attention=flash_attention_2", "layout: turns"),
        ("data.crop_height_px=[1]", "data.crop_height_px"),
        ("train.schedule=stairs", "train.schedule is 'stairs': it must be one of 'cosine'"),
        ("train.batch=0", "train.batch is 0: at least 1"),
        ("train.learning_rate=-1e-5", "train.learning_rate is '-1e-5': at least 0"),
        ("train.learning_rate=.nan", "at least 0"),
        ("data.questions=0", "data.questions is 0"),
        ("seed=-1", "seed is -1"),
        ("train.save_every=0", "train.save_every is 0"),
    ],
)
def test_wrong_settings_are_named(change, error):
    with pytest.raises(SetupError, match=error):
        read_recipe(recipe_file("depthlm-3b"), [change])


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(UnknownName, match="vlm3-pose"):
        recipe_file("depthlm-300b")


def test_a_base_of_another_architecture_is_refused(bases):
    recipe = read_recipe(recipe_file("depthlm-3b"))
    with pytest.raises(BadBundle, match="qwen3_vl"):
        find_base(recipe, f"qwen3-vl-4b={bases['qwen3_vl']}")


def test_a_plan_divides_batches_over_processes(monkeypatch):
    train = read_recipe(recipe_file("vlm3-depth")).train
    plan = make_plan(train, epoch=1, steps=None)
    assert (plan.steps, plan.per_device, plan.accumulate) == (23810, 42, 32)
    monkeypatch.setenv("WORLD_SIZE", "32")
    assert make_plan(train, epoch=1, steps=None).accumulate == 1
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(SetupError, match="multiple of 210"):
        make_plan(train, epoch=1, steps=None)
    with pytest.raises(SetupError, match="--steps is 0"):
        make_plan(train, epoch=1, steps=0)


@pytest.mark.parametrize(("name", "replicas"), [("depthvlm-stage2", None), ("vlm3-depth", 2)])
def test_weights_are_shared_among_processes_in_their_own_precision(tmp_path, monkeypatch, name, replicas):
    """full: over all processes; hybrid: within each machine, of which there are two here."""
    recipe = read_recipe(recipe_file(name), ["train.bf16=true"])
    one, four = (Plan(1, 8, 1, 8 // processes, processes) for processes in (1, 4))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not supervised(recipe, one, tmp_path).fsdp_plugin_args
    given = supervised(recipe, four, tmp_path)
    plugin = FullyShardedDataParallelPlugin(**given.fsdp_plugin_args)
    plugin.set_mixed_precision("bf16")  # as accelerate does
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward
    assert plugin.mixed_precision_policy.param_dtype is None and plugin.mixed_precision_policy.output_dtype is None
    mesh = given.parallelism_config
    assert (mesh and (mesh.dp_replicate_size, mesh.dp_shard_size)) == (replicas and (replicas, 2))
    assert supervised(recipe_without_sharding(recipe), four, tmp_path).fsdp_plugin_args is None


def recipe_without_sharding(recipe):
    return replace(recipe, train=replace(recipe.train, fsdp="none"))


def test_the_rate_can_follow_the_root_of_the_batch():
    train = read_recipe(recipe_file("depthlm-3b")).train
    assert rate(train) == 1e-5
    assert rate(replace(train, batch=400, learning_rate_batch=100)) == pytest.approx(2e-5)


# ---- rewards


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        ("l1", "<answer> 2.5 </answer>", -0.5),
        ("l1", "no idea", -10.0),
        ("l1", "<answer> 900 </answer>", -10.0),
        ("absrel", "<answer> 2.5 </answer>", -0.25),
        ("delta1", "<answer> 2.4 </answer>", 1.0),
        ("delta1", "<answer> 2.5 </answer>", 0.0),
        ("delta1", "no idea", 0.0),
    ],
)
def test_rewards(name, reply, expected):
    assert REWARDS[name](reply, 2.0, 10.0) == pytest.approx(expected)


def test_records_are_read_where_they_stand(lesson, tmp_path):
    write_image(tmp_path / "0.png")
    path = tmp_path / "gaps.jsonl"
    path.write_bytes(b"\n" + json.dumps(point_line("0.png")).encode() + b"\r\n\n  \nnot json\n")
    made = lesson("depthlm-3b", [point_line("0.png")])
    source = replace(made.sources[0], path=path)
    assert len(source) == 2 and source[0][0].where == source.where(0) == f"{path}:2"
    with pytest.raises(BadRecord, match="not a JSON object"):
        source[1]
