# SPDX-License-Identifier: Apache-2.0
"""Samples of fine-tuning: their order, and their images with crops and arrows."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.training_files import (  # noqa: E402
    CAMERA,
    depth_line,
    object_line,
    point_line,
    write_image,
    write_lines,
)

from depthlm_ros.cli.finetune import recipe_file  # noqa: E402
from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.data.read import parse_object_conversation  # noqa: E402
from depthlm_ros.data.records import BadRecord  # noqa: E402
from depthlm_ros.errors import BadInput  # noqa: E402
from depthlm_ros.eval.judges import read_point_records  # noqa: E402
from depthlm_ros.eval.released import depthlm_split  # noqa: E402
from depthlm_ros.geometry.resize_rules import resize  # noqa: E402
from depthlm_ros.geometry.visual_prompt import ARROW_OFFSETS_PX  # noqa: E402
from depthlm_ros.image_io import read_rgb  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.spec_yaml import find_spec  # noqa: E402
from depthlm_ros.training.finetune.model import find_base  # noqa: E402
from depthlm_ros.training.finetune.recipe import read_finetune_recipe  # noqa: E402
from depthlm_ros.training.finetune.record_files import SampleOrder, is_held_out, shuffled_index, weights_of_files  # noqa: E402
from depthlm_ros.training.finetune.run import FinetuneRun  # noqa: E402
from depthlm_ros.training.finetune.samples import (  # noqa: E402
    centre_crop,
    crop_depth_map,
    nearest_valid_index,
    random_crop,
    stretched_crop,
    whole_image_crop,
)

pytestmark = pytest.mark.torch


# ---- order


@pytest.mark.parametrize("length", [1, 2, 3, 10, 64, 1000])
def test_a_shuffle_has_every_index_once(length):
    assert sorted(shuffled_index(index, length, 5) for index in range(length)) == list(range(length))


def test_every_epoch_has_its_own_order_and_a_seed_repeats_it():
    order = SampleOrder((7, 3), None, seed=4)
    epochs = [[order.record_at(position + 10 * epoch) for position in range(10)] for epoch in range(3)]
    everything = [(0, index) for index in range(7)] + [(1, index) for index in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[1] == [SampleOrder((7, 3), None, seed=4).record_at(10 + position) for position in range(10)]


def test_weights_decide_how_often_a_data_set_is_used():
    order = SampleOrder((5, 5000), (3.0, 1.0), seed=1, nominal=100)
    counts = Counter(order.record_at(position)[0] for position in range(2000))
    assert counts[0] / 2000 == pytest.approx(0.75, abs=0.03)
    assert {order.record_at(position)[1] for position in range(400) if order.record_at(position)[0] == 0} == set(
        range(5)
    )
    assert order.epoch_samples == 100 * 5005


def test_an_unusable_record_is_replaced_by_the_next_one():
    order = SampleOrder((10,), None, seed=0)
    first, second = order.record_at(3), order.record_at(3, attempt=1)
    assert second == (0, (first[1] + 1) % 10)


def test_records_of_the_published_evaluation_are_held_out_of_training(make_dataset, tmp_path):
    write_image(tmp_path / "0.png")
    for count in (50, 99, 1000):
        path = tmp_path / f"scannetpp_{count}.jsonl"
        lines = [point_line("0.png", count=1, scene=str(number)) for number in range(count)]
        scored = depthlm_split(read_point_records(write_lines(path, lines))).records
        assert {record.where for record in scored} == {
            f"{path}:{row + 1}" for row in np.flatnonzero(is_held_out(count, 0.02))
        }
    lines = [point_line("0.png", seed=index) for index in range(50)]
    assert len(make_dataset("depthlm-3b", lines, name="scannetpp.jsonl").files[0]) == 49
    assert len(make_dataset("depthlm-3b", lines, name="argoverse.jsonl").files[0]) == 50


def test_a_sample_depends_on_seed_and_position_only(make_dataset):
    lines = [point_line("0.png"), point_line("1.png")]
    made, again = make_dataset("depthlm-3b", lines, length=8), make_dataset("depthlm-3b", lines, length=3)
    other = make_dataset("depthlm-3b", lines, "seed=1", length=8)
    for position in (2, 0):
        assert np.array_equal(made[position].images[0], again[position].images[0])
        assert np.array_equal(made[position].row.ids, again[position].row.ids)
    assert any(not np.array_equal(made[p].row.ids, other[p].row.ids) for p in range(8))


def test_a_missing_weight_is_reported_if_other_weights_are_known(make_dataset, bases, tmp_path):
    recipe = read_finetune_recipe(recipe_file("vlm3-depth"))
    base = find_base(recipe, str(bases["qwen3_vl"]))
    files = [write_lines(tmp_path / name, [point_line("0.png")]) for name in ("argoverse.jsonl", "mine.jsonl")]
    with pytest.raises(BadInput, match=r"mine.jsonl=WEIGHT"):
        FinetuneRun(recipe, base, tuple(map(str, files)), tmp_path).plan()
    given = FinetuneRun(recipe, base, (str(files[0]), f"{files[1]}=0.5"), tmp_path)
    assert weights_of_files(given.dataset(1).files) == (0.21, 0.5)


# ---- images


def test_depthlm_crops_about_the_centre_within_its_ranges():
    cut = whole_image_crop(Intrinsics(500.0, 400.0, 799.5, 449.5, 1600, 900), find_spec("depthlm-3b").canvas)
    assert cut.whole_px == (3200, 1800)
    for seed in range(20):
        made = random_crop(cut, np.random.default_rng(seed), (700, 1200), (1000, 1400))
        (width, height), (left, top) = made.size_px, made.left_top_px
        assert 700 <= height <= 1200 and 1000 <= width <= 1400
        assert abs(left - (3200 - width) / 2) < 1 and abs(top - (1800 - height) / 2) < 1
    small = whole_image_crop(Intrinsics(1000.0, 1000.0, 299.5, 199.5, 600, 400), find_spec("depthlm-3b").canvas)
    assert random_crop(small, np.random.default_rng(0), (700, 1200), (1000, 1400)) == small


def test_a_crop_holds_the_pixels_of_its_view(tmp_path):
    camera = Intrinsics(1000.0, 1000.0, 49.5, 39.5, 100, 80)
    rgb = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    cut = replace(whole_image_crop(camera, find_spec("depthlm-3b").canvas), size_px=(40, 30))
    view = cut.view(camera.size_px)
    assert np.array_equal(view.image_to_canvas(rgb), rgb[25:55, 30:70])
    assert view.uv_to_canvas([(30, 25)]).tolist() == [[0.0, 0.0]]
    assert view.contains(np.array([(30, 25), (29, 25), (69, 54), (70, 54)])).tolist() == [True, False, True, False]


def test_one_data_set_is_stretched_instead_of_cropped(make_dataset):
    cut = whole_image_crop(Intrinsics(500.0, 500.0, 255.5, 255.5, 512, 512), find_spec("depthlm-3b").canvas)
    heights = {stretched_crop(cut, np.random.default_rng(seed), (1.0, 1.3)).size_px[1] for seed in range(30)}
    assert max(heights) <= 1024 and min(heights) >= int(1024 / 1.3) and len(heights) > 20
    changes = ("model=depthlm-12b", "data.stretch={taskonomy: [1.99, 2.0]}")
    plain, stretched = (
        make_dataset("depthlm-3b", [point_line("0.png")], *changes, name=name)[0].images[0].shape[:2]
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
def test_an_invalid_point_is_replaced_by_the_nearest_valid_one(valid, drawn, expected):
    assert nearest_valid_index(np.array(valid, bool), drawn) == expected


def test_the_arrow_points_at_the_point_of_the_reply(make_dataset):
    """With a processor that does not resize, every pixel at the model's focal length is known."""
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.345])
    made = make_dataset("depthlm-3b", [line], "model=depthlm-12b", "data.depth_type=label")
    scale = 750 / 1000
    u, v = (int(np.floor((at + 0.5) * scale)) for at in (40, 20))
    picture = made[0].images[0]
    red = {(u, v) for v, u in np.argwhere((picture == (255, 0, 0)).all(2)).tolist()}
    assert red == {(u + du, v + dv) for du, dv in ARROW_OFFSETS_PX.tolist()}
    assert picture.shape == (48, 64, 3)  # of 48 x 72 the whole patches of 16


