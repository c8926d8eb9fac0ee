"""Shipped experiments: each synthesizes its corpus, or takes yours or subsets of it, and trains its variants.

They are small enough for a night, or an hour, of a CPU, and their results hold for that size.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.corpus.manifest import read_lines, write_manifest
from quran_asr.corpus.synthesis import synthesize_corpus
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.comparison.trials import Conditions, Trial, run_trials
from quran_asr.experiments.comparison.variants import Variant, make_variants
from quran_asr.records import VerseRef
from quran_asr.text.quran import load_quran

PRETRAINED = "{pretrained}"
"""Stands in an override for the run of the pretraining."""


@dataclass(frozen=True, slots=True)
class Part:
    """A corpus to be synthesized."""

    voices: tuple[str, ...]
    seed: int
    fragments: int = 0
    """Of each verse, at most."""


@dataclass(frozen=True, slots=True)
class Pretraining:
    """A training whose model the variants may start from."""

    words: tuple[str, ...]
    """The recipe and its overrides."""
    train: str
    """Names of parts."""
    validation: str


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment as data."""

    variants: tuple[tuple[str, ...], ...]
    """Each a recipe and its overrides."""
    shared: tuple[str, ...]
    """Overrides of all trainings."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Empty: the manifests are those that are given."""
    train: str = ""
    """Names of parts."""
    validation: str = ""
    names: tuple[str, ...] = ()
    """Of the variants; empty: their words."""
    seeds: int = 3
    pretraining: Pretraining | None = None
    verses: tuple[VerseRef, ...] = ()
    """Empty: surahs 1 and 103 to 114."""
    voices: tuple[int, ...] = ()
    """The one variant is trained on subsets of what is given, with so many reciters and with all."""


_HELD_OUT = Part(("ar+f3", "ar+Alex"), seed=2)
_EVERYBODY = (
    *("ar", "ar+m1", "ar+m2", "ar+m3", "ar+m5", "ar+m8", "ar+f1", "ar+f2", "ar+f4", "ar+f5"),
    *("ar+Andy", "ar+Annie", "ar+Michael"),
)
_CHANNEL = (
    "quran.augment.speed=[0.9,1.0,1.1]",
    "quran.augment.gain_db=10",
    "quran.augment.lowpass_probability=0.5",
    "quran.augment.equalizer_db=6",
)
_ROOM = ("noise", "room", "codec")
_NOTHING = ("quran.augment.gain_db=0", "quran.augment.lowpass_probability=0")

STUDIES: Mapping[str, Study] = {
    # Does a start from other voices and other tokens help? The start alone differs.
    "pretraining": Study(
        parts={
            "old": Part(("ar", "ar+m1", "ar+m2", "ar+m3", "ar+m5", "ar+m8", "ar+Andy"), 0, fragments=1),
            "old-validation": Part(("ar+m7",), 0),
            "new": Part(("ar+f1", "ar+f2", "ar+f4", "ar+f5", "ar+Annie", "ar+Michael"), 1, fragments=1),
            "held-out": _HELD_OUT,
        },
        pretraining=Pretraining(
            ("quickstart", "quran.spelling=diacritized", "trainer.val_check_interval=400"),
            "old",
            "old-validation",
        ),
        variants=(("quickstart",), ("quickstart", f"init_from_pretrained_model={PRETRAINED}")),
        train="new",
        validation="held-out",
        shared=("quran.overfit_gate_steps=0", "trainer.max_steps=2000"),
    ),
    # Is a random start hopeless, or only badly initialised? With short clips first, and without.
    "initialization": Study(
        parts={"all": Part(_EVERYBODY, 0, fragments=1), "held-out": _HELD_OUT},
        variants=(
            ("quickstart", "quran.initialization=nemo"),
            ("quickstart",),
            ("quickstart", "quran.curriculum=null", "quran.initialization=nemo"),
            ("quickstart", "quran.curriculum=null"),
        ),
        train="all",
        validation="held-out",
        shared=("quran.overfit_gate_steps=0", "trainer.max_steps=2000"),
    ),
    # What carries a model to reciters it never saw? Train on some, validate on others.
    "augmentation": Study(
        names=("none", "channel", "channel-and-room", "windows"),
        variants=(
            ("laptop", "quran.augment=null"),
            ("laptop", *_CHANNEL),
            ("laptop", *_CHANNEL, *(f"quran.augment.{kind}_probability=0.3" for kind in _ROOM)),
            ("laptop", *_NOTHING, "quran.augment.windows=3"),
        ),
        shared=(
            "trainer.max_steps=4000",
            "trainer.val_check_interval=400",
            "quran.curriculum.growth_steps=1000",
        ),
        seeds=2,
    ),
    # What do more voices bring where the hours stay the same? The training clips alone differ.
    "voices": Study(
        variants=(("laptop",),),
        shared=(
            "model.optim.name=muon",
            "model.optim.lr=1.2e-3",
            "model.optim.sched.warmup_steps=100",
            "model.encoder.att_context_probs=[1,0,0,0]",
            "trainer.max_steps=4000",
            "trainer.val_check_interval=400",
            "quran.curriculum.growth_steps=1000",
        ),
        seeds=2,
        voices=(2, 4, 8, 16),
    ),
}


