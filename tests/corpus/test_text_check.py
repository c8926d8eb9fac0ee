"""Letters that no spelling of the Quran has: they vanish from the text, and that is reported."""

from __future__ import annotations

import json
from pathlib import Path

from quran_asr.corpus.text_check import unknown_characters_of


def test_letters_that_the_spelling_drops_are_reported_with_their_line(tmp_path: Path) -> None:
    texts = ("قُلْ هُوَ ٱللَّهُ أَحَدٌ ۝١", "hello قل world", "پل ﷺ قل", "قل (1) هو.", "الـلّٰه")
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts) + "torn {\n"
    )
    finding = unknown_characters_of([manifest])
    assert finding is not None
    assert (finding.severity, finding.code) == ("warning", "foreign-letters")
    assert finding.where == f"{manifest}:2"
    assert finding.message.startswith("2 texts have letters")
    for letter in "helowrdپ":
        assert f"`{letter}`" in finding.message
    manifest.write_text(json.dumps({"text": texts[0]}) + "\n" + json.dumps({"verses": ["112:1"]}) + "\n")
    assert unknown_characters_of([manifest]) is None
