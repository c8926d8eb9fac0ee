"""`tools/measure_search.py`: what it would run, and that what is measured is not measured again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "measure_search.py"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A bundle's description and the index of recitations, no audio."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps({"sha256": "7" * 64}))
    (tmp_path / "data" / "recitations").mkdir(parents=True)
    lines = [
        {"audio_filepath": f"{reciter}/{surah:03}001.opus", "reciter": reciter, "verses": [f"{surah}:1"]}
        for reciter in ("nabil-al-rifai", "somebody-else")
        for surah in (80, 90)
    ]
    index = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "data" / "recitations" / "index.jsonl").write_text(index)
    return tmp_path


def measure(folders: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), str(folders / "bundle"), "--data", str(folders / "data")]
    command += ["--validation", str(folders / "clips.jsonl"), "--to", str(folders / "out"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_set_is_in_the_list(folders: Path) -> None:
    listed = measure(folders, "--list").stdout
    for name in ("verses-44", "verses-43", "studio-173", "volunteers-80"):
        assert f"identified {name}\n  python -m quran_asr evaluate {folders}/data/eval/{name}" in listed
    for tool in ("plant_errors", "alignment_accuracy", "identification_study", "plant_faults"):
        assert f"tools/{tool}.py" in listed
    (line,) = (folders / "out" / f"search-{'7' * 12}" / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["verses"] == ["90:1"]


def test_a_step_that_is_there_is_printed(folders: Path) -> None:
    measured = folders / "out" / f"search-{'7' * 12}"
    measured.mkdir(parents=True)
    (measured / "published-verse-times.txt").write_text("| a table |\n")
    done = measure(folders, "--only", "published verse times")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "## published verse times\n\n```\n| a table |\n```\n\n"


def test_an_unknown_step_is_refused(folders: Path) -> None:
    done = measure(folders, "--only", "planted")
    assert done.returncode == 2 and "there is no such step" in done.stderr