def prepare(study: Study, folder: Path, overrides: Sequence[str], conditions: Conditions) -> list[Variant]:
    """Synthesize the corpus and pretrain, as far as that has not been done, and load the variants.

    Of given recordings the subsets are drawn, always the same.

    Args:
        study: the experiment.
        folder: what is there already is used again.
        overrides: for all trainings, the pretraining too; they win over those of the study.
        conditions: how the pretraining is run.

    Raises:
        QuranAsrError: the pretraining failed, an override is wrong or of what the variants differ in, or the
            given clips have too few reciters.
    """
    asked_for = {parse_override(word).key for word in overrides}
    differing = {parse_override(word).key for _, *words in study.variants for word in words}
    for key in sorted(asked_for):
        if any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in differing):
            raise QuranAsrError(
                "is what the variants of this study differ in", where=key, remedy="leave it out"
            )
    if study.voices:
        return _with_voices(study, folder / "corpus", overrides)
    manifests = {name: _synthesize(study, name, folder / "corpus" / name, conditions) for name in study.parts}
    shared = [*study.shared, *overrides]
    run = ""
    if study.pretraining is not None:
        asked = study.pretraining
        recipe, *own = asked.words
        data = _data(manifests, asked.train, asked.validation)
        variant = Variant("pretraining", load_recipe(recipe, [*own, *shared, *data]))
        trial = Trial(folder / "pretraining", variant, variant.recipe.quran.seed)
        if run_trials(folder, [trial], conditions):
            raise QuranAsrError(
                "the pretraining failed",
                where=str(trial.log),
                remedy="fix the error in this log, and give the same command again",
            )
        found = trial.run()
        run = "" if found is None else str(found.path.absolute())
    variants = [[word.replace(PRETRAINED, json.dumps(run)) for word in variant] for variant in study.variants]
    data = _data(manifests, study.train, study.validation) if study.parts else []
    made_variants = make_variants(variants, [*shared, *data])
    names = study.names or [" ".join(variant).replace(PRETRAINED, "PRETRAINED") for variant in study.variants]
    return [Variant(name, variant.recipe) for name, variant in zip(names, made_variants, strict=True)]


def _with_voices(study: Study, folder: Path, overrides: Sequence[str]) -> list[Variant]:
    """One variant for each number of voices."""
    ((recipe, *own),) = study.variants
    shared = [*own, *study.shared, *overrides]
    names, words = [], []
    for count, clips in _subsets(study.voices, load_recipe(recipe, shared)).items():
        manifest = folder / f"{count}-voices.jsonl"
        write_manifest(manifest, clips, {"made_by": "compare recipes --study voices", "voices": count})
        names.append(f"{count} voices")
        words.append((recipe, f"model.train_ds.manifest_filepath={json.dumps([str(manifest)])}"))
    # Other data on purpose; all else is of one recipe.
    made_variants = make_variants(words, shared, anyway=True)
    return [Variant(name, variant.recipe) for name, variant in zip(names, made_variants, strict=True)]


