"""The plan's estimate of memory against a real step, in a process of its own whose peak the kernel tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "step_memory.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux reports a process's peak there")
def test_the_estimate_is_within_a_third_of_a_real_step() -> None:
    words = ("quickstart", "16", "10", "model.encoder.dropout=0.1", "model.encoder.dropout_att=0.1")
    given_back = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={**os.environ, **given_back},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert 0.75 < found["ratio"] < 1.34, found
