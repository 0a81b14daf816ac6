# SPDX-License-Identifier: Apache-2.0
"""Long runs of curation: killed runs, killed workers, full disks and damaged data lose nothing that was written."""

import errno
import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.command_line import depthlm, start
from support.small_data_sets import make_job, write_file, write_image

from depthlm_ros.cli import main
from depthlm_ros.data.curate import (
    ItemResult,
    Journal,
    call_or_record_problem,
    curate,
    curate_item,
    map_in_order,
    run_job,
)
from depthlm_ros.data.read import read_records
from depthlm_ros.data.records import RecordProblem
from depthlm_ros.errors import BadInput


def write_scenes(root, count, images=1):
    """Writes scenes of the data set `folder`, each with another depth."""
    for n in range(count):
        scene = root / f"scene_{n:03d}"
        (scene / "depth").mkdir(parents=True)
        for i in range(images):
            write_image(scene / "rgb" / f"{i}.png", 32, 24)
            np.save(scene / "depth" / f"{i}.npy", np.full((24, 32), 1 + n / 100, np.float32))
        write_file(scene / "intrinsics.txt", "30 0 15.5 0 30 11.5 0 0 1")


def command(root, out, *options):
    return ["data", "curate", "folder", str(root), "--out", str(out), *options]


def reference(root, out):
    """Returns what an undisturbed run in one process writes."""
    return Path(curate(make_job("folder", root, out, points=20), 1)["file"]).read_bytes()


def test_killed_run_continues_where_it_stopped(tmp_path):
    write_scenes(tmp_path / "in", 150)
    expected, out = reference(tmp_path / "in", tmp_path / "whole"), tmp_path / "out"
    options = ("--workers", "1", "--points", "20")
    process = start(*command(tmp_path / "in", out, *options))
    journal = out / "folder.journal"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (out / "folder.jsonl").exists()
    before = journal.read_bytes().count(b"\n") - 1
    again = depthlm(*command(tmp_path / "in", out, *options))
    assert again.returncode == 0, again.stderr
    assert (out / "folder.jsonl").read_bytes() == expected
    assert f"{before} of 150 items were finished by an earlier run" in again.stderr
    assert json.loads((out / "folder.report.json").read_text())["records"] == 150


def test_data_of_an_unfinished_item_are_removed(tmp_path):
    journal = Journal(tmp_path, "x", {"a": 1})
    journal.append("one", ItemResult(("first", "second"), 2))
    with (tmp_path / "x.jsonl.part").open("ab") as part, (tmp_path / "x.journal").open("ab") as lines:
        part.write(b"half a li")
        lines.write(b'{"item": "tw')
    again = Journal(tmp_path, "x", {"a": 1})
    assert again.done == {"one"} and again.records == 2
    again.append("two", ItemResult(("third",), 1, (RecordProblem("w", "r", "m", 3),)))
    again.finish()
    assert (tmp_path / "x.jsonl").read_text() == "first\nsecond\nthird\n"
    assert again.summary() == {
        "items": 2,
        "records": 3,
        "points": 3,
        "problems": {"r": 3},
        "examples": {"r": ["w: m"]},
    }


def test_item_whose_records_were_lost_is_processed_again(tmp_path):
    journal = Journal(tmp_path, "x", {})
    journal.append("one", ItemResult(("first",), 1))
    journal.append("two", ItemResult(("second",), 1))
    os.truncate(tmp_path / "x.jsonl.part", 8)  # as after a power loss
    again = Journal(tmp_path, "x", {})
    assert again.done == {"one"} and again.records == 1
    assert (tmp_path / "x.jsonl.part").read_text() == "first\n"


@pytest.mark.parametrize("lost", ["after the rename", "before the rename"])
def test_run_killed_during_the_last_step_is_finished(tmp_path, lost):
    journal = Journal(tmp_path, "x", {})
    journal.append("one", ItemResult(("first",), 1))
    if lost == "after the rename":
        (tmp_path / "x.jsonl.part").rename(tmp_path / "x.jsonl")
    again = Journal(tmp_path, "x", {})
    again.finish()
    assert again.finished and (tmp_path / "x.jsonl").read_text() == "first\n"


def test_several_workers_write_what_one_process_writes(tmp_path):
    write_scenes(tmp_path / "in", 12)
    expected = reference(tmp_path / "in", tmp_path / "one")
    report = curate(make_job("folder", tmp_path / "in", tmp_path / "two", points=20), workers=2)
    assert Path(report["file"]).read_bytes() == expected


