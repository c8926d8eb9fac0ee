"""The page of one or several trainings: results, diagnostics, curves, worst clips, settings."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quran_asr.config.architecture import count_parameters
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curves import Curves, Series
from quran_asr.experiments.diagnostics.diagnosis import Diagnosis
from quran_asr.experiments.diagnostics.rules import diagnose
from quran_asr.experiments.plots.axes import axes_of, line
from quran_asr.experiments.plots.figures import Mark, Picture, draw, stack
from quran_asr.experiments.plots.html_page import Example, Part, Table, image, page
from quran_asr.experiments.plots.worst_clips import LEGEND, SHOWN, Players, Recordings, worst_clips
from quran_asr.experiments.run_folder import RunFolder
from quran_asr.files import write_atomically


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The files of a report."""

    pictures: tuple[Path, ...]
    """`curves.png`, which is all of them, and each by itself."""
    page: Path


def render_report(
    curves: Sequence[Curves],
    out: Path,
    *,
    sections: Sequence[Table | Example] = (),
    transcripts: Sequence[Path] | None = None,
    audio: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReportFiles:
    """Write PNG files and `report.html`, a page that needs nothing beside it.

    Args:
        curves: of one training, or of several to lay over each other.
        out: the folder for the files; made if missing.
        sections: what stands first on the page, for example an evaluation.
        transcripts: `transcripts.jsonl` files whose worst clips are shown; None takes those that the runs'
            own validations left.
        audio: embed the recordings of these clips, where they are at hand and in the runs or their manifests.
        on_progress: called with (pictures drawn, all pictures).

    Raises:
        QuranAsrError: a training has no numbers, none of them is drawn, a file of transcripts cannot be
            read, or matplotlib is not installed.
    """
    for training in curves:
        if not any(p.value is not None for s in _all_series(training) for p in s):
            raise QuranAsrError(
                "has no metrics yet",
                where=training.source,
                remedy="they come with the first steps of a training",
            )
    labels = names(curves)
    diagnostics = [diagnose(training) for training in curves]
    marks = _marks(diagnostics)
    clips = _worst(curves, labels, transcripts, audio)  # a file that is wrong is named before time is spent
    pictures = draw(curves, labels, marks, on_progress)
    if not pictures:
        raise QuranAsrError(
            "has none of the series that are drawn",
            where=", ".join(training.source for training in curves),
            remedy="plot draws losses, WER, rates, gradient norms, step times: docs/reference/formats.md",
        )
    parts = [
        *sections,
        _results(curves, labels),
        _diagnostics(curves, diagnostics, labels, marks),
        _curves(pictures),
        clips,
        *_settings(curves, labels),
    ]
    paths = [out / "curves.png", *(out / f"{picture.name}.png" for picture in pictures)]
    for path, content in zip(paths, (stack(pictures), *(p.wide for p in pictures)), strict=True):
        write_atomically(path, content)
    write_atomically(out / "report.html", page(", ".join(labels), parts))
    return ReportFiles(tuple(paths), out / "report.html")


def names(curves: Sequence[Curves]) -> list[str]:
    """What each training is called: as short as keeps them apart."""
    labels = [training.name for training in curves]
    if len(curves) > 1 and len({label.split("/")[0] for label in labels}) == 1:
        labels = [label.split("/")[-1] for label in labels]  # the name that they share distinguishes nothing
    if len(set(labels)) < len(labels):
        labels = [f"{number}. {label}" for number, label in enumerate(labels, start=1)]
    return labels


# Parts of the page


def _results(curves: Sequence[Curves], labels: Sequence[str]) -> Table:
    """The best and the last word error rate of each training and decoder."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    several = len(curves) > 1
    for training, label, axis in zip(curves, labels, axes_of(curves), strict=True):
        whose = (label,) if several else ()
        for key, decoder in (("wer", "transducer"), ("ctc_wer", "CTC")):
            numbers = line(training.validation.get(key, ()), axis, most=10**9).numbers
            if numbers:
                place, best = min(numbers, key=lambda number: number[1])
                where = f"epoch\N{NO-BREAK SPACE}{place:.1f}"
                if axis.unit != "epoch":
                    where = f"step\N{NO-BREAK SPACE}{place:,.0f}"
                rows.append((*whose, decoder, f"{best:.4f}", where, f"{numbers[-1][1]:.4f}"))
        seconds = max((s[-1].time or 0.0 for s in _all_series(training) if s), default=0.0)
        took = f" in {_duration(seconds)}" if seconds else ""
        unit = "epochs" if training.in_epochs else "optimizer steps"
        notes.append(f"{label + ': ' if several else ''}{training.steps:,} {unit}{took}.")
    notes.append("Word error rates of validations during training." if rows else "No validation so far.")
    header = ("training", "decoder") if several else ("decoder",)
    return Table("Results", (*header, "best", "at", "last") if rows else (), tuple(rows), " ".join(notes))


def _marks(diagnostics: Sequence[Sequence[Diagnosis]]) -> list[Mark]:
    """The errors and warnings of all trainings, numbered in the order of the page."""
    bad = [
        (run, diagnosis)
        for run, found in enumerate(diagnostics)
        for diagnosis in found
        if diagnosis.severity in ("error", "warning") and diagnosis.step is not None
    ]
    return [Mark(number, run, diagnosis) for number, (run, diagnosis) in enumerate(bad, start=1)]


def _diagnostics(
    curves: Sequence[Curves],
    diagnostics: Sequence[Sequence[Diagnosis]],
    labels: Sequence[str],
    marks: Sequence[Mark],
) -> Part:
    number_of = {(mark.run, mark.diagnosis): f"{mark.number}. " for mark in marks}
    body = ['<p class="note">The numbers mark places on the curves.</p>'] if marks else []
    for run, found in enumerate(diagnostics):
        if len(labels) > 1:
            body.append(f"<h3><bdi>{html.escape(labels[run])}</bdi></h3>")
        cards = [
            _card(curves[run], diagnosis, number_of.get((run, diagnosis), ""))
            for diagnosis in found
            if diagnosis.severity != "good"
        ]
        good = [f"<li>{_text(diagnosis.message)}</li>" for diagnosis in found if diagnosis.severity == "good"]
        body += [f'<ul class="diagnostics">{"".join(cards)}</ul>'] if cards else []
        body += [f'<p class="good"><strong>Good</strong></p><ul>{"".join(good)}</ul>'] if good else []
        body += [] if found else ['<p class="note">No diagnosis.</p>']
    return Part("Diagnostics", "\n".join(body))


def _card(curves: Curves, diagnosis: Diagnosis, number: str) -> str:
    place = "" if diagnosis.step is None else f" at {curves.place(diagnosis.step)}"
    head = f"<strong>{number}{diagnosis.severity.capitalize()}</strong> <code>{diagnosis.code}</code>{place}"
    lines = [head, _text(diagnosis.message)]
    lines += [f"Cause: {_text(diagnosis.cause)}"] if diagnosis.cause else []
    lines += [f"What to do: {_text(diagnosis.remedy)}"] if diagnosis.remedy else []
    return f'<li class="{diagnosis.severity}">{"".join(f"<p>{line}</p>" for line in lines)}</li>'


def _curves(pictures: Sequence[Picture]) -> Part:
    figures = (
        f"<figure><figcaption>{html.escape(picture.title)}</figcaption>"
        f"{image(picture.wide, picture.narrow, picture.description)}</figure>"
        for picture in pictures
    )
    return Part("Curves", "\n".join(figures))


def _worst(
    curves: Sequence[Curves], labels: Sequence[str], transcripts: Sequence[Path] | None, wanted: bool
) -> Part:
    """The worst clips of the named files, or of the best validation of each run."""
    if transcripts is None:
        kept = [
            (label, RunFolder(Path(c.source)).transcripts) for label, c in zip(labels, curves, strict=True)
        ]
        places = [(f"{label}, its best validation", path) for label, path in kept if path.is_file()]
    else:
        places = [("/".join(path.parts[-2:]), path) for path in transcripts]
    if not places:
        missing = (
            "<p>No transcripts were found. A run of quran-asr leaves those of its best validation; others "
            "come from <code>quran-asr evaluate MANIFEST --model MODEL</code>, and "
            "<code>quran-asr plot --transcripts FILE</code> shows them.</p>"
        )
        return Part("Worst clips", missing)
    runs = [path if path.is_dir() else path.parent for path in (Path(c.source) for c in curves)]
    data = [c.recipe.model for c in curves if c.recipe is not None]
    manifests = [
        Path(name) for model in data for name in (*model.train_ds.manifests, *model.validation_ds.manifests)
    ]
    players = Players(Recordings(runs, manifests), wanted)
    number = max(3, SHOWN // len(places))
    body = [LEGEND] if wanted else [LEGEND, '<p class="note">The recordings are left out, as asked.</p>']
    for title, path in places:
        body.append(f"<h3><bdi>{html.escape(title)}</bdi></h3>")
        body.append(worst_clips(path, number, players))
    return Part("Worst clips", "\n".join(body))


def _settings(curves: Sequence[Curves], labels: Sequence[str]) -> list[Table]:
    """What was set, a column for each of our runs."""
    ours = [(label, c.recipe) for label, c in zip(labels, curves, strict=True) if c.recipe is not None]
    notes = ["All of them: recipe.yaml in the run folder."] if ours else []
    for label, training in zip(labels, curves, strict=True):
        if training.recipe is None and RunFolder(Path(training.source)).recipe.is_file():
            notes.append(f"The recipe of {label} cannot be read by this version.")
    if not notes:
        return []
    columns = [_of_recipe(recipe) for _, recipe in ours]
    header = ("", *(label for label, _ in ours)) if len(ours) > 1 else ()
    rows = tuple((name, *(column[name] for column in columns)) for name in next(iter(columns), {}))
    return [Table("Settings", header, rows, " ".join(notes))]


def _of_recipe(recipe: Recipe) -> dict[str, str]:
    encoder, optim, trainer = recipe.model.encoder, recipe.model.optim, recipe.trainer
    parameters = count_parameters(recipe.model, recipe.quran.vocabulary_size)
    return {
        "start": recipe.init_from_pretrained_model or "random weights",
        "parameters": f"{parameters / 1e6:,.2f} million",
        "encoder": f"{encoder.n_layers} layers of {encoder.d_model}",
        "spelling, vocabulary": f"{recipe.quran.spelling}, {recipe.quran.vocabulary_size:,} tokens",
        "effective batch": f"{recipe.effective_batch} clips at most",
        "learning rate": f"{optim.lr:g}, {optim.sched.name}, warm-up {optim.sched.warmup_steps:,} steps",
        "CTC weight": f"{recipe.model.aux_ctc.ctc_loss_weight:g}",
        "precision": str(trainer.precision),
        "seed": str(recipe.quran.seed),
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _text(sentence: str) -> str:
    """A sentence as HTML; what stands between backticks is code."""
    parts = html.escape(sentence).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _all_series(curves: Curves) -> list[Series]:
    return [*curves.training.values(), *curves.validation.values()]
