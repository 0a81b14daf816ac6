"""Long runs of curation: killed, killed workers, full disks, damaged data; nothing that was written is lost."""

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
from support.small_data_sets import job, picture, text

from depthlm_ros.cli import main
from depthlm_ros.data.curate import ItemResult, Journal, attempt, curate, in_order, run, work
from depthlm_ros.data.read import read_records
from depthlm_ros.data.records import Problem
from depthlm_ros.errors import BadInput


def write_scenes(root, count, images=1):
    """Scenes of a folder of one's own, each of another depth."""
    for n in range(count):
        scene = root / f"scene_{n:03d}"
        (scene / "depth").mkdir(parents=True)
        for i in range(images):
            picture(scene / "rgb" / f"{i}.png", 32, 24)
            np.save(scene / "depth" / f"{i}.npy", np.full((24, 32), 1 + n / 100, np.float32))
        text(scene / "intrinsics.txt", "30 0 15.5 0 30 11.5 0 0 1")


def command(root, out, *options):
    return ["data", "curate", "folder", str(root), "--out", str(out), *options]


def reference(root, out):
    """What an undisturbed run in one process writes."""
    return Path(curate(job("folder", root, out, points=20), 1)["file"]).read_bytes()


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
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
    assert f"{before} of 150 were done before" in again.stderr
    assert json.loads((out / "folder.report.json").read_text())["records"] == 150


def test_what_was_cut_off_is_cut_away(tmp_path):
    journal = Journal(tmp_path, "x", {"a": 1})
    journal.append("one", ItemResult(("first", "second"), 2))
    with (tmp_path / "x.jsonl.part").open("ab") as part, (tmp_path / "x.journal").open("ab") as lines:
        part.write(b"half a li")
        lines.write(b'{"item": "tw')
    again = Journal(tmp_path, "x", {"a": 1})
    assert again.done == {"one"} and again.records == 2
    again.append("two", ItemResult(("third",), 1, (Problem("w", "r", "m", 3),)))
    again.finish()
    assert (tmp_path / "x.jsonl").read_text() == "first\nsecond\nthird\n"
    assert again.summary() == {
        "items": 2,
        "records": 3,
        "points": 3,
        "problems": {"r": 3},
        "examples": {"r": ["w: m"]},
    }


def test_a_journal_line_whose_lines_were_lost_is_done_again(tmp_path):
    journal = Journal(tmp_path, "x", {})
    journal.append("one", ItemResult(("first",), 1))
    journal.append("two", ItemResult(("second",), 1))
    os.truncate(tmp_path / "x.jsonl.part", 8)  # as after a loss of power
    again = Journal(tmp_path, "x", {})
    assert again.done == {"one"} and again.records == 1
    assert (tmp_path / "x.jsonl.part").read_text() == "first\n"


@pytest.mark.parametrize("lost", ["after the rename", "before the rename"])
def test_killed_at_the_very_end_is_finished_too(tmp_path, lost):
    journal = Journal(tmp_path, "x", {})
    journal.append("one", ItemResult(("first",), 1))
    if lost == "after the rename":
        (tmp_path / "x.jsonl.part").rename(tmp_path / "x.jsonl")
    again = Journal(tmp_path, "x", {})
    again.finish()
    assert again.finished and (tmp_path / "x.jsonl").read_text() == "first\n"


def test_workers_give_what_one_process_gives(tmp_path):
    write_scenes(tmp_path / "in", 12)
    expected = reference(tmp_path / "in", tmp_path / "one")
    report = curate(job("folder", tmp_path / "in", tmp_path / "two", points=20), workers=2)
    assert Path(report["file"]).read_bytes() == expected


def test_a_finished_run_is_not_done_again(tmp_path):
    write_scenes(tmp_path / "in", 2)
    first = curate(job("folder", tmp_path / "in", tmp_path / "out"), 1)
    written = Path(first["file"]).stat().st_mtime_ns
    assert curate(job("folder", tmp_path / "in", tmp_path / "out"), 1) == first
    assert Path(first["file"]).stat().st_mtime_ns == written


