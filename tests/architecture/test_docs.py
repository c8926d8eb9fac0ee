"""What the pages say of files, keys and verses, compared with the code."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from quran_asr.corpus.manifest import write_manifest
from quran_asr.evaluation.report import ScoredClip, Setting, Unreadable, make_report, rates
from quran_asr.evaluation.scoring import score_clips
from quran_asr.evaluation.stress import StressRow, stress_json
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.records import Segment, VerseRef
from quran_asr.runtime.bundle import Shape, write_description
from quran_asr.runtime.features import FeatureSettings
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import SPELLINGS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "quran_asr"
ARCHITECTURE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
TEXT = (ROOT / "docs" / "explanation" / "text.md").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WORDS = "الله الصمد"


def section(heading: str) -> set[str]:
    """Everything in backticks and quotes under one heading of formats.md."""
    text = re.split(rf"^#+ {re.escape(heading)}$", FORMATS, flags=re.MULTILINE)[1]
    text = re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r'[`"]([\w.]+)[`"]', text))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_verse_is_shown_in_each_spelling(spelling: str) -> None:
    assert f"| `{spelling}` | {load_quran(spelling).verse(VerseRef(2, 21))} |" in TEXT


def test_the_tree_names_every_file_of_every_room_once() -> None:
    tree = ARCHITECTURE.partition("## Layout")[2].partition("\n## ")[0]
    files = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "cli" and path.name[:2] != "__"]
    assert sorted(re.findall(r"`(\w+\.py)`", tree)) == sorted(path.name for path in files)


def metrics_keys(function: str) -> set[str]:
    """Keys of the dictionaries that a function of train/ makes, read without importing torch."""
    found: set[str] = set()
    for file in ("metrics.py", "validation.py"):
        for node in ast.walk(ast.parse((PACKAGE / "training" / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == function:
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Dict):
                        found |= {str(key.value) for key in inner.keys if isinstance(key, ast.Constant)}
    return found


@pytest.mark.parametrize("function", ["_training_row", "on_validation_end", "measures"])
def test_every_key_of_metrics_is_described(function: str) -> None:
    keys = metrics_keys(function)
    assert len(keys) > 4
    assert keys - section("metrics.jsonl") == set()


def test_every_key_of_a_report_and_its_transcripts_is_described() -> None:
    segment = Segment("a.flac", 0.0, 2.0, (VerseRef(112, 2),), WORDS, "somebody")
    clip = ScoredClip(segment, score_clips([[WORDS]], [WORDS.split()[0]], "letters")[0])
    setting = Setting("m.nemo", "ctc", 0, "letters", "simple")
    report = make_report([clip], setting, None, [Unreadable(segment, "torn")]).to_json()
    assert report["worst"] and report["unreadable"]
    described = section("report.json")
    assert set(report) - described == set()
    assert set(report["lengths"]["short"]) | set(report["worst"][0]["alignment"][0]) <= described
    assert set(clip.to_json()) - section("transcripts.jsonl") == set()


def test_every_key_of_stress_is_described() -> None:
    segment = Segment("a.flac", 0.0, 2.0, (), WORDS, "somebody")
    measured = rates(score_clips([[WORDS]], [WORDS], "letters"), ["somebody"])
    row = StressRow("level", "peak 0 dBFS", measured, 0.1)
    described = section("stress.json") | section("report.json")
    stressed = stress_json([row], Setting("m.nemo", "ctc", 0, "letters", "simple"), [segment])
    assert set(stressed) | set(stressed["rows"][0]) <= described


def test_every_key_of_a_bundle_is_described() -> None:
    described = section("Bundle")
    keys = {field.name for kind in (Shape, FeatureSettings) for field in fields(kind)}
    written = set(re.findall(r'^        "(\w+)": ', inspect.getsource(write_description), re.MULTILINE))
    assert {"format", "files", "shape"} < written
    assert keys | written <= described


def test_every_key_of_training_data_is_described(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    sound = tmp_path / "a.flac"
    sound.write_bytes(b"")
    write_manifest(manifest, [{"audio_filepath": str(sound), "duration": 2.0, "verses": ["112:2"]}])
    written = TrainingData.from_segments([], [manifest]).to_json()
    assert {*written, *written["manifests"][0]} - section("training_data.json") == set()


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if not anchor:
                continue
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"


def test_the_attacks_in_security_md_name_tests_that_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text("utf-8")))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
