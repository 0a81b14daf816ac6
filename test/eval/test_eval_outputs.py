# SPDX-License-Identifier: Apache-2.0
"""Outputs of an evaluation: files of results, tables, pictures; and the command line `depthlm eval`."""

import json
import math
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room, write_labels
from support.command_line import depthlm
from support.label_files import make_pair_line, make_prediction, make_question_line, write_lines, write_maps
from support.paths import ROOT

from depthlm_ros.errors import BadInput
from depthlm_ros.eval.depth import DepthEvalOptions, evaluate_depth
from depthlm_ros.eval.gallery import Gallery, draw_chart, error_rgb
from depthlm_ros.eval.judges import evaluate, point_judge, read_point_records
from depthlm_ros.eval.published import (
    CORRESPONDENCE,
    DEPTHLM_BENCH,
    DEPTHVLM_DENSE,
    DEPTHVLM_SPARSE,
    TABLES,
    find_data_set,
    guess_data_set,
)
from depthlm_ros.eval.report import make_report
from depthlm_ros.eval.result_file import ResultStore
from depthlm_ros.eval.tables import compare_runs, compare_with_published, rank_among_published
from depthlm_ros.model_files.bundle import load_bundle

SETTINGS = {"task": "depth", "model": "tiny"}
needs_tiny = pytest.mark.skipif(
    not (ROOT / "engines" / "tiny").is_dir(),
    reason="engines/tiny is missing: run make train",
)


class CountingPredictor:
    """Answers 2 m everywhere, and counts the images. It is interrupted at the image after `until`."""

    def __init__(self, until=99):
        self.asked, self.until = 0, until

    def __call__(self, frame, uv_px):
        if self.asked >= self.until:
            raise KeyboardInterrupt
        self.asked += 1
        return make_prediction(np.full(len(uv_px), 2.0), std_m=0.5)


def test_interrupted_evaluation_continues_from_its_results(tmp_path):
    labels, path = read_point_records(write_labels(tmp_path, images=5)), tmp_path / "kept.jsonl"
    with pytest.raises(KeyboardInterrupt), ResultStore(path, SETTINGS) as store:
        evaluate(point_judge(CountingPredictor(until=3)), labels, store)
    path.write_bytes(path.read_bytes() + b'{"key": "4:cut o')  # a line that was cut off
    remaining = CountingPredictor()
    with ResultStore(path, SETTINGS) as store:
        continued = evaluate(point_judge(remaining), labels, store)
    assert remaining.asked == 2
    uninterrupted = evaluate(point_judge(CountingPredictor()), labels)
    reports = [make_report(run.results).as_dict() | {"seconds_per_image": 0} for run in (continued, uninterrupted)]
    assert reports[0] == reports[1]
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 1 + 5


def test_changed_label_is_evaluated_again(tmp_path):
    path = write_labels(tmp_path)
    with ResultStore(tmp_path / "kept.jsonl", SETTINGS) as store:
        evaluate(point_judge(CountingPredictor()), read_point_records(path), store)
    first, second = map(json.loads, path.read_text().splitlines())
    second["depth"][0] += 1
    path.write_text(json.dumps(first) + "\n" + json.dumps(second), encoding="utf-8")
    again = CountingPredictor()
    with ResultStore(tmp_path / "kept.jsonl", SETTINGS) as store:
        evaluate(point_judge(again), read_point_records(path), store)
    assert again.asked == 1


def test_results_of_another_run_and_other_files_are_refused(tmp_path):
    with ResultStore(tmp_path / "kept.jsonl", SETTINGS):
        pass
    with pytest.raises(BadInput, match=r"model 'tiny' instead of 'big'.*name another file"):
        ResultStore(tmp_path / "kept.jsonl", SETTINGS | {"model": "big"})
    (tmp_path / "labels.jsonl").write_text('{"image": "a.png"}\n', encoding="utf-8")
    with pytest.raises(BadInput, match="is not a file of results"):
        ResultStore(tmp_path / "labels.jsonl", SETTINGS)
    (tmp_path / "notes.txt").write_text("a line that does not end", encoding="utf-8")
    with pytest.raises(BadInput, match=r"notes\.txt is not a file of results"):
        ResultStore(tmp_path / "notes.txt", SETTINGS)
    assert (tmp_path / "notes.txt").read_text() == "a line that does not end"


def test_two_evaluations_cannot_write_one_file(tmp_path):
    with ResultStore(tmp_path / "kept.jsonl", SETTINGS), pytest.raises(BadInput, match="another evaluation is writing"):
        ResultStore(tmp_path / "kept.jsonl", SETTINGS)


