# SPDX-License-Identifier: Apache-2.0
"""Nodes under hostile messages and under long changing load (bench/fuzz.py, bench/soak.py), and how these judge."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT, needs_tiny

pytestmark = [pytest.mark.ros, needs_tiny]
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")
QUICK_CASES, CASES = 60, 1200


def run_bench(name, *args, timeout_s):
    """Runs a benchmark and returns its exit code, the JSON of its last line, and what it said."""
    command = [sys.executable, str(ROOT / "bench" / name), *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    lines = done.stdout.strip().splitlines()
    assert lines, done.stderr[-3000:]
    return done.returncode, json.loads(lines[-1]), done.stderr[-3000:]


@pytest.fixture
def bench_module(monkeypatch):
    """Returns a function that imports a module of bench/."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return __import__


@pytest.mark.parametrize("cases", [QUICK_CASES, pytest.param(CASES, marks=pytest.mark.slow)])
def test_hostile_messages_and_requests_end_no_node_and_invent_no_depth(cases):
    seed = 0 if cases == QUICK_CASES else 1
    code, report, said = run_bench("fuzz.py", "--seed", seed, "--cases", cases, timeout_s=120 + 3 * cases)
    assert (code, report["failures"], report["cases"]) == (0, [], cases), said
    # Odd but usable images had depth: hostile images do reach the model.
    assert report["with depth"] > cases / 50


@pytest.mark.slow
def test_half_an_hour_of_changing_load_leaks_nothing_and_slows_nothing_down():
    code, report, said = run_bench("soak.py", "--minutes", 30, timeout_s=3600)
    assert code == 0 and report["kept"], said


def test_a_case_is_repeated_by_its_seed_and_number(bench_module):
    hostile = bench_module("hostile_messages")
    for number in range(3 * len(hostile.KINDS)):
        first, again = (hostile.hostile_case(5, number, 10**18) for _ in range(2))
        # As words, in which NaN is equal to itself. Serialised bytes have gaps of any content.
        assert first.text == again.text and (first.kind == "bytes" or str(first) == str(again))
        other = hostile.hostile_case(6, number, 10**18)
        assert other.kind == first.kind or {other.kind, first.kind} <= {"match_pixels", "relative_pose"}


def test_responses_with_invented_numbers_are_faults(bench_module):
    from geometry_msgs.msg import Point

    from depthlm_ros.srv import QueryDepth, SpatialQuery

    faults_of = bench_module("fuzz").faults_of
    request = QueryDepth.Request(pixels=[Point(x=float("nan")), Point(x=10.0, y=10.0)])
    assert not faults_of(request, QueryDepth.Response(success=True, depth=[float("nan"), 2.0]))
    assert "outside the image" in faults_of(request, QueryDepth.Response(success=True, depth=[1.0, 2.0]))[0]
    refused = SpatialQuery.Response(status=SpatialQuery.Response.BAD_REQUEST, message="no", value=float("nan"))
    assert not faults_of(SpatialQuery.Request(), refused)
    refused.value = 1.0
    assert "without success" in faults_of(SpatialQuery.Request(), refused)[0]
    failed = SpatialQuery.Response(status=SpatialQuery.Response.INTERNAL, message="boom", value=float("nan"))
    assert "boom" in faults_of(SpatialQuery.Request(), failed)[0]


def judged(soak, folder, growth_mb=0.0, latency=1.0, threads=0, descriptors=0, errors=(), log="fine"):
    """Returns what the soak says of a pair whose numbers grow by so much from its beginning to its end."""
    path = Path(folder) / "node.log"
    path.write_text(log)
    measured = soak.Measured(errors=list(errors))
    for second, share in enumerate(np.linspace(0, 1, 600)):
        grown = [round(share * growth) for growth in (threads, descriptors)]
        measured.samples.append(soak.Sample(second, 300 + share * growth_mb, 20 + grown[0], 40 + grown[1]))
        measured.latencies.append((second, 0.05 * (1 + share * (latency - 1))))
    return soak.verdict(measured, path, 0.0)["broken"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"growth_mb": 25}, ""),
        ({"growth_mb": 40}, "memory"),
        ({"threads": 6}, "threads"),
        ({"descriptors": 6}, "descriptors"),
        ({"latency": 1.1}, ""),
        ({"latency": 2.0}, "latency"),
        ({"errors": ["unanswered: x"]}, "unanswered"),
        ({"log": "Traceback (most recent call last):"}, "traceback"),
    ],
)
def test_the_soak_judges_growth_latency_and_errors(bench_module, tmp_path, change, expected):
    broken = judged(bench_module("soak_verdict"), tmp_path, **change)
    assert bool(broken) == bool(expected) and expected in "".join(broken)