def test_depthvlm_labels_lie_on_their_pixels():
    camera = Intrinsics(500.0, 500.0, 49.5, 39.5, 100, 80)
    cut = whole_image_crop(camera, find_spec("depthvlm-4b").canvas)
    assert cut.whole_px == (200, 160)
    depth_m = np.arange(20, dtype=np.float32).reshape(4, 5)
    label_m = crop_depth_map(cut, depth_m)
    assert label_m.shape == (160, 200)
    assert np.array_equal(label_m, depth_m.repeat(40, axis=0).repeat(40, axis=1))
    assert np.array_equal(crop_depth_map(centre_crop(cut, 100), depth_m), label_m[30:130, 50:150])
    assert centre_crop(cut, None) == cut


def test_images_without_crop_are_those_at_run_time(make_dataset, bases):
    from depthlm_ros.core import Frame

    made = make_dataset("vlm3-depth", [point_line("0.png")])
    model = load_model(f"vlm3-depth={bases['qwen3_vl']}", backend="torch", device="cpu")
    rgb = read_rgb(made.files[0].path.parent / "0.png")
    view = model.look(Frame(rgb, Intrinsics(*CAMERA)))
    assert np.array_equal(made[0].images[0], view._placement.canvas)


def test_marked_images_without_crop_are_those_at_run_time(make_dataset, bases):
    from depthlm_ros.core import Frame

    made = make_dataset("depthlm-3b", [point_line("0.png", pixel_coords=[[40, 20]], depth=[2.0])])
    model = load_model(f"depthlm-3b={bases['qwen2_5_vl']}", backend="torch", device="cpu")
    seen = []
    looked = model.backend.look
    model.backend.look = lambda images: seen.append(images[0]) or looked(images)
    rgb = read_rgb(made.files[0].path.parent / "0.png")
    model.look(Frame(rgb, Intrinsics(*CAMERA))).tell_depth_at([(40, 20)])
    assert np.array_equal(made[0].images[0], seen[0][0])