def test_finished_run_is_not_repeated(tmp_path):
    write_scenes(tmp_path / "in", 2)
    first = curate(make_job("folder", tmp_path / "in", tmp_path / "out"), 1)
    written = Path(first["file"]).stat().st_mtime_ns
    assert curate(make_job("folder", tmp_path / "in", tmp_path / "out"), 1) == first
    assert Path(first["file"]).stat().st_mtime_ns == written


def test_folder_of_another_run_is_refused_with_the_difference(tmp_path):
    write_scenes(tmp_path / "in", 1)
    curate(make_job("folder", tmp_path / "in", tmp_path / "out"), 1)
    with pytest.raises(BadInput, match=r"another run \(as_released False"):
        curate(make_job("folder", tmp_path / "in", tmp_path / "out", as_released=True), 1)


def test_file_of_another_origin_is_not_overwritten(tmp_path):
    write_file(tmp_path / "folder.jsonl", "precious")
    with pytest.raises(BadInput, match="already exists"):
        Journal(tmp_path, "folder", {})
    assert (tmp_path / "folder.jsonl").read_text() == "precious"


def test_damaged_journal_is_rejected_by_name(tmp_path):
    Journal(tmp_path, "x", {}).close()
    write_file(tmp_path / "x.journal", "no JSON\n")
    with pytest.raises(BadInput, match=r"x\.journal: the journal is damaged .* choose another folder"):
        Journal(tmp_path, "x", {})


