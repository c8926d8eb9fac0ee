"""`quran-asr text`: verses in any spelling, where words stand, the words of both editions in parallel."""

from __future__ import annotations

import click

from quran_asr.cli.output import echo, print_json
from quran_asr.errors import counted


@click.group(epilog="Example: quran-asr text show 2:255 --spelling letters")
def text() -> None:
    """Show and search the text of the Quran, in three spellings."""


@text.command(epilog="Example: quran-asr text show 112 --spelling letters")
@click.argument("reference", metavar="REF")
@click.option(
    "--spelling",
    default="diacritized",
    show_default=True,
    metavar="SPELLING",
    help="uthmani (as in the mushaf), diacritized (modern spelling with all vowels) or letters (without).",
)
@click.option("--basmala", is_flag=True, help="Also show the basmala before verse 1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(reference: str, spelling: str, basmala: bool, as_json: bool) -> int:
    """Show the verses REF.

    REF is 2:255, 2:255-257, 112 or Al-Ikhlas, 112-114 (surahs), 1:1-2:5, juz 30, or several of these with
    commas between them.

    Prints one line for each verse: its number, a tab, its words.
    """
    from quran_asr.text.passages import read_passage
    from quran_asr.text.quran import load_quran

    quran = load_quran(spelling)
    rows: list[dict[str, str]] = []
    for ref in read_passage(reference):
        if basmala and ref.ayah == 1 and quran.basmala(ref.surah):
            rows.append({"verse": f"{ref.surah}:basmala", "text": quran.basmala(ref.surah)})
        rows.append({"verse": str(ref), "text": quran.verse(ref)})
    if as_json:
        print_json({"spelling": spelling, **_source(quran.edition_name), "verses": rows})
        return 0
    for row in rows:
        echo(f"{row['verse']}\t{row['text']}")
    _print_source(quran.edition_name)
    return 0


@text.command(epilog="Example: quran-asr text find الحي القيوم")
@click.argument("words", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def find(words: tuple[str, ...], as_json: bool) -> int:
    """Find the verses that contain WORDS, as people type them.

    WORDS are Arabic words in any spelling, with or without vowels, hamzas and spaces, also over the border of
    two verses or with one typo; a transliteration (qul huwa allahu ahad); a reference (2:255, al-baqara 255);
    the name of a surah in Arabic or English; or that of a verse (ayatul kursi).

    The best match first, one a line, with tabs between: place, verse, kind of match, the words that match.
    The kinds are reference, surah, exact, spelling, prefix, transliteration, typo, and partial: only most of
    the words. Exits 1 if nothing is found.
    """
    from quran_asr.text.quran import load_quran
    from quran_asr.text.search import find as find_words

    quran = load_quran()
    matches = find_words(quran, " ".join(words))
    if as_json:
        rows = [
            {
                "verses": [str(ref) for ref in match.refs],
                "kind": match.kind,
                "text": match.text,
                "words": list(match.words),
            }
            for match in matches
        ]
        print_json({"query": " ".join(words), **_source(quran.edition_name), "matches": rows})
        return int(not matches)
    if not matches:
        echo("no verse contains these words, or most of them in this order", err=True)
        return 1
    if matches[0].kind == "partial":
        echo("no verse contains this phrase; the closest verses, and their matching words:", err=True)
    for match in matches:
        echo("\t".join([match.place, match.text, match.kind, " ".join(match.words)]).rstrip())
    echo(counted(len(matches), "match", "matches"), err=True)
    _print_source(quran.edition_name)
    return 0


@text.command(epilog="Example: quran-asr text words 2:21")
@click.argument("reference", metavar="REF")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def words(reference: str, as_json: bool) -> int:
    """Show each word of the verses REF in all spellings.

    REF is as in `text show`.

    Prints one line for each word of the mushaf, separated by tabs: verse and word (counted from 0),
    uthmani, diacritized, letters. The diacritized spelling writes some of them as two or three words.
    """
    from quran_asr.text.passages import read_passage, word_map

    rows = [
        {
            "verse": str(ref),
            "index": pair.index,
            "uthmani": pair.uthmani,
            "diacritized": pair.simple,
            "letters": pair.letters,
        }
        for ref in read_passage(reference)
        for pair in word_map(ref)
    ]
    if as_json:
        print_json({"sources": [_source("uthmani"), _source("simple")], "words": rows})
        return 0
    for row in rows:
        echo(f"{row['verse']}:{row['index']}\t{row['uthmani']}\t{row['diacritized']}\t{row['letters']}")
    _print_source("uthmani", "simple")
    return 0


def _source(edition: str) -> dict[str, str]:
    """What Tanzil's terms require wherever the text is shown: the source and a link to it."""
    from quran_asr.text.editions import LINK, TITLES

    return {"edition": edition, "source": TITLES[edition], "link": LINK}


def _print_source(*editions: str) -> None:
    for edition in editions:
        source = _source(edition)
        echo(f"Text: {source['source']}, {source['link']}", err=True)
