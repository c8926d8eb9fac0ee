"""`quran-asr text`: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from quran_asr.cli.main import main
from quran_asr.text.spelling import spell


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["text", *args])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_show_prints_one_verse_a_line_and_the_source_aside(capsys):
    code, out, err = run(capsys, "show", "112:1-2", "--spelling", "letters")
    assert code == 0
    assert out == "112:1\tقل هو الله أحد\n112:2\tالله الصمد\n"
    assert err == "Text: Tanzil Quran Text (Simple, Version 1.1), https://tanzil.net\n"


def test_show_uthmani_names_its_own_edition(capsys):
    code, out, err = run(capsys, "show", "1:4", "--spelling", "uthmani")
    assert (code, out) == (0, "1:4\tمَـٰلِكِ يَوْمِ ٱلدِّينِ\n")
    assert "Uthmani" in err


def test_the_basmala_is_shown_on_request(capsys):
    plain = run(capsys, "show", "112", "--spelling", "letters")[1]
    asked = run(capsys, "show", "112", "--spelling", "letters", "--basmala")[1]
    assert len(plain.splitlines()) == 4
    assert asked == "112:basmala\tبسم الله الرحمن الرحيم\n" + plain
    assert "basmala" not in run(capsys, "show", "9:1", "--basmala")[1]
    assert "basmala" not in run(capsys, "show", "112:2", "--basmala")[1]


def test_verses_are_shown_as_people_name_them(capsys):
    code, out, _ = run(capsys, "show", "Al-Falaq - 114:1", "--spelling", "letters")
    assert code == 0 and [line.split("\t")[0] for line in out.splitlines()] == [
        *(f"113:{ayah}" for ayah in range(1, 6)),
        "114:1",
    ]
    code, out, _ = run(capsys, "words", "ikhlas, 110")
    assert code == 0 and out.startswith("112:1:0\t") and "\n110:3:" in out


def test_show_as_json(capsys):
    code, out, err = run(capsys, "show", "112:1", "--json", "--spelling", "letters")
    shown = json.loads(out)
    assert code == 0 and err == ""
    assert shown["verses"] == [{"verse": "112:1", "text": "قل هو الله أحد"}]
    assert (shown["spelling"], shown["edition"], shown["link"]) == ("letters", "simple", "https://tanzil.net")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "2:287"), "surah 2 has 286 verses"),
        (("show", "115"), "surahs are numbered 1 to 114"),
        (("show", "husary"), "names no verses"),
        (("show", "2:255,112"), "may be a surah or a verse"),
        (("show", "1:1", "--spelling", "plain"), "no spelling `plain`"),
        (("words", "2:9-3"), "ends before it begins"),
        (("find", "?!"), "no word to look for"),
        (("find", "2:300"), "surah 2 has 286 verses"),
        (("find", "al-baqara 300"), "surah 2 has 286 verses"),
    ],
)
def test_wrong_use_is_reported_in_one_line_and_exits_2(capsys, args, message):
    code, out, err = run(capsys, *args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and "Traceback" not in err
    assert len(err.splitlines()) <= 2


def test_find_exact(capsys):
    code, out, err = run(capsys, "find", "الحي", "القيوم")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == ["2:255", "3:2"]
    assert all(row[2:] == ["exact", spell("الْحَيُّ الْقَيُّومُ", "diacritized")] for row in rows)
    assert "2 matches" in err and "tanzil.net" in err


def test_find_near_reports_it_and_shows_the_words(capsys):
    code, out, err = run(capsys, "find", "الله نور السماوات وما في الأرض كمشكاة فيها مصباح")
    place, verse, kind, words = out.splitlines()[0].split("\t")
    assert code == 0 and (place, kind) == ("24:35", "partial")
    assert spell(words, "letters").startswith("الله نور السماوات") and set(words.split()) < set(verse.split())
    assert "closest" in err


def test_find_a_surah_and_a_place_over_a_border(capsys):
    code, out, _ = run(capsys, "find", "Ya-Sin")
    assert code == 0 and out.splitlines()[0] == "36:1-83\tسورة يس (Ya-Sin)\tsurah"
    code, out, _ = run(capsys, "find", "احد الله الصمد")
    place, verses, kind, words = out.rstrip("\n").split("\t")
    assert code == 0 and (place, kind) == ("112:1-2", "spelling")
    assert spell(verses, "letters") == "قل هو الله أحد الله الصمد"
    assert spell(words, "letters") == "أحد الله الصمد"


def test_find_nothing_exits_1(capsys):
    code, out, err = run(capsys, "find", "خزعبلات")
    assert code == 1 and out == "" and "no verse" in err
    code, out, _ = run(capsys, "find", "خزعبلات", "--json")
    assert code == 1 and json.loads(out)["matches"] == []


def test_find_as_json(capsys):
    code, out, _ = run(capsys, "find", "الله الصمد", "--json")
    found = json.loads(out)
    verse = spell("اللَّهُ الصَّمَدُ", "diacritized")
    assert code == 0 and found["query"] == "الله الصمد"
    assert found["matches"] == [{"verses": ["112:2"], "kind": "exact", "text": verse, "words": verse.split()}]


def test_words_of_both_editions(capsys):
    code, out, err = run(capsys, "words", "2:21")
    assert code == 0
    assert out.splitlines()[0] == "2:21:0\tيَـٰٓأَيُّهَا\tيَا أَيُّهَا\tيا أيها"
    assert "Uthmani" in err and "Simple" in err
    rows = json.loads(run(capsys, "words", "2:21", "--json")[1])["words"]
    assert rows[0] == {
        "verse": "2:21",
        "index": 0,
        "uthmani": "يَـٰٓأَيُّهَا",
        "diacritized": "يَا أَيُّهَا",
        "letters": "يا أيها",
    }
    assert len(rows) == len(out.splitlines())


@pytest.mark.parametrize("command", ["show", "find", "words"])
def test_the_example_of_each_help_text_runs(capsys, command):
    help_text = run(capsys, command, "--help")[1]
    example = help_text[help_text.index("Example: quran-asr text ") :].split()[3:]
    assert example[0] == command
    assert run(capsys, *example)[0] == 0


@pytest.mark.alone
def test_it_answers_at_once_without_numpy():
    code = (
        "import sys\nfrom quran_asr.cli.main import main\n"
        "try:\n    main(['text', 'show', '2:255'])\n"
        "finally:\n    heavy = {'numpy', 'torch', 'omegaconf', 'rich'}\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    def seconds() -> float:
        """Processor time, not the clock's: other work on the machine must not count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]"
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < 0.5 for _ in range(3))  # the first may have to compile
