"""Measure a bundle and its float twin on evaluation sets, and print the tables as Markdown.

    python tools/measure_model.py BUNDLE --float FLOAT --set studio=unseen.jsonl --set phones=phones.jsonl \\
        --stress studio --to measured > measured.md

The bundle: three decoders, every look-ahead, whole files and streams. Its float twin: whole files alone.
Every measurement is one `quran-asr evaluate` with a folder of its own; one that is there is not made again,
so the command can be stopped and given again. Folders are named by the checksum of the bundle: another model
is measured anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DECODERS = ("transducer-beam", "transducer", "ctc")
MOST_RECITERS = 8
"""Of a set with more, reciters have no rows of their own."""


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    folder: Path
    look_aheads: tuple[int, ...]
    """Milliseconds, the widest first."""
    checksum: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One report: what `evaluate` is asked for."""

    model: Model
    of: str
    """Name of the set."""
    manifest: Path
    decoder: str
    look_ahead_ms: int
    way: str
    """`whole files`, `streaming` or `stress`."""

    def folder(self, to: Path) -> Path:
        name = f"{self.decoder}-{self.look_ahead_ms}ms-{self.way.replace(' ', '-')}"
        return to / f"{self.model.name}-{self.model.checksum}" / self.of / name

    def report(self, to: Path) -> dict[str, Any]:
        """The report, made now if it is not there.

        Raises:
            SystemExit: `evaluate` failed; its message stands above.
        """
        folder = self.folder(to)
        path = folder / ("stress.json" if self.way == "stress" else "report.json")
        if not path.is_file():
            words = ["evaluate", self.manifest, "--model", self.model.folder, "--decoder", self.decoder]
            words += ["--look-ahead", self.look_ahead_ms, "--to", folder]
            words += {"streaming": ["--streaming"], "stress": ["--stress"]}.get(self.way, [])
            command = [sys.executable, "-m", "quran_asr", *map(str, words)]
            print(shlex.join(command[1:]), file=sys.stderr, flush=True)
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            if not path.is_file():
                raise SystemExit(done.returncode or 1)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def read_model(name: str, folder: Path) -> Model:
    described = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    return Model(name, folder, tuple(described["look_aheads_ms"]), described["sha256"][:12])


def measurements(models: list[Model], sets: dict[str, Path], stressed: list[str]) -> Iterator[Measurement]:
    """All of them; what matters most comes first."""
    first = models[0]
    for ms in first.look_aheads:
        for way in ("whole files", "streaming"):
            for model in models if way == "whole files" else [first]:
                for decoder in DECODERS:
                    for name, manifest in sets.items():
                        yield Measurement(model, name, manifest, decoder, ms, way)
        if ms == first.look_aheads[0]:
            for decoder in DECODERS:
                for name in stressed:
                    yield Measurement(first, name, sets[name], decoder, ms, "stress")


def rate(group: dict[str, Any], key: str) -> str:
    """`5.12 (4.80-5.50)`: percent with the 95 % interval."""
    value, interval = group[key], group[f"{key}_interval"]
    if value is None:
        return "-"
    around = "" if interval is None else f" ({100 * interval[0]:.2f}-{100 * interval[1]:.2f})"
    return f"{100 * value:.2f}{around}"


def rows_of(name: str, report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Row name -> group, by the letters: the whole set, and its reciters where they are few."""
    rows = {name: report}
    reciters = report["reciters"]
    if 1 < len(reciters) <= MOST_RECITERS:
        rows |= {f"{name}: {reciter}": group for reciter, group in reciters.items()}
    return {row: group["letters"] for row, group in rows.items()}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def error_tables(made: dict[Measurement, dict[str, Any]]) -> Iterator[str]:
    """A table for each model, decoder and way: sets and reciters down, look-aheads across."""
    plain = {one: report for one, report in made.items() if one.way != "stress"}
    for model, decoder, way in dict.fromkeys((one.model, one.decoder, one.way) for one in plain):
        chosen = [one for one in plain if (one.model, one.decoder, one.way) == (model, decoder, way)]
        ahead = list(dict.fromkeys(one.look_ahead_ms for one in chosen))
        cells: dict[str, dict[int, str]] = {}
        for one in chosen:
            for row, group in rows_of(one.of, plain[one]).items():
                cells.setdefault(row, {})[one.look_ahead_ms] = f"{rate(group, 'wer')} / {rate(group, 'cer')}"
        yield f"### {model.name}, {decoder}, {way}: WER / CER in % (95 % intervals)\n"
        header = ["", *(f"{ms} ms" for ms in ahead)]
        yield table(header, [[row, *(found.get(ms, "") for ms in ahead)] for row, found in cells.items()])


def difference_table(made: dict[Measurement, dict[str, Any]], model: Model, twin: Model) -> Iterator[str]:
    """WER of the model less that of its twin, in points, whole files."""
    yield f"### {model.name} less {twin.name}: points of WER, whole files\n"
    whole = [one for one in made if one.way == "whole files"]
    pairs = [(one, other) for one in whole for other in whole if one.model == model and other.model == twin]
    rows = [
        [
            one.of,
            one.decoder,
            f"{one.look_ahead_ms} ms",
            f"{100 * (made[one]['letters']['wer'] - made[other]['letters']['wer']):+.2f}",
        ]
        for one, other in pairs
        if (one.of, one.decoder, one.look_ahead_ms) == (other.of, other.decoder, other.look_ahead_ms)
    ]
    yield table(["", "decoder", "look-ahead", "difference"], rows)


def stress_tables(made: dict[Measurement, dict[str, Any]]) -> Iterator[str]:
    for one, report in made.items():
        if one.way == "stress":
            yield f"### {one.model.name}, {one.decoder}, {one.look_ahead_ms} ms, {one.of}: conditions\n"
            rows = [
                [
                    row["condition"],
                    rate(row, "wer"),
                    rate(row, "cer"),
                    "" if row["relative"] is None else f"{100 * row['relative']:+.1f} %",
                    {True: "met", False: "missed", None: ""}[row["met"]],
                ]
                for row in report["rows"]
            ]
            yield table(["condition", "WER %", "CER %", "WER beside clean", "goal"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="the bundle that is measured, int8 for example")
    parser.add_argument("--float", dest="twin", type=Path, help="the same model in 32-bit floats")
    parser.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=MANIFEST")
    parser.add_argument("--stress", action="append", default=[], metavar="NAME", help="a set to stress")
    parser.add_argument("--to", type=Path, default=Path("measured"), help="folder of the reports")
    given = parser.parse_args()
    sets = {name: Path(path) for name, _, path in (one.partition("=") for one in given.sets)}
    if unknown := [name for name in given.stress if name not in sets]:
        parser.error(f"--stress {unknown[0]}: there is no --set of that name")
    models = [read_model("bundle", given.bundle)]
    if given.twin is not None:
        models.append(read_model("float", given.twin))
    made = {one: one.report(given.to) for one in measurements(models, sets, given.stress)}
    for text in error_tables(made):
        print(text)
    if given.twin is not None:
        print("\n".join(difference_table(made, *models)))
    for text in stress_tables(made):
        print(text)
    print("Intervals:", "; ".join(dict.fromkeys(report["interval_method"] for report in made.values())))


if __name__ == "__main__":
    main()
