# SPDX-License-Identifier: Apache-2.0
"""The first-day checks: tokens without weights, scores beside expected figures, other data, what a failure says."""

import json

import pytest
from support.checkered_room import write_labels
from support.paths import needs_tiny

from depthlm_ros.cli import main
from depthlm_ros.errors import UnknownName
from depthlm_ros.eval import first_day
from depthlm_ros.eval.first_day import CHECKS, FAIL, OK, OTHER_DATA, checks_of, compare, count_tokens, find_labels
from depthlm_ros.model_files.spec_yaml import find_spec


@pytest.mark.parametrize("name", CHECKS)
def test_the_image_tokens_are_those_that_others_counted(name):
    checks = checks_of(name)[0]
    assert checks and all(count_tokens(find_spec(name), check).verdict == OK for check in checks)


def test_wrong_sizes_are_seen_in_the_tokens():
    check = checks_of("depthvlm-4b")[0][0]
    result = count_tokens(find_spec("qwen3-vl-4b"), check)  # without the canonical focal length
    assert result.verdict == FAIL and "look at: the canvas" in str(result)


def test_figures_are_compared_with_their_tolerance_and_other_labels_are_told_from_a_wrong_figure():
    check = CHECKS["depthvlm-4b"][2]
    good = {"images": 654, "delta1": 0.9371, "absrel_image_mean": 0.0899, "rmse_image_mean": 0.349}
    assert [one.verdict for one in compare(check, good)] == [OK, OK, OK]
    results = compare(check, good | {"delta1": 0.92, "rmse_image_mean": None})
    assert [one.verdict for one in results] == [FAIL, OK, FAIL]
    assert "look at: the image tokens above" in str(results[0])
    other = compare(check, good | {"images": 600, "delta1": 0.92})
    assert [(one.score, one.verdict) for one in other][:2] == [("images", OTHER_DATA), ("delta1", OTHER_DATA)]


def test_labels_are_found_by_their_names_the_nearest_first(tmp_path):
    check = CHECKS["depthvlm-4b"][0]
    assert find_labels(tmp_path, check) is None
    for path in ("deep/er/ibims1.jsonl", "ibims1/labels.jsonl", "nyu/labels.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert find_labels(tmp_path, check) == tmp_path / "ibims1" / "labels.jsonl"


def test_the_benchmarks_nyu_is_not_taken_for_eigens_split(tmp_path):
    check = CHECKS["depthvlm-4b"][2]
    for name in ("nyuv2_pixel_depth_test.jsonl", "nyu-eigen.jsonl"):
        assert find_labels(tmp_path, check) is None
        (tmp_path / name).touch()
    assert find_labels(tmp_path, check) == tmp_path / "nyu-eigen.jsonl"


def test_a_model_without_checks_is_refused_with_those_that_have_some():
    with pytest.raises(UnknownName, match="depthvlm-4b, depthlm-12b"):
        checks_of("tiny")


def test_without_data_the_tokens_are_checked_and_the_rest_says_what_it_needs(tmp_path, capsys):
    assert main(["eval", "--first-day", "depthvlm-4b", "--json", str(tmp_path / "a.json")]) == 0
    out = capsys.readouterr().out
    assert out.count("OK") == 2 and out.count("not run") == len(CHECKS["depthvlm-4b"])
    assert [one["verdict"] for one in json.loads((tmp_path / "a.json").read_text())] == [OK, OK]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", "5"), "leave out --limit"),
        (("--merge", "a.jsonl"), "leave out --merge"),
        (("--first-day", "depthvlm-4b", "none"), "none is not a folder"),
        (("--model", "nothing"), "nothing"),
    ],
)
def test_options_that_do_not_fit_are_one_line(capsys, words, message):
    assert main(["eval", "--first-day", "depthvlm-4b", *words]) in (1, 2)
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


@needs_tiny
def test_labels_that_cannot_be_scored_fail_their_check_and_the_others_run(tmp_path, capsys, monkeypatch):
    (tmp_path / "ibims.jsonl").write_text("{}\n")
    write_labels(tmp_path, images=1, points=10).rename(tmp_path / "ddad.jsonl")
    words = first_day.DepthEvalOptions(points="words")
    checks = [
        first_day.ScoreCheck(name, (name,), words, {"delta1": (0.5, 1.0)}, "n", 10, "here", "", "")
        for name in ("ibims", "ddad")
    ]
    monkeypatch.setitem(first_day.CHECKS, "depthlm-12b", tuple(checks))
    file = tmp_path / "a.json"
    command = ["eval", str(tmp_path), "--first-day", "depthlm-12b", "--model", "tiny", "--json", str(file)]
    assert main(command) == 2
    assert "FAIL   look at: " in capsys.readouterr().out
    results = {one["title"]: one for one in json.loads(file.read_text())}
    assert results["ibims"]["verdict"] == FAIL and str(tmp_path / "ibims.jsonl") in results["ibims"]["look_at"]
    assert results["ddad"]["verdict"] == OK


@needs_tiny
def test_scores_of_a_model_are_checked_on_the_labels_of_a_folder(tmp_path, capsys, monkeypatch):
    (tmp_path / "ibims1").mkdir()
    write_labels(tmp_path / "ibims1", images=2, points=10)
    plain = first_day.DepthEvalOptions(points="words")
    figures = {"delta1": (0.5, 1.0), "absrel": (-5.0, 0.1)}
    check = first_day.ScoreCheck("rooms", ("ibims",), plain, figures, "n", 20, "here", "the walls", "rooms")
    monkeypatch.setitem(first_day.CHECKS, "depthlm-12b", (check,))
    command = ["eval", str(tmp_path), "--first-day", "depthlm-12b", "--model", "tiny"]
    assert main([*command, "--results", str(tmp_path / "kept.jsonl")]) == 2
    captured = capsys.readouterr()
    assert "2 of 3 first-day figures of tiny are not as expected" in captured.err
    lines = captured.out.splitlines()
    assert "FAIL   look at: the canvas" in lines[0], "the tokens are those of the model that is checked"
    assert "OK" in lines[1] and "FAIL   look at: the walls" in lines[2]
    assert len((tmp_path / "kept-ibims.jsonl").read_text().splitlines()) == 1 + 2
