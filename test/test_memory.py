"""Freed memory that stays with the process is not cleared by the kernel again and again."""

import subprocess
import sys

import pytest

CODE = """
import array, resource, sys, threading
from depthlm_ros.ros.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no mallopt")

def frame():
    blocks = [array.array("B", bytes(5_000_000)) for _ in range(4)]

def frames():
    global faults
    for _ in range(5):
        frame()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        frame()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

worker = threading.Thread(target=frames)
worker.start()
worker.join()
print(faults)
"""


def page_faults(mode):
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, timeout=60, check=False)
    if "no mallopt" in done.stderr:
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


def test_large_blocks_are_reused_once_freed():
    assert page_faults("keep") < 0.2 * page_faults("leave")
