"""Shipped experiments: each synthesizes its corpus, or takes yours, and trains its variants.

They are small enough for a night, or an hour, of a CPU, and their results hold for that size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import load_recipe
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
}


def prepare(study: Study, folder: Path, overrides: Sequence[str], conditions: Conditions) -> list[Variant]:
    """Synthesize the corpus and pretrain, as far as that has not been done, and load the variants.

    Args:
        study: the experiment.
        folder: what is there already is used again.
        overrides: for all trainings, the pretraining too; they win over those of the study.
        conditions: how the pretraining is run.

    Raises:
        QuranAsrError: the pretraining failed, or an override is wrong, or of what the variants differ in.
    """
    asked_for = {parse_override(word).key for word in overrides}
    differing = {parse_override(word).key for _, *words in study.variants for word in words}
    for key in sorted(asked_for):
        if any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in differing):
            raise QuranAsrError(
                "is what the variants of this study differ in", where=key, remedy="leave it out"
            )
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
            raise QuranAsrError("the pretraining failed", where=str(trial.log))
        found = trial.run()
        run = "" if found is None else str(found.path.absolute())
    variants = [[word.replace(PRETRAINED, json.dumps(run)) for word in variant] for variant in study.variants]
    data = _data(manifests, study.train, study.validation) if study.parts else []
    made_variants = make_variants(variants, [*shared, *data])
    names = study.names or [" ".join(variant).replace(PRETRAINED, "PRETRAINED") for variant in study.variants]
    return [Variant(name, variant.recipe) for name, variant in zip(names, made_variants, strict=True)]


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