def test_nan_is_null_in_the_file_and_none_when_read(tmp_path):
    with ResultStore(tmp_path / "kept.jsonl", SETTINGS) as store:
        store.add("1", {"said": math.nan})
    assert "NaN" not in (tmp_path / "kept.jsonl").read_text()
    with ResultStore(tmp_path / "kept.jsonl", SETTINGS) as store:
        assert store.results["1"] == {"said": None}


def test_score_is_ranked_among_the_published_ones_of_its_column():
    lines = rank_among_published(DEPTHLM_BENCH, "iBims-1", "mine", 0.5)
    assert lines[0] == "published: DepthLMBench, iBims-1 (delta1)"
    names = [line.split("  ", 2)[-1].strip() for line in lines[1:]]
    at = next(index for index, name in enumerate(names) if name.endswith("> mine"))
    assert "ZoeDepth" in names[at - 1] and "Gemini" in names[at + 1]  # 0.580 and 0.466
    assert rank_among_published(DEPTHLM_BENCH, "KITTI", "mine", 0.5) == []


def test_smallest_error_is_ranked_first():
    lines = rank_among_published(CORRESPONDENCE, "DTU", "mine", 11.0)
    order = [line.split()[-1] for line in lines[1:]]
    assert order.index("mine") == 2  # behind UFM's 7.28 and VLM3's 10.71


def test_published_rows_are_complete_and_their_averages_are_correct():
    for tables in TABLES.values():
        for table in tables:
            assert all(len(values) == len(table.columns) for values in table.rows.values())
    # The averages of this row are wrong in the source by more than rounding.
    known = {"Qwen3-VL-4B [N]"}
    checked = 0
    for table in (DEPTHLM_BENCH, DEPTHVLM_SPARSE, DEPTHVLM_DENSE):
        for average, parts in table.averaged.items():
            for name, values in table.rows.items():
                row = dict(zip(table.columns, values, strict=True))
                if math.isfinite(row[average]) and all(math.isfinite(row[one]) for one in parts) and name not in known:
                    assert row[average] == pytest.approx(np.mean([row[one] for one in parts]), abs=0.0016), name
                    checked += 1
    assert checked > 50


def test_data_set_is_found_by_its_curation_name_and_an_unknown_one_is_refused():
    assert [find_data_set(name) for name in ("nyuv2", "SUNRGBD", "iBims-1")] == ["NYUv2", "SUN RGB-D", "iBims-1"]
    with pytest.raises(BadInput, match=r"--data-set nope: no published table has it; known are .*NYUv2"):
        find_data_set("nope")


@needs_tiny
def test_results_need_a_regular_file_and_a_full_disk_is_reported(tmp_path):
    with pytest.raises(BadInput, match="not a regular file"):
        ResultStore(Path("/dev/null"), SETTINGS)
    done = depthlm_eval(write_labels(tmp_path), "--baselines", "--json", tmp_path / "none" / "a.json")
    assert done.returncode == 2 and "cannot be written there" in done.stderr and not done.stdout
    labels = write_labels(tmp_path, images=3)
    full = depthlm_eval(labels, "--model", "tiny", "--results", tmp_path / "r.jsonl", max_file_bytes=600)
    assert full.returncode != 0 and "free some disk space, and repeat the command" in full.stderr
    again = depthlm_eval(labels, "--model", "tiny", "--results", tmp_path / "r.jsonl")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ibims1_dev/labels.jsonl", "iBims-1"),
        ("annotations/scannetpp/scannetpp_pixel_depth_val.jsonl", "ScanNet++"),
        ("waymo/x.jsonl", "Waymo"),
        ("my/labels.jsonl", ""),
    ],
)
def test_data_set_is_guessed_from_the_path(path, name):
    assert guess_data_set(Path(path)) == name


def run_of(**more):
    run = {"task": "depth", "protocol": "depthlm", "model": "tiny", "data_set": "iBims-1", "delta1": 0.4, "n": 128}
    return run | more


