# SPDX-License-Identifier: Apache-2.0
"""The verb depth: maps, pixels, point clouds and strips, of models with a map and of models with words."""

import json

import cv2
import numpy as np
import pytest
from support.checkered_room import render_room
from support.paths import needs_tiny

from depthlm_ros import cli
from depthlm_ros.cli.depth import grid_pixels, points_text, read_pixels
from depthlm_ros.core import PointDepths
from depthlm_ros.errors import BadInput
from depthlm_ros.image_io import read_rgb, write_rgb
from depthlm_ros.visualization import turbo_rgb

LENS = ["--intrinsics", "280", "282", "161", "118.5"]
SIZE_PX = (320, 240)


@pytest.fixture
def room(tmp_path):
    write_rgb(tmp_path / "room.png", render_room()[0])
    return tmp_path / "room.png"


@pytest.fixture
def depth(room, capsys):
    """Runs the verb on the room and returns (exit code, stdout, stderr)."""

    def run(*words, lens=LENS):
        code = cli.main(["depth", str(room), *lens, *map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def check_refusal(depth):
    def check(code, text, *words):
        found, out, err = depth(*words)
        assert (found, out) == (code, "") and err.count("\n") == 1 and err.startswith("depthlm: ") and text in err, err

    return check


def read_ply(path):
    """An independent reader of PLY: returns the properties of the vertices, as the header names and types them."""
    types = {"float": "<f4", "uchar": "u1"}
    data = path.read_bytes()
    header, _, body = data.partition(b"end_header\n")
    lines = header.decode("ascii").split("\n")
    assert lines[0] == "ply" and lines[1] == "format binary_little_endian 1.0"
    (count,) = (int(line.split()[2]) for line in lines if line.startswith("element vertex "))
    fields = [line.split()[1:] for line in lines if line.startswith("property ")]
    vertex = np.dtype([(name, types[kind]) for kind, name in fields])
    assert len(body) == count * vertex.itemsize
    return np.frombuffer(body, vertex)


# ---- pixels


def test_grid_has_square_cells_whose_middles_are_asked():
    assert grid_pixels((4, 4), 1).tolist() == [[1.5, 1.5]]
    assert grid_pixels((4, 2), 2).tolist() == [[0.5, 0.5], [2.5, 0.5]]
    assert grid_pixels(SIZE_PX, 8).shape == (8 * 6, 2)
    fine = grid_pixels((5, 3), 1000)
    assert len(fine) == 15 and fine.min() == 0 and fine.max(0).tolist() == [4, 2]


@pytest.mark.parametrize(
    "text", ["1 2\n3.5 4\n", "u,v\n1,2\n\n# the door\n3.5,4", "1;2\n3.5;4\n", "\ufeffu v\r\n1\t2\r\n3.5\t4\r\n"]
)
def test_pixels_are_read_from_text_and_csv(tmp_path, text):
    (tmp_path / "points.txt").write_text(text, encoding="utf-8", newline="")
    assert read_pixels(tmp_path / "points.txt", SIZE_PX).tolist() == [[1, 2], [3.5, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3\n", r"points.txt:2: '3' is not two numbers u, v \(1 numbers\)"),
        ("1 2 3\n", "points.txt:1"),
        ("1 2\nu v\n", "points.txt:2"),
        ("1 2\n320 4\n", r"points.txt:2: pixel \(320, 4\) is outside the 320 x 240 image"),
        ("nan 2\n", "points.txt:1: pixel"),
        ("# nothing\n", "names no pixel"),
    ],
)
def test_wrong_line_of_pixels_is_named(tmp_path, text, message):
    (tmp_path / "points.txt").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_pixels(tmp_path / "points.txt", SIZE_PX)
    with pytest.raises(BadInput, match=r"none\.txt: cannot be read"):
        read_pixels(tmp_path / "none.txt", SIZE_PX)


def test_unknown_depth_is_nan_in_csv_and_null_in_json():
    points = PointDepths(np.array([[1.5, 2.0], [3.0, 4.0]]), np.float32([2.3456789, np.nan]), np.float32([0.1, np.nan]))
    assert points_text(points, ".csv").splitlines() == ["u,v,depth_m,std_m", "1.5,2,2.3457,0.1", "3,4,nan,nan"]
    first, second = (
        json.loads(line, parse_constant=pytest.fail) for line in points_text(points, ".jsonl").splitlines()
    )
    assert first == {"u": 1.5, "v": 2.0, "depth_m": 2.3457, "std_m": 0.1}
    assert second["depth_m"] is None and second["std_m"] is None


# ---- tiny, which has a map


@needs_tiny
def test_pixels_are_printed_and_written_in_three_forms_with_the_depth_of_the_map(depth, tmp_path):
    (tmp_path / "points.csv").write_text("u,v\n10,20\n")
    words = ["--pixel", 160, 200, "--points", tmp_path / "points.csv", "--grid", 2]
    assert depth("--out", tmp_path / "map.npy")[0] == 0
    code, out, err = depth(*words)
    assert code == 0 and not err
    rows = np.array([list(map(float, line.split(","))) for line in out.splitlines()[1:]])
    assert rows[:, :2].tolist() == [[160, 200], [10, 20], *grid_pixels(SIZE_PX, 2).tolist()]
    map_m = np.load(tmp_path / "map.npy")
    assert rows[0, 2] == pytest.approx(map_m[200, 160], abs=1e-4) and rows[1, 2] == pytest.approx(
        map_m[20, 10], abs=1e-4
    )
    assert (rows[:, 3] > 0).all()
    for suffix in (".csv", ".jsonl", ".npy"):
        assert depth(*words, "--out", tmp_path / f"out{suffix}")[:2] == (
            0,
            f"{tmp_path}/out{suffix}: 6 pixels, {rows[:, 2].min():.2f} to {rows[:, 2].max():.2f} m\n",
        )
    assert (tmp_path / "out.csv").read_text() == out
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [[line[name] for name in ("u", "v", "depth_m", "std_m")] for line in lines] == rows.tolist()
    assert np.allclose(np.load(tmp_path / "out.npy"), rows, atol=1e-4)
    assert not list(tmp_path.glob("partial-*"))


@needs_tiny
def test_pixels_can_be_asked_in_words_of_a_model_with_a_map(depth):
    of_map = json.loads(depth("--pixel", 160, 200, "--json")[1])
    in_words = json.loads(depth("--pixel", 160, 200, "--json", "--words")[1])
    assert in_words["depth_m"] != of_map["depth_m"] and round(in_words["depth_m"], 2) == in_words["depth_m"]


@needs_tiny
def test_cloud_has_the_points_of_the_map_in_the_camera_frame_in_their_colours(depth, room, tmp_path):
    out, cloud = tmp_path / "map.npy", tmp_path / "cloud.ply"
    assert depth("--out", out, "--cloud", cloud)[0] == 0
    map_m, vertices, rgb = np.load(out), read_ply(cloud), read_rgb(room)
    v, u = np.nonzero(np.isfinite(map_m))
    assert len(vertices) == len(v) and vertices.dtype.names == ("x", "y", "z", "red", "green", "blue")
    assert np.array_equal(vertices["z"], map_m[v, u])
    # The true intrinsics: both focal lengths and the principal point.
    assert np.allclose(280 * vertices["x"] / vertices["z"] + 161, u, atol=1e-2)
    assert np.allclose(282 * vertices["y"] / vertices["z"] + 118.5, v, atol=1e-2)
    assert np.array_equal(np.stack([vertices[name] for name in ("red", "green", "blue")], -1), rgb[v, u])


@needs_tiny
def test_cloud_of_pixels_holds_these_alone(depth, tmp_path):
    cloud = tmp_path / "cloud.ply"
    code, out, err = depth("--pixel", 160, 200, "--pixel", 3, 4, "--cloud", cloud)
    assert code == 0 and len(out.splitlines()) == 3 and "point cloud" in err
    vertices = read_ply(cloud)
    assert vertices["z"] == pytest.approx([float(line.split(",")[2]) for line in out.splitlines()[1:]], abs=1e-4)


@needs_tiny
@pytest.mark.parametrize("form", ["png", "npy"])
def test_strip_shows_image_truth_and_depth_at_the_size_of_the_truth(depth, room, tmp_path, form):
    """The truth has half the size of the image, and an unknown corner, which is black."""
    truth_m = render_room()[1][::2, ::2]
    truth_m[:20, :30] = 0
    truth, strip = tmp_path / f"truth.{form}", tmp_path / "strip.png"
    if form == "png":
        cv2.imwrite(str(truth), np.rint(truth_m * 1000).astype(np.uint16))
    else:
        np.save(truth, truth_m)
    assert depth("--strip", strip, "--truth", truth)[:2] == (0, f"{strip}: image, truth and depth side by side\n")
    drawn = read_rgb(strip)
    assert drawn.shape[1] == 3 * 160
    panels = np.split(drawn[-120:], 3, axis=1)
    assert np.array_equal(panels[0], cv2.resize(read_rgb(room), (160, 120), interpolation=cv2.INTER_AREA))
    assert (panels[1][:20, :30] == 0).all() and panels[1][20:].any(-1).all() and panels[2].any(-1).all()
    expected = turbo_rgb(np.where(truth_m > 0, truth_m, np.nan))
    assert np.abs(panels[1].astype(int) - expected).mean() < 1


@needs_tiny
def test_strip_without_truth_and_truth_in_other_units(depth, tmp_path):
    strip, truth = tmp_path / "strip.png", tmp_path / "truth.png"
    assert "image and depth" in depth("--strip", strip)[1]
    assert read_rgb(strip).shape[1] == 2 * 320
    cv2.imwrite(str(truth), np.rint(render_room()[1] * 256).astype(np.uint16))
    for scale in (256, 512):  # Each map is drawn between its own percentiles: the scale alone changes no colour.
        assert depth("--strip", strip, "--truth", truth, "--truth-scale", scale)[0] == 0
    assert np.abs(read_rgb(strip)[-240:, 320:640].astype(int) - turbo_rgb(render_room()[1])).mean() < 1


def test_turbo_is_near_blue_and_far_red_between_its_percentiles():
    rgb = turbo_rgb(np.concatenate([np.linspace(1, 5, 101), [np.nan, -1, 0, np.inf]])[None].astype(np.float32))
    assert rgb[0, 5, 2] > rgb[0, 5, 0] and rgb[0, 95, 0] > rgb[0, 95, 2]
    assert np.array_equal(rgb[0, 0], rgb[0, 1]) and not rgb[0, 101:104].any() and not rgb[0, 104].any()
    assert not turbo_rgb(np.full((2, 2), np.nan, np.float32)).any()


# ---- refusals, before a model is loaded


def test_options_that_contradict_each_other_are_refused(check_refusal, tmp_path):
    (tmp_path / "points.txt").write_text("1 2\n")
    check_refusal(2, "say what to write")
    check_refusal(2, "a map is written as .npy", "--out", tmp_path / "d.csv")
    check_refusal(2, ".csv, .jsonl, .npy", "--out", tmp_path / "d.txt", "--grid", 3)
    check_refusal(2, "--words asks about single pixels", "--words", "--out", tmp_path / "d.npy")
    check_refusal(2, "--truth is drawn in --strip", "--truth", tmp_path / "t.png", "--out", tmp_path / "d.npy")
    check_refusal(2, "at least 1 column", "--grid", 0)
    check_refusal(2, "must end in .ply", "--cloud", tmp_path / "cloud.pcd")
    truth = ["--strip", tmp_path / "s.png", "--truth", tmp_path / "t.png"]
    check_refusal(2, "positive number", *truth, "--truth-scale", 0)
    check_refusal(2, "give --truth", "--strip", tmp_path / "s.png", "--truth-scale", 256)
    check_refusal(2, "leave --turn out", *truth, "--turn")
    check_refusal(2, "--json prints single pixels", "--json", "--out", tmp_path / "d.npy")
    check_refusal(2, "leave one of them out", "--json", "--grid", 2, "--out", tmp_path / "d.csv")
    check_refusal(2, "must end in .png", "--picture", tmp_path / "d.gif")


def test_no_file_of_the_command_is_overwritten(check_refusal, room, tmp_path):
    before = room.read_bytes()
    (tmp_path / "points.csv").write_text("1,2\n")
    check_refusal(2, "room.png is the image itself", "--picture", room)
    check_refusal(2, "is the file of --picture itself", "--picture", tmp_path / "a.png", "--strip", tmp_path / "a.png")
    points = tmp_path / "points.csv"
    check_refusal(2, "is the file of --points itself", "--points", points, "--out", points)
    assert room.read_bytes() == before and points.read_text() == "1,2\n"


@pytest.mark.parametrize("option", ["--out", "--cloud", "--strip", "--picture"])
def test_missing_folder_is_said_before_anything_runs(check_refusal, tmp_path, option):
    check_refusal(2, "existing folder", option, tmp_path / "none" / "file.ply", "--model", "nobody")


@needs_tiny
def test_wrong_truth_and_pixels_are_refused(check_refusal, tmp_path):
    (tmp_path / "points.txt").write_text("1 2\n3 400\n")
    check_refusal(2, "points.txt:2", "--points", tmp_path / "points.txt")
    check_refusal(2, "(320, 4) is outside", "--pixel", 320, 4)
    check_refusal(2, "t.png: cannot be read", "--strip", tmp_path / "s.png", "--truth", tmp_path / "t.png")
    np.save(tmp_path / "other.npy", np.ones((30, 80), np.float32))
    np.save(tmp_path / "empty.npy", np.ones((0, 4), np.float32))
    (tmp_path / "junk.png").write_bytes(b"junk")
    for name, text in (("other.npy", "has 80 x 30 pixels"), ("empty.npy", "4 x 0"), ("junk.png", "16-bit image")):
        check_refusal(2, text, "--strip", tmp_path / "s.png", "--truth", tmp_path / name)
    assert not (tmp_path / "s.png").exists()


# ---- models with words, small random checkpoints


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of small random checkpoints by the name of the model that they are asked as."""
    pytest.importorskip("torch")
    from support.released_checkpoints import publish

    folder = tmp_path_factory.mktemp("weights")
    kinds = {"depthlm-12b": "llava", "vlm3-depth": "qwen3_vl"}
    for name, kind in kinds.items():
        publish(folder / name, kind, with_head=False)
    return {name: f"{name}={folder / name}" for name in kinds}


@pytest.mark.torch
@pytest.mark.parametrize("name", ["depthlm-12b", "vlm3-depth"])
def test_model_with_words_needs_pixels_and_is_asked_about_them(depth, check_refusal, weights, tmp_path, name, room):
    from depthlm_ros.cli.common import CameraOptions, read_frame
    from depthlm_ros.model import load_model

    model = ["--model", weights[name], "--device", "cpu"]
    check_refusal(2, "--pixel U V (may be repeated), --points FILE or --grid N", "--out", tmp_path / "d.npy", *model)
    check_refusal(2, "--strip draws a map", "--strip", tmp_path / "s.png", "--grid", 2, *model)
    out, cloud = tmp_path / "d.npy", tmp_path / "cloud.ply"
    code, _, err = depth("--grid", 2, "--pixel", 0, 0, "--out", out, "--cloud", cloud, *model)
    assert code == 0, err
    rows = np.load(out)
    view = load_model(weights[name], device="cpu").look(read_frame(room, CameraOptions([280, 282, 161, 118.5])))
    asked = view.tell_depth_at(rows[:, :2])
    assert len(rows) == 5 and np.array_equal(rows[:, 2].astype(np.float32), asked.depth_m, equal_nan=True)
    assert len(read_ply(cloud)) == np.isfinite(asked.depth_m).sum()


@pytest.mark.torch
def test_pixels_in_words_that_are_done_are_kept_when_the_run_stops(depth, weights, tmp_path, monkeypatch):
    from depthlm_ros.cli import depth as verb
    from depthlm_ros.view import View

    tell, calls = View.tell_depth_at, []

    def tell_or_stop(view, uv_px):
        calls.append(len(uv_px))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tell(view, uv_px)

    monkeypatch.setattr(verb, "POINTS_AT_ONCE", 2)
    monkeypatch.setattr(View, "tell_depth_at", tell_or_stop)
    out = tmp_path / "d.csv"
    code, _, err = depth(
        "--grid", 2, "--pixel", 9, 9, "--out", out, "--model", weights["vlm3-depth"], "--device", "cpu"
    )
    assert code == 130 and "2 of 5 pixels are there" in err and len(out.read_text().splitlines()) == 3


@pytest.mark.torch
def test_model_without_depth_is_refused(check_refusal, weights):
    folder = weights["vlm3-depth"].partition("=")[2]
    check_refusal(2, "tells no depth in words", "--grid", 2, "--model", f"vlm3-object={folder}")
