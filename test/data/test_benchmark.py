# SPDX-License-Identifier: Apache-2.0
"""`depthlm data bench`: images balanced over scenes and cameras, and points drawn from their depth maps."""

import json
from collections import Counter

import numpy as np
import pytest
from support.checkered_room import CAMERA, write_labels

from depthlm_ros import cli
from depthlm_ros.data.depthfile import write_depth
from depthlm_ros.data.read import read_records
from depthlm_ros.data.sample_points import BenchmarkOptions, balanced_order
from depthlm_ros.errors import BadInput
from depthlm_ros.image_io import write_rgb

SIZE_PX, MAP_PX = (64, 48), (32, 24)


@pytest.fixture
def records(tmp_path):
    """Writes a file of 24 records: scene a has half of them, and cameras front and rear."""
    write_rgb(tmp_path / "image.png", np.zeros((*SIZE_PX[::-1], 3), np.uint8))
    lines = []
    for index in range(24):
        depth_m = np.random.default_rng(index).uniform(1, 9, MAP_PX[::-1])
        depth_m[: 12 if index != 5 else 24] = np.nan  # Record 5 has no known depth.
        write_depth(tmp_path / f"{index}.png", depth_m, 1000)
        fields = {
            "image": "image.png",
            "depth_path": f"{index}.png",
            "depth_scale": 1000,
            "original_rgb_size": SIZE_PX,
            "original_depth_size": MAP_PX,
            "original_fx": 60.0,
            "scene_id": "a" if index < 12 else "bcd"[index % 3],
            "camera": ("front", "rear")[index % 2],
        }
        lines.append(json.dumps(fields))
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "records.jsonl"


def bench(records, *words):
    out = records.parent / "bench.jsonl"
    code = cli.main(["data", "bench", str(records), "--out", str(out), *map(str, words)])
    return code, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def place(line):
    return int(line["depth_path"].removesuffix(".png"))


def test_every_beginning_of_the_order_is_balanced_over_scenes_and_then_cameras():
    sizes = {"a": 60, "b": 6, "c": 20}
    groups = [(scene, camera) for scene, count in sizes.items() for camera in "xyz" for _ in range(count)]
    order = balanced_order(groups, 42)
    assert sorted(order) == list(range(len(groups)))
    for length in (9, 27, 40):
        scenes = Counter(groups[index][0] for index in order[:length])
        assert max(scenes.values()) - min(scenes.values()) <= 1 and len(scenes) == 3
        cameras = Counter(groups[index] for index in order[:length])
        assert max(cameras.values()) - min(cameras.values()) <= 1
    assert order == balanced_order(groups, 42) != balanced_order(groups, 43)
    assert [groups[index][0] for index in order[-30:]] == ["a"] * 30  # The others have no more images.


def test_images_are_balanced_and_points_are_drawn_from_their_maps_by_the_released_rule(records, capsys):
    code, lines = bench(records, "--images", 8, "--points", 6)
    assert code == 0 and "8 images of 4 scenes and 2 cameras, 48 points" in capsys.readouterr().out
    assert Counter(line["scene"] for line in lines) == dict.fromkeys("abcd", 2)
    assert Counter(line["camera"] for line in lines) == {"front": 4, "rear": 4}
    assert [place(line) for line in lines] == sorted({place(line) for line in lines})
    for index, line in enumerate(lines):
        depth_m = np.random.default_rng(place(line)).uniform(1, 9, MAP_PX[::-1])
        known = [(u, v) for v in range(12, 24) for u in range(32)]
        chosen = np.random.RandomState(42 + index).choice(len(known), 6, replace=False)
        assert [tuple(uv) for uv in line["pixel_coords"]] == [known[point] for point in chosen]
        expected_m = [round(round(depth_m[v, u] * 1000) / 1000, 4) for u, v in line["pixel_coords"]]
        assert line["depth"] == pytest.approx(expected_m, abs=1e-9)
    again = read_records(records.parent / "bench.jsonl")
    assert not again.problems and [len(record.uv_px) for record in again.records] == [6] * 8


def test_same_command_gives_the_same_file_and_another_seed_another(records):
    first = bench(records, "--images", 6)[1]
    assert bench(records, "--images", 6)[1] == first != bench(records, "--images", 6, "--seed", 7)[1]


def test_points_can_be_counted_over_all_images(records):
    lines = bench(records, "--images", 9, "--total-points", 60)[1]
    assert [len(line["pixel_coords"]) for line in lines] == [7] * 6 + [6] * 3


def test_image_without_enough_depth_is_replaced_and_reported(records, capsys):
    code, lines = bench(records, "--images", 24, "--points", 5)
    err = capsys.readouterr().err
    assert code == 0 and sorted(map(place, lines)) == sorted(set(range(24)) - {5})
    assert "1 x too few known depths" in err and "records.jsonl:6" in err and "all are taken" in err


def test_records_with_points_alone_are_drawn_from_these(tmp_path):
    labels = write_labels(tmp_path, images=3, points=20)
    code, lines = bench(labels, "--points", 4)
    assert code == 0 and len(lines) == 3
    given = [json.loads(line) for line in labels.read_text().splitlines()]
    for line, whole in zip(lines, given, strict=True):
        pairs = [(*uv, round(depth_m, 4)) for uv, depth_m in zip(whole["pixel_coords"], whole["depth"], strict=True)]
        assert line["intrinsics"] == list(vars(CAMERA).values()) and len(line["depth"]) == 4
        for uv, depth_m in zip(line["pixel_coords"], line["depth"], strict=True):
            assert (*uv, depth_m) in pairs


def test_unusable_options_and_files_are_refused(records, capsys):
    def refused(text, *words):
        code, lines = bench(records, *words)
        err = capsys.readouterr().err
        assert (code, lines) == (2, []) and text in err.splitlines()[-1], err

    refused("--images is 0", "--images", 0)
    refused("--points is 0", "--points", 0)
    refused("--seed is 4294967290: it must be at most 4294966295", "--seed", 4294967290)
    refused("--total-points is 5: give at least one for each of the 6 images", "--images", 6, "--total-points", 5)
    refused("no usable record", "--points", 10000)
    assert cli.main(["data", "bench", str(records), "--out", str(records)]) == 2
    assert "is the file of records itself" in capsys.readouterr().err
    assert cli.main(["data", "bench", str(records), "--out", str(records.parent / "none" / "b.jsonl")]) == 2
    assert "existing folder" in capsys.readouterr().err
    with pytest.raises(BadInput, match="--total-points is -1"):
        BenchmarkOptions(total_points=-1)
