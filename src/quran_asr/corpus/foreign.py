"""Letters of a manifest's texts that no spelling of the Quran has: spelling a text leaves them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quran_asr.corpus.manifest import each_line
from quran_asr.findings import Finding
from quran_asr.text.spelling import lost_letters

MOST_SHOWN = 12


def foreign_letters(manifests: Sequence[str | Path]) -> Finding | None:
    """A warning where texts as written have letters that training does not see; None where none has.

    Lines that cannot be used are passed over: they are told by who reads the manifest.

    Raises:
        QuranAsrError: a manifest is missing.
    """
    first, count = "", 0
    found: dict[str, None] = {}
    for manifest in manifests:
        for where, values in each_line(Path(manifest)):
            text = values.get("text")
            letters = lost_letters(text) if isinstance(text, str) else ""
            if letters:
                first = first or where
                count += 1
                found.update(dict.fromkeys(letters))
    if not count:
        return None
    shown = " ".join(f"`{letter}`" for letter in list(found)[:MOST_SHOWN])
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return Finding(
        "warning",
        "foreign-letters",
        first,
        f"{count:,} {'text has' if count == 1 else 'texts have'} letters that the Quran has not, and "
        f"that are left out of what is learned: {shown}{more}",
        "write these words in Arabic letters, or remove the line; whole verses need only `verses`",
    )