def test_a_folder_of_another_run_is_refused_saying_what_differs(tmp_path):
    write_scenes(tmp_path / "in", 1)
    curate(job("folder", tmp_path / "in", tmp_path / "out"), 1)
    with pytest.raises(BadInput, match=r"another run \(as_released False"):
        curate(job("folder", tmp_path / "in", tmp_path / "out", as_released=True), 1)


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    text(tmp_path / "folder.jsonl", "precious")
    with pytest.raises(BadInput, match="is there already"):
        Journal(tmp_path, "folder", {})
    assert (tmp_path / "folder.jsonl").read_text() == "precious"


def deadly(folder, item):
    """Kills its process for "once" the first time it comes, for "always" every time."""
    mark = Path(folder) / item
    if item == "always" or (item == "once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item.upper()


def test_a_killed_worker_costs_the_item_that_kills_and_no_other(tmp_path):
    items = ["a", "once", "b", "always", "c", "d"]
    outcomes = list(in_order(partial(deadly, str(tmp_path)), items, 2))
    assert [outcome.item for outcome in outcomes] == items
    results = {outcome.item: outcome.result for outcome in outcomes}
    assert results == {"a": "A", "once": "ONCE", "b": "B", "always": None, "c": "C", "d": "D"}
    assert outcomes[3].kills == 2 and outcomes[1].kills >= 1


def deadly_work(job, item):
    if item == "scene_001":
        os.kill(os.getpid(), signal.SIGKILL)
    return work(job, item)


def test_a_killed_worker_is_counted_in_the_report(tmp_path):
    write_scenes(tmp_path / "in", 3)
    report = run(job("folder", tmp_path / "in", tmp_path / "out"), "folder", 2, deadly_work)
    assert report["records"] == 2 and report["problems"]["worker killed twice"] == 1
    assert "scene_001" in report["examples"]["worker killed twice"][0]
    assert len(read_records(Path(report["file"])).records) == 2


def test_a_full_disk_stops_with_what_is_written_whole_and_a_later_run_goes_on(tmp_path):
    write_scenes(tmp_path / "in", 40)
    expected, out = reference(tmp_path / "in", tmp_path / "whole"), tmp_path / "out"
    options = ("--workers", "1", "--points", "20")
    process = start(*command(tmp_path / "in", out, *options), most_bytes=len(expected) // 2)
    complaint = process.communicate()[1]
    assert process.returncode == 2 and "of 40 items are written whole. Make room and run the same command" in complaint
    part = (out / "folder.jsonl.part").read_bytes()
    assert part and expected.startswith(part) and part.endswith(b"\n")
    assert main(command(tmp_path / "in", out, *options)) == 0
    assert (out / "folder.jsonl").read_bytes() == expected


def test_a_full_disk_is_never_taken_for_bad_data():
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        attempt("x", full, [])


def test_damaged_images_cost_themselves_only_and_are_named(tmp_path):
    write_scenes(tmp_path / "in", 2, images=3)
    scene = tmp_path / "in" / "scene_000"
    (scene / "rgb" / "0.png").write_bytes(b"torn")
    (scene / "depth" / "1.npy").write_bytes(b"torn")
    np.save(scene / "depth" / "2.npy", np.full((24, 32), np.nan, np.float32))
    text(tmp_path / "in" / "scene_001" / "intrinsics.txt", "30 0 15.5")
    report = curate(job("folder", tmp_path / "in", tmp_path / "out"), 1)
    assert report["records"] == 0
    unusable = {"image unusable": 1, "depth map unusable": 1}
    assert report["problems"] == {**unusable, "view without depth": 1, "matrix malformed": 3}
    assert "scene_000: 0" in report["examples"]["image unusable"][0]


def test_a_depth_map_that_cannot_cover_its_image_is_left_out(tmp_path):
    write_scenes(tmp_path / "in", 1, images=3)
    depth = tmp_path / "in" / "scene_000" / "depth"
    np.save(depth / "0.npy", np.full((24, 24), 2.0, np.float32))
    np.save(depth / "1.npy", np.full((12, 16), 2.0, np.float32))  # half as large: that covers it
    report = curate(job("folder", tmp_path / "in", tmp_path / "out"), 1)
    assert report["problems"] == {"depth map of another shape": 1} and report["records"] == 2


def test_the_points_do_not_depend_on_how_many_images_there_are(tmp_path):
    write_scenes(tmp_path / "in", 3)
    few = reference(tmp_path / "in" / "scene_001", tmp_path / "few")
    all_ = reference(tmp_path / "in", tmp_path / "all")
    assert json.loads(few)["pixel_coords"] == json.loads(all_.splitlines()[1])["pixel_coords"]


def test_points_are_drawn_without_replacement_and_no_more_than_there_are(tmp_path):
    write_scenes(tmp_path / "in", 1)
    report = curate(job("folder", tmp_path / "in", tmp_path / "out", points=10000), 1)
    pixels = json.loads(Path(report["file"]).read_text())["pixel_coords"]
    assert len(pixels) == 24 * 32 == len({tuple(pixel) for pixel in pixels})


def test_the_command_line_names_unknown_data_sets_and_lists_the_known(tmp_path, capsys):
    assert main(["data", "curate", "kitti", str(tmp_path), "--out", str(tmp_path / "o")]) == 1
    assert "data set 'kitti' is unknown" in capsys.readouterr().err
    assert main(["data", "sets"]) == 0
    assert "nyuv2: NYUv2" in capsys.readouterr().out


def test_workers_end_with_a_run_that_is_killed(tmp_path):
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


def test_a_disk_that_is_full_from_the_start_says_so(tmp_path):
    write_scenes(tmp_path / "in", 1)
    process = start(*command(tmp_path / "in", tmp_path / "out"), most_bytes=0)
    complaint = process.communicate()[1]
    assert process.returncode == 2 and f"{tmp_path / 'out'}: " in complaint and "Make room" in complaint
    assert main(command(tmp_path / "in", tmp_path / "out")) == 0


def test_a_finished_run_does_not_pass_over_what_came_later(tmp_path):
    write_scenes(tmp_path / "in", 2)
    curate(job("folder", tmp_path / "in", tmp_path / "out"), 1)
    (tmp_path / "in" / "scene_000").rename(tmp_path / "in" / "scene_new")
    with pytest.raises(BadInput, match=r"was finished without 1 items .* scene_new"):
        curate(job("folder", tmp_path / "in", tmp_path / "out"), 1)


def test_a_run_that_gives_no_record_fails_and_says_why(tmp_path, capsys):
    write_scenes(tmp_path / "in", 1)
    (tmp_path / "in" / "scene_000" / "depth" / "0.npy").write_bytes(b"no depth")
    assert main(command(tmp_path / "in", tmp_path / "out", "--workers", "1")) == 2
    told = capsys.readouterr()
    assert "1 x depth map unusable" in told.out and "not one record could be made of 1 items" in told.err


@pytest.mark.parametrize("options", [["--points", "0"], ["--points", "-1"], ["--seed", "-1"], ["--workers", "-1"]])
def test_numbers_that_make_no_sense_are_refused(tmp_path, capsys, options):
    write_scenes(tmp_path / "in", 1)
    assert main(command(tmp_path / "in", tmp_path / "out", *options)) == 2
    assert f"{options[0]} is {options[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--covisibility", "1"], ["--per-view", "0"], ["--points", "0"]])
def test_pairs_that_make_no_sense_are_refused(tmp_path, capsys, options):
    write_scenes(tmp_path / "in", 1)
    assert main(["data", "pairs", "folder", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *options]) == 2
    assert f"{options[0]} is {options[1]}" in capsys.readouterr().err
