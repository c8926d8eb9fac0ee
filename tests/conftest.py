"""What every test shares: real recordings and GPUs where there are any, and calm settings for Hypothesis."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Deadlines measure the machine's other work, not the code; the examples stay the same from run to run in CI.
settings.register_profile("house", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not os.environ.get("QURAN_ASR_DATA"):
        pytest.skip("needs real recordings: QURAN_ASR_DATA is not set")
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch", reason="needs torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder with `recitations/`, `surahs/` and `eval/`; the test is skipped where there is none."""
    named = os.environ.get("QURAN_ASR_DATA")
    if not named:
        pytest.skip("needs real recordings: QURAN_ASR_DATA is not set")
    folder = Path(named)
    if not (folder / "recitations").is_dir():
        pytest.fail(f"QURAN_ASR_DATA is {folder}, which has no folder recitations/")
    return folder
