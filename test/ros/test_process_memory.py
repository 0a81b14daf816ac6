# SPDX-License-Identifier: Apache-2.0
"""Memory that many threads have freed goes back to the system."""

import subprocess
import sys

import pytest
from support.paths import ROOT

CODE = """
import sys, threading
from pathlib import Path
from depthlm_ros.ros import process_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def work():
    kept = []
    blocks = [bytearray(40_000) for _ in range(500)]
    for _ in range(20):
        kept.append(bytearray(40))
        blocks.append(bytearray(40_000))
    del blocks
    all_kept.append(kept)
    barrier.wait()

if sys.argv[1] == "few":
    process_memory.use_few_heaps()
before_mb, all_kept, barrier = resident_mb(), [], threading.Barrier(16)
threads = [threading.Thread(target=work) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
process_memory.give_back()
print(resident_mb() - before_mb)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of Linux is meant")
def test_what_many_threads_freed_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", CODE, "few"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5  # without give_back it is three times as much