def kill_own_process(folder, item):
    """Kills its process at the first call for "once", and at every call for "always"."""
    mark = Path(folder) / item
    if item == "always" or (item == "once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item.upper()


def test_killed_worker_costs_only_the_item_that_kills_it(tmp_path):
    items = ["a", "once", "b", "always", "c", "d"]
    outcomes = list(map_in_order(partial(kill_own_process, str(tmp_path)), items, 2))
    assert [outcome.item for outcome in outcomes] == items
    results = {outcome.item: outcome.result for outcome in outcomes}
    assert results == {"a": "A", "once": "ONCE", "b": "B", "always": None, "c": "C", "d": "D"}
    assert outcomes[3].kills == 2 and outcomes[1].kills >= 1


def curate_item_or_die(job, item):
    if item == "scene_001":
        os.kill(os.getpid(), signal.SIGKILL)
    return curate_item(job, item)


@pytest.mark.slow
def test_killed_worker_is_counted_in_the_report(tmp_path):
    write_scenes(tmp_path / "in", 3)
    report = run_job(make_job("folder", tmp_path / "in", tmp_path / "out"), "folder", 2, curate_item_or_die)
    assert report["records"] == 2 and report["problems"]["worker killed twice"] == 1
    assert "scene_001" in report["examples"]["worker killed twice"][0]
    assert len(read_records(Path(report["file"])).records) == 2


def test_full_disk_keeps_complete_items_and_a_later_run_continues(tmp_path):
    write_scenes(tmp_path / "in", 40)
    expected, out = reference(tmp_path / "in", tmp_path / "whole"), tmp_path / "out"
    options = ("--workers", "1", "--points", "20")
    process = start(*command(tmp_path / "in", out, *options), max_file_bytes=len(expected) // 2)
    complaint = process.communicate()[1]
    assert (
        process.returncode == 2
        and "of 40 items are completely written. Make room and run the same command" in complaint
    )
    part = (out / "folder.jsonl.part").read_bytes()
    assert part and expected.startswith(part) and part.endswith(b"\n")
    assert main(command(tmp_path / "in", out, *options)) == 0
    assert (out / "folder.jsonl").read_bytes() == expected


def test_full_disk_is_not_reported_as_bad_data():
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        call_or_record_problem("x", fail, [])


def test_damaged_images_cost_only_themselves_and_are_named(tmp_path):
    write_scenes(tmp_path / "in", 2, images=3)
    scene = tmp_path / "in" / "scene_000"
    (scene / "rgb" / "0.png").write_bytes(b"torn")
    (scene / "depth" / "1.npy").write_bytes(b"torn")
    np.save(scene / "depth" / "2.npy", np.full((24, 32), np.nan, np.float32))
    write_file(tmp_path / "in" / "scene_001" / "intrinsics.txt", "30 0 15.5")
    report = curate(make_job("folder", tmp_path / "in", tmp_path / "out"), 1)
    assert report["records"] == 0
    unusable = {"image unusable": 1, "depth map unusable": 1}
    assert report["problems"] == {**unusable, "view without depth": 1, "matrix malformed": 3}
    assert "scene_000: 0" in report["examples"]["image unusable"][0]


def test_depth_map_of_another_shape_than_its_image_is_left_out(tmp_path):
    write_scenes(tmp_path / "in", 1, images=3)
    depth = tmp_path / "in" / "scene_000" / "depth"
    np.save(depth / "0.npy", np.full((24, 24), 2.0, np.float32))
    np.save(depth / "1.npy", np.full((12, 16), 2.0, np.float32))  # half the size: it covers the image
    report = curate(make_job("folder", tmp_path / "in", tmp_path / "out"), 1)
    assert report["problems"] == {"depth map of another shape": 1} and report["records"] == 2


def test_points_of_an_image_do_not_depend_on_other_images(tmp_path):
    write_scenes(tmp_path / "in", 3)
    few = reference(tmp_path / "in" / "scene_001", tmp_path / "few")
    all_ = reference(tmp_path / "in", tmp_path / "all")
    assert json.loads(few)["pixel_coords"] == json.loads(all_.splitlines()[1])["pixel_coords"]


def test_points_are_drawn_without_replacement_up_to_all_pixels(tmp_path):
    write_scenes(tmp_path / "in", 1)
    report = curate(make_job("folder", tmp_path / "in", tmp_path / "out", points=10000), 1)
    pixels = json.loads(Path(report["file"]).read_text())["pixel_coords"]
    assert len(pixels) == 24 * 32 == len({tuple(pixel) for pixel in pixels})


def test_command_line_rejects_unknown_data_sets_and_lists_known_ones(tmp_path, capsys):
    assert main(["data", "curate", "kitti", str(tmp_path), "--out", str(tmp_path / "o")]) == 1
    assert "data set 'kitti' is unknown" in capsys.readouterr().err
    assert main(["data", "sets"]) == 0
    assert "nyuv2: NYUv2" in capsys.readouterr().out


def test_workers_end_when_their_run_is_killed(tmp_path):
    write_scenes(tmp_path / "in", 400, images=2)
    process = start(*command(tmp_path / "in", tmp_path / "out", "--workers", "2"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    journal = tmp_path / "out" / "folder.journal"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        time.sleep(0.002)
    workers = [Path("/proc") / child for child in children.read_text().split()]
    workers = [worker for worker in workers if b"spawn_main" in (worker / "cmdline").read_bytes()]
    process.kill()
    assert process.wait() == -signal.SIGKILL and len(workers) == 2
    until = time.monotonic() + 30
    while any(worker.exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [worker for worker in workers if worker.exists()]


def test_disk_that_is_full_from_the_start_is_reported(tmp_path):
    write_scenes(tmp_path / "in", 1)
    process = start(*command(tmp_path / "in", tmp_path / "out"), max_file_bytes=0)
    complaint = process.communicate()[1]
    assert process.returncode == 2 and f"{tmp_path / 'out'}: " in complaint and "Make room" in complaint
    assert main(command(tmp_path / "in", tmp_path / "out")) == 0


def test_finished_run_rejects_items_that_were_added_later(tmp_path):
    write_scenes(tmp_path / "in", 2)
    curate(make_job("folder", tmp_path / "in", tmp_path / "out"), 1)
    (tmp_path / "in" / "scene_000").rename(tmp_path / "in" / "scene_new")
    with pytest.raises(BadInput, match=r"was finished without 1 items .* scene_new"):
        curate(make_job("folder", tmp_path / "in", tmp_path / "out"), 1)


def test_run_without_any_record_fails_and_says_why(tmp_path, capsys):
    write_scenes(tmp_path / "in", 1)
    (tmp_path / "in" / "scene_000" / "depth" / "0.npy").write_bytes(b"no depth")
    assert main(command(tmp_path / "in", tmp_path / "out", "--workers", "1")) == 2
    output = capsys.readouterr()
    assert "1 x depth map unusable" in output.out and "no record could be made of the 1 items" in output.err


@pytest.mark.parametrize("options", [["--points", "0"], ["--points", "-1"], ["--seed", "-1"], ["--workers", "-1"]])
def test_numbers_out_of_range_are_rejected(tmp_path, capsys, options):
    write_scenes(tmp_path / "in", 1)
    assert main(command(tmp_path / "in", tmp_path / "out", *options)) == 2
    assert f"{options[0]} is {options[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--covisibility", "1"], ["--per-view", "0"], ["--points", "0"]])
def test_pair_options_out_of_range_are_rejected(tmp_path, capsys, options):
    write_scenes(tmp_path / "in", 1)
    assert main(["data", "pairs", "folder", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options]) == 2
    assert f"{options[0]} is {options[1]}" in capsys.readouterr().err
