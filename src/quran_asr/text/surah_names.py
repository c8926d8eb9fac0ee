"""The names of the surahs, and of some verses, in Arabic and in English, as people write them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from quran_asr.text.editions import load_edition
from quran_asr.text.spelling import lost_letters, spell

_ENGLISH = """
Al-Fatihah/The Opening
Al-Baqarah/The Cow
Ali 'Imran/The Family of Imran/Aal-e-Imran/Al Imran
An-Nisa/The Women
Al-Ma'idah/The Table Spread
Al-An'am/The Cattle
Al-A'raf/The Heights
Al-Anfal/The Spoils of War
At-Tawbah/The Repentance/Bara'ah/Tauba
Yunus/Jonah
Hud
Yusuf/Joseph
Ar-Ra'd/The Thunder
Ibrahim/Abraham
Al-Hijr/The Rocky Tract
An-Nahl/The Bee
Al-Isra/The Night Journey/Bani Isra'il
Al-Kahf/The Cave
Maryam/Mary
Ta-Ha
Al-Anbiya/The Prophets
Al-Hajj/The Pilgrimage
Al-Mu'minun/The Believers
An-Nur/The Light
Al-Furqan/The Criterion
Ash-Shu'ara/The Poets
An-Naml/The Ant/The Ants
Al-Qasas/The Stories
Al-'Ankabut/The Spider
Ar-Rum/The Romans
Luqman
As-Sajdah/The Prostration
Al-Ahzab/The Combined Forces/The Confederates
Saba/Sheba
Fatir/The Originator
Ya-Sin
As-Saffat/Those Who Set the Ranks
Sad
Az-Zumar/The Troops/The Groups
Ghafir/The Forgiver/Al-Mu'min
Fussilat/Explained in Detail/Ha-Mim Sajdah
Ash-Shura/The Consultation
Az-Zukhruf/The Ornaments of Gold
Ad-Dukhan/The Smoke
Al-Jathiyah/The Crouching
Al-Ahqaf/The Wind-Curved Sandhills/The Dunes
Muhammad
Al-Fath/The Victory
Al-Hujurat/The Rooms/The Chambers
Qaf
Adh-Dhariyat/The Winnowing Winds
At-Tur/The Mount
An-Najm/The Star
Al-Qamar/The Moon
Ar-Rahman/The Beneficent/The Most Merciful
Al-Waqi'ah/The Inevitable/The Event
Al-Hadid/The Iron
Al-Mujadilah/The Pleading Woman
Al-Hashr/The Exile/The Gathering
Al-Mumtahanah/She That Is to Be Examined
As-Saff/The Ranks
Al-Jumu'ah/Friday/The Congregation
Al-Munafiqun/The Hypocrites
At-Taghabun/The Mutual Disillusion
At-Talaq/The Divorce
At-Tahrim/The Prohibition
Al-Mulk/The Sovereignty/The Dominion/Tabarak
Al-Qalam/The Pen
Al-Haqqah/The Reality
Al-Ma'arij/The Ascending Stairways
Nuh/Noah
Al-Jinn/The Jinn
Al-Muzzammil/The Enshrouded One
Al-Muddaththir/The Cloaked One
Al-Qiyamah/The Resurrection
Al-Insan/The Man/Ad-Dahr
Al-Mursalat/The Emissaries
An-Naba/The Tidings/The Great News
An-Nazi'at/Those Who Drag Forth
'Abasa/He Frowned
At-Takwir/The Overthrowing
Al-Infitar/The Cleaving
Al-Mutaffifin/The Defrauding
Al-Inshiqaq/The Splitting Open
Al-Buruj/The Mansions of the Stars/The Constellations
At-Tariq/The Nightcomer/The Morning Star
Al-A'la/The Most High
Al-Ghashiyah/The Overwhelming
Al-Fajr/The Dawn
Al-Balad/The City
Ash-Shams/The Sun
Al-Layl/The Night
Ad-Duha/The Morning Hours
Ash-Sharh/The Relief/Al-Inshirah
At-Tin/The Fig
Al-'Alaq/The Clot
Al-Qadr/The Power
Al-Bayyinah/The Clear Proof
Az-Zalzalah/The Earthquake/Az-Zilzal
Al-'Adiyat/The Courser/The Chargers
Al-Qari'ah/The Calamity
At-Takathur/The Rivalry in World Increase
Al-'Asr/The Declining Day/The Time
Al-Humazah/The Traducer
Al-Fil/The Elephant
Quraysh
Al-Ma'un/The Small Kindnesses
Al-Kawthar/The Abundance
Al-Kafirun/The Disbelievers
An-Nasr/The Divine Support/The Help
Al-Masad/The Palm Fiber/Al-Lahab
Al-Ikhlas/The Sincerity
Al-Falaq/The Daybreak
An-Nas/Mankind/The People
""".strip().splitlines()
"""One line for each surah: its name in Latin letters, then its meaning and other names."""

_OTHER_ARABIC = {
    3: "العمران",
    9: "براءة",
    17: "بني إسرائيل",
    20: "طاها",
    36: "ياسين",
    38: "صاد",
    40: "المؤمن",
    41: "حم السجدة",
    50: "قاف",
    55: "الرحمان",
    67: "تبارك",
    68: "ن/نون",
    76: "الدهر",
    94: "الانشراح",
    99: "الزلزال",
    111: "اللهب",
}

_VERSES = {
    "2:255": "آية الكرسي/Ayat Kursi/Throne Verse/Verse of the Throne",
    "2:282": "آية الدين/آية المداينة/Ayat Dayn/Verse of Debt",
    "2:285-286": "خواتيم البقرة/خواتيم سورة البقرة/آخر آيتين من سورة البقرة/Khawatim Baqarah/"
    "Khawatim Surat Baqarah/Last two verses of Baqarah",
    "24:35": "آية النور/Ayat Nur/Light Verse/Verse of Light",
}
"""Reference -> names, without the article where it is Latin."""

_WORD_SURAH = re.compile(r"^(?:s[uo]+ra[ht]?(?:[ -]?u[lnrstdz][ -])?|سور[ةه])[\s-]*", re.IGNORECASE)
"""Also where no space follows: a name that nobody has is found nowhere."""


def surah_name(surah: int) -> str:
    """The name of a surah in Arabic and in Latin letters: `سورة البقرة (Al-Baqarah)`."""
    arabic = load_edition("simple").chapter_names[surah - 1]
    return f"سورة {arabic} ({_ENGLISH[surah - 1].split('/')[0]})"


def find_surah(name: str) -> int | None:
    """The number of a surah by its name, in Arabic or in English, with or without the article.

    In Arabic without hamzas, with heh for teh marbuta, yeh or alef for alef maksura, and without the alefs
    that the mushaf writes small. In Latin letters vowels may be written in any way (`Yaseen`, `Ya-Sin`),
    doubled letters once, the teh marbuta with or without h. None if no surah has that name.
    """
    exact, loose = _names()
    if letters := spell(name, "letters"):
        key = _arabic_key(_WORD_SURAH.sub("", letters))
        return exact.get(key) or loose.get(key)
    bare = _WORD_SURAH.sub("", name.strip())
    joined_article = re.sub(r"^[aeu](?:l|([nrstzd])(?=\1)|sh(?=sh))", "", bare.casefold())
    return (
        exact.get(_latin_letters(bare))
        or loose.get(_latin_key(bare))
        or loose.get(_latin_key(joined_article))
    )


def find_named_verses(name: str) -> str | None:
    """The reference of verses with a name of their own, such as the Throne Verse; None: no verse has it."""
    if re.search(r"\d", name) or (spell(name, "letters") and lost_letters(name)):
        return None
    return _verse_names().get(_verse_key(name))


@lru_cache(maxsize=1)
def _verse_names() -> dict[str, str]:
    return {_verse_key(name): reference for reference, names in _VERSES.items() for name in names.split("/")}


def _verse_key(name: str) -> str:
    if spell(name, "letters"):
        return _arabic_key(name)
    joined = re.sub("^ayat[aiu][lndrstz]h?[ -]", "ayat ", name.strip().casefold())
    return _latin_key(re.sub("(?:^|[ -])(?:the|of|[aeu](?:[lndrtz]|sh?))(?=[ -])", " ", joined))


@lru_cache(maxsize=1)
def _names() -> tuple[dict[str, int], dict[str, int]]:
    """The surah of each key that keeps the letters of a name, and of each that stands for several spellings.

    The first is looked up first: النساء and الناس, `the moon` and `the mount` differ little.
    """
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    arabic = load_edition("simple").chapter_names
    for surah, written in enumerate(_ENGLISH, start=1):
        for name in written.split("/"):
            exact[_latin_letters(name)] = surah
            if not name.startswith("The "):  # a meaning has one spelling: an is not `the ant`
                loose.setdefault(_latin_key(name), surah)
        other = _OTHER_ARABIC.get(surah)
        for name in [arabic[surah - 1], *(other.split("/") if other else ())]:
            for final in (name, re.sub("ى$", "ا", name)):
                exact[_arabic_key(final)] = surah
                for key in _with_fewer_alefs(_arabic_key(final)):
                    loose.setdefault(key, surah)
    return exact, loose


def _arabic_key(name: str) -> str:
    """The letters of a name without spaces, hamzas and the article."""
    bare = re.sub("^ال(?! )", "", spell(name, "letters"))
    return bare.translate(str.maketrans("أإآؤئةى", "اااويهي", "ء "))


def _with_fewer_alefs(key: str) -> Iterator[str]:
    """A key without some or all of the alefs inside it, as in the mushaf; those at its ends are never left
    out: نساء is not ناس, أنعام not نعم."""
    inside = range(1, len(key) - 1)
    choices = [("ا", "") if at in inside and key[at] == "ا" else (key[at],) for at in range(len(key))]
    return map("".join, product(*choices))


def _latin_letters(name: str) -> str:
    """The letters a to z of a name, without the article."""
    decomposed = unicodedata.normalize("NFKD", re.sub("[’‘'`ʿʾ]", "", name.casefold()))
    words = re.sub("[^a-z]+", " ", re.sub("[\u0300-\u036f]", "", decomposed)).split()
    if len(words) > 1 and re.fullmatch("the|[aeu](?:[lnrstzd]|sh|dh|th)", words[0]):
        words = words[1:]
    return "".join(words)


def _latin_key(name: str) -> str:
    """A key that is the same for all Latin spellings of a name."""
    latin = _latin_letters(name)
    for written, same in _SAME_PRONUNCIATION:
        latin = re.sub(written, same, latin)
    return latin


_SAME_PRONUNCIATION = (
    ("ee|iy+", "i"),
    ("oo|ou|uu", "u"),
    ("au", "aw"),
    ("[ae][iy]", "ay"),
    ("o", "u"),
    ("e", "i"),
    ("q", "k"),
    ("th|dh|z", "s"),
    (r"([a-z])\1+", r"\1"),
    ("[ht]$", ""),
)