def _subsets(counts: Sequence[int], recipe: Recipe) -> dict[int, list[dict[str, Any]]]:
    """Subsets of the recipe's training clips with equal seconds in all, by number of reciters.

    Each reciter gives an equal share. Those of a subset are drawn from all with enough clips, and are in the
    larger subsets too. Of a reciter the verses that the subset has least are drawn first: all subsets have
    nearly the same verses. The seconds are the most that four reciters could give in twos; a number of
    reciters who have too little for it is left out.

    Raises:
        QuranAsrError: a manifest cannot be read, a clip names no reciter, or they are fewer than four.
    """
    data = recipe.model.train_ds
    by_reciter: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for manifest in data.manifests:
        for line in read_lines(manifest):
            if not line.get("reciter"):
                raise QuranAsrError("a clip names no reciter", where=manifest, remedy="give each a `reciter`")
            if data.min_duration <= line["duration"] <= data.max_duration:
                by_reciter[line["reciter"]].append(line)
    seconds = {name: sum(clip["duration"] for clip in clips) for name, clips in by_reciter.items()}
    most = sorted(seconds.values(), reverse=True)
    if len(most) < 4:
        raise QuranAsrError(
            f"the training clips have {len(most)} reciters", where="--train", remedy="four or more are needed"
        )
    total = 2 * most[3]  # two are drawn from four at least
    possible = [count for count, least in enumerate(most, start=1) if count * least >= total]
    order = sorted(seconds)
    random.Random(0).shuffle(order)
    chosen: list[str] = []
    subsets = {}
    for count in sorted({*counts, possible[-1]} & set(possible)):
        share = total / count
        enough = [name for name in order if seconds[name] >= share and name not in chosen]
        chosen += enough[: count - len(chosen)]
        subsets[count] = _drawn({name: by_reciter[name] for name in chosen}, share)
    return subsets


def _drawn(by_reciter: Mapping[str, Sequence[dict[str, Any]]], share: float) -> list[dict[str, Any]]:
    """Of each reciter clips of `share` seconds in all, the verses first that have been drawn least."""
    drawn: list[dict[str, Any]] = []
    times: Counter[str] = Counter()
    for name, clips in by_reciter.items():
        shuffled = random.Random(name).sample(clips, len(clips))
        left = share
        for clip in sorted(shuffled, key=lambda clip: times[_content(clip)]):
            if clip["duration"] <= left:
                drawn.append(clip)
                left -= clip["duration"]
                times[_content(clip)] += 1
    return drawn


def _content(clip: Mapping[str, Any]) -> str:
    return " ".join(clip.get("verses") or [clip["text"]])


def _synthesize(study: Study, name: str, folder: Path, conditions: Conditions) -> Path:
    part, manifest = study.parts[name], folder / "manifest.jsonl"
    if manifest.is_file():
        return manifest.absolute()
    verses = study.verses or tuple(
        ref for ref in load_quran("letters").refs if ref.surah == 1 or ref.surah >= 103
    )
    with conditions.progress(f"synthesizing ({name})", "clips") as show:
        made = synthesize_corpus(
            verses,
            part.voices,
            folder,
            part.seed,
            fragments_per_verse=part.fragments,
            on_progress=show,
        )
    return made.absolute()


def _data(manifests: Mapping[str, Path], train: str, validation: str) -> list[str]:
    return [
        f"model.{key}.manifest_filepath={json.dumps([str(manifests[name])])}"
        for key, name in (("train_ds", train), ("validation_ds", validation))
    ]