def test_a_picture_of_a_crop_is_a_part_of_the_whole_one():
    camera = Intrinsics(700.0, 700.0, 99.5, 79.5, 200, 160)
    rgb = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
    rule = find_spec("depthlm-3b").canvas
    whole = whole_image_crop(camera, rule)
    cut = random_crop(whole, np.random.default_rng(0), (100, 100), (120, 120))
    left, top = cut.left_top_px
    everything = whole.picture(rgb, rule)
    assert everything.shape == (228, 285, 3)
    assert np.array_equal(cut.picture(rgb, rule), everything[top : top + 100, left : left + 120])
    flat = stretched_crop(whole, np.random.default_rng(0), (1.6, 1.7))
    assert np.array_equal(flat.picture(rgb, rule), resize(everything, flat.size_px, "bicubic"))


def test_labels_are_converted_to_the_meaning_of_the_models_metres(make_dataset):
    corner = {"pixel_coords": [[6, 6]], "depth": [3.0]}
    length = np.sqrt(1 + ((6 - CAMERA[2]) / 1000) ** 2 + ((6 - CAMERA[3]) / 1000) ** 2)
    for label_type, model_type, expected in (
        ("z", "range", 3 * length),
        ("range", "z", 3 / length),
        ("range", "range", 3.0),
    ):
        line = point_line("0.png", **corner, depth_type=label_type)
        sample, _ = make_dataset("depthlm-3b", [line], f"data.depth_type={model_type}").sample_at(0)
        assert sample.truth_m[0] == pytest.approx(expected, rel=1e-12)
    mixed, _ = make_dataset(
        "depthlm-3b", [point_line("0.png", **corner, depth_type="ray")], "data.depth_type=label"
    ).sample_at(0)
    assert mixed.truth_m == (3.0,)


def test_labels_of_depthvlms_argoverse_file_are_ranges(make_dataset, tmp_path):
    write_image(tmp_path / "0.png", 0)
    line = depth_line(tmp_path, "0.png") | {"depth_type": "z_depth"}
    ray = make_dataset("depthvlm-stage1", [line], name="argoverse.jsonl")[0].depth_m
    z = make_dataset("depthvlm-stage1", [line], name="ddad.jsonl")[0].depth_m
    assert (ray < z).mean() > 0.99 and np.allclose(ray, z, rtol=2e-3)


# ---- records


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
def test_wrong_records_of_objects_are_reported(tmp_path, changes, reason):
    write_image(tmp_path / "0.png")
    with pytest.raises(BadRecord) as caught:
        parse_object_conversation(object_line("0.png", **changes), "here:1", tmp_path)
    assert caught.value.reason == reason


def test_blank_lines_are_not_records(make_dataset, tmp_path):
    write_image(tmp_path / "0.png")
    path = tmp_path / "gaps.jsonl"
    path.write_bytes(b"\n" + json.dumps(point_line("0.png")).encode() + b"\r\n\n  \nnot json\n")
    made = make_dataset("depthlm-3b", [point_line("0.png")])
    source = replace(made.files[0], path=path)
    assert len(source) == 2 and source[0][0].where == source.where(0) == f"{path}:2"
    with pytest.raises(BadRecord, match="not a JSON object"):
        source[1]