def test_scores_are_compared_with_published_ones_of_the_same_protocol():
    assert "DepthLMBench" in compare_with_published(run_of()) and "dense" not in compare_with_published(run_of())
    assert "DepthVLM-Bench, dense" in compare_with_published(run_of(protocol="dense"))
    assert compare_with_published(run_of(protocol="plain")) == "" == compare_with_published(run_of(data_set=""))
    assert "AUC@30" in compare_with_published(run_of(task="pose", data_set="ETH3D", auc30=0.5))
    group = {"right": 0.5, "absrel": 0.4, "n": 2}
    clock = group | {"error_deg": 20.0}
    scores = {"width": group, "my own": group, "direction": clock}
    objects = {"task": "objects", "model": "mine", "scores": scores, "data_set": "SpatialRGPT-Bench"}
    about = compare_with_published(objects)
    assert "   50.000  > mine" in about and "    0.400  > mine" in about and "my own" not in about
    assert "   20.000  > mine" in about and "   17.100  SpatialRGPT-8B" in about
    assert compare_with_published(objects | {"data_set": ""}) == ""
    dense = compare_with_published(run_of(protocol="dense", data_set="NYUv2", absrel=0.5, rmse=1.5))
    assert "    0.081  DepthVLM-4B" in dense and "    1.500  > tiny" in dense


def test_runs_are_compared_in_one_table_that_says_what_is_not_comparable():
    one = run_of(baselines={"constant 2 m": {"delta1": 0.2}}, reliability={"within_1std": 0.7})
    table = compare_runs([one, run_of(model="big", delta1=0.9, n=64)])
    rows = {line.split("  ")[0]: line for line in table.splitlines()}
    assert "0.400" in rows["tiny depthlm"] and "0.700" in rows["tiny depthlm"]
    assert "0.900" in rows["big depthlm"] and "0.200" in rows["constant 2 m [baseline]"]
    assert "not comparable: n is 128, 64" in table
    with pytest.raises(BadInput, match="different tasks"):
        compare_runs([one, run_of(task="pose")])


def test_every_run_has_its_own_row_with_a_unique_name():
    runs = [
        run_of(delta1=0.1, file="a.json", baselines={"constant 2 m": {"delta1": 0.25}}),
        run_of(delta1=0.2, file="b.json", as_released=True, baselines={"constant 2 m": {"delta1": 0.35}}),
        run_of(delta1=0.3, file="c.json", baselines={"constant 2 m": {"delta1": 0.25}}),
        run_of(delta1=0.4, file="d.json", data_set="NYUv2"),
    ]
    rows = {line[:40].rsplit("  ", 1)[0].strip(): line for line in compare_runs(runs).splitlines()}
    for delta1 in ("0.100", "0.200", "0.300", "0.400"):
        assert sum(f" {delta1}" in line for line in rows.values()) == 1
    table = compare_runs(runs)
    assert "tiny depthlm (NYUv2)" in table and "as released" in table and "(a.json)" in table and "(c.json)" in table
    assert table.count("[baseline]") == 2  # equal baselines of two runs appear once
    assert "not comparable: data_set" in table


def test_runs_on_several_data_sets_have_a_mean_among_the_published_averages():
    five = ("Waymo", "nuScenes", "ETH3D", "SUN RGB-D", "iBims-1")
    runs = [run_of(protocol="dense", data_set=name, delta1=0.1 * n, n=10) for n, name in enumerate(five, start=4)]
    table = compare_runs(runs)
    mean = next(line for line in table.splitlines() if line.startswith("mean of 5 data sets"))
    assert "0.600" in mean and mean.rstrip().endswith("50")
    assert "published: DepthVLM-Bench, dense, average (delta1)" in table and "    0.600  > tiny" in table
    assert "not comparable" not in table
    assert "published" not in compare_runs(runs[:4]) and "mean of 4 data sets" in compare_runs(runs[:4])
    assert "mean of" not in compare_runs([runs[0], runs[0]])


def test_errors_are_white_red_or_blue_and_black_where_unknown():
    right, near, far, unknown = error_rgb(np.array([[2.0, 1.0, 4.0, math.nan]]), np.full((1, 4), 2.0))[0].astype(int)
    assert right.min() > 240
    assert near[0] > near[2] + 100 and far[2] > far[0] + 100
    assert unknown.tolist() == [0, 0, 0]


def test_curve_passes_through_its_points():
    picture = draw_chart("rising", (0.0, 1.0), (("line", (0.0, 1.0)),), (1.0, 1.0)).astype(int)
    middle, corner = picture[48 + 200, 48 + 200], picture[48 + 300, 48 + 300]
    assert middle.max() > 200 and corner.max() < 120


def test_pictures_of_points_and_maps_are_written_up_to_the_limit(tmp_path):
    gallery = Gallery(tmp_path / "points", max_pictures=2)
    labels = write_labels(tmp_path, images=3)
    evaluate(point_judge(CountingPredictor()), read_point_records(labels), on_image=gallery.draw_image)
    names = sorted(path.name for path in (tmp_path / "points").iterdir())
    assert names == ["000001_room_0.jpg", "000002_room_1.jpg"]
    maps = write_maps(tmp_path, [render_room()[1]])
    evaluate_depth(maps, None, DepthEvalOptions("dense"), ResultStore(), Gallery(tmp_path / "maps"))
    (picture,) = (tmp_path / "maps").iterdir()
    assert cv2.imread(str(picture)).shape[1] > 3 * 480


depthlm_eval = partial(depthlm, "eval")


@needs_tiny
def test_command_line_writes_results_compares_runs_and_draws_pictures(tmp_path):
    folder = tmp_path / "ibims1"
    folder.mkdir()
    labels, out = write_labels(folder, images=3), tmp_path / "a.json"
    options = (
        "--model",
        "tiny",
        "--protocol",
        "depthlm",
        "--limit",
        6,
        "--baselines",
        "--results",
        tmp_path / "r.jsonl",
    )
    done = depthlm_eval(labels, *options, "--pictures", tmp_path / "p", "--json", out)
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert list(scores)[:6] == ["delta1", "absrel", "rmse", "n", "parse_failures", "seconds_per_image"]
    assert (scores["n"], scores["protocol"], scores["data_set"], scores["limit"]) == (6, "depthlm", "iBims-1", 6)
    assert scores["baselines"].keys() == {"constant 2 m", "best constant", "per-row prior"}
    assert "per-row prior" in done.stdout and "> tiny" in done.stdout
    drawn = {path.name for path in (tmp_path / "p").iterdir()}
    assert {"reliability.png", "retention.png", "000001_room_0.jpg"} <= drawn
    assert all(cv2.imread(str(path)) is not None for path in (tmp_path / "p").iterdir())
    refused = depthlm_eval(labels, "--model", "tiny", "--results", tmp_path / "r.jsonl")
    assert refused.returncode == 2 and "results of another run" in refused.stderr
    table = depthlm_eval("--compare", out, out)
    assert table.returncode == 0 and "tiny onnxruntime dense depthlm" in table.stdout


def test_baselines_alone_need_no_model(tmp_path):
    done = depthlm_eval(write_labels(tmp_path), "--baselines", "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert scores["delta1"] is None and scores["model"] == "" and scores["n"] == 40
    assert 0 < scores["baselines"]["best constant"]["delta1"] <= 1
    drawn = depthlm_eval(write_labels(tmp_path), "--baselines", "--pictures", tmp_path / "p")
    assert drawn.returncode == 2 and "--pictures shows what a model says" in drawn.stderr


def test_left_out_records_are_counted_by_reason_and_duplicate_lines_are_counted(tmp_path):
    labels = write_labels(tmp_path)
    first = labels.read_text().splitlines()[0]
    gone = [json.dumps(json.loads(first) | {"image": f"{n}.png"}) for n in range(5)]
    labels.write_text("\n".join([first, first, *gone]) + "\n")
    done = depthlm_eval(labels, "--baselines", "--json", tmp_path / "a.json")
    assert done.returncode == 0 and done.stderr.count("does not exist") == 3  # three examples are printed
    assert "5 x image missing" in done.stderr and "1 x duplicate line" in done.stderr
    scores = json.loads((tmp_path / "a.json").read_text())
    assert scores["left_out"] == {"image missing": 5} and scores["duplicate_lines"] == 1


@needs_tiny
@pytest.mark.parametrize("task", ["objects", "matches", "pose"])
def test_embedded_model_is_scored_on_objects_matches_and_poses(tmp_path, task):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), render_room()[0][..., ::-1])
    line = (
        make_question_line(5.0, "m", text="How far is the wall?")
        if task == "objects"
        else make_pair_line([[160, 120]], [[160, 120]])
    )
    if task != "objects" and not load_bundle(ROOT / "engines" / "tiny").pairs:
        pytest.skip("engines/tiny takes one image: export a model that takes two")
    done = depthlm_eval(write_lines(tmp_path, line), "--model", "tiny", "--task", task, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert scores["task"] == task and scores["records"] == 1


def test_missing_input_is_reported_in_one_line(tmp_path):
    for args, message in (((), "no labels"), (("--compare", tmp_path / "no.json"), "cannot be read")):
        done = depthlm_eval(*args)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
