"""Reproduce all figures of identification, alignment, mismatches and the audit for one model.

    python tools/measure_search.py BUNDLE --data FOLDER --validation MANIFEST --to measured > measured.md

The folder of `--data` holds `eval/`, `alignment/` and `recitations/`, as QURAN_ASR_DATA does. Every step is a
command of its own, whose output is kept under the checksum of the bundle: what is there is not measured
again, so the command can be stopped and given again. `--only STEP` makes one of them, `--list` prints the
commands. Nothing here is chosen: offsets and thresholds are those of the code.
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

TOOLS = Path(__file__).parent
PACKAGE = ("-m", "quran_asr")
EVALUATION_SETS = ("verses-44", "verses-43", "studio-173", "volunteers-80")
UNSEEN = ("nabil-al-rifai", "fares-abbad")
CONCATENATED = {
    "training voices": ("ahmed-allhdan", "yasser-salama", "yasser-al-dosari", "abdullah-basfar"),
    "unseen voice": ("nabil-al-rifai",),
}
AUDITED = ("ahmed-allhdan", "yasser-al-dosari", "yasser-salama", "nabil-al-rifai")
FIRST_AUDITED_SURAH = 86


@dataclass(frozen=True, slots=True)
class Step:
    """One command of Python, or several in a row."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    shown: int = 1
    """So many commands at the end print figures; the others only prepare."""

    def output(self, folder: Path) -> str:
        """What it prints, measured now if it is not there.

        Raises:
            SystemExit: a command failed; its message stands above.
        """
        path = folder / f"{self.name.replace(' ', '-')}.txt"
        if not path.is_file():
            printed = []
            for number, command in enumerate(self.commands):
                print(shlex.join(command), file=sys.stderr, flush=True)
                done = subprocess.run(
                    [sys.executable, *command], stdout=subprocess.PIPE, text=True, check=False
                )
                if done.returncode not in (0, 1):  # 1: clips that cannot be read, faults that were found
                    raise SystemExit(done.returncode)
                if number >= len(self.commands) - self.shown:
                    printed.append(f"$ {shlex.join(('python', *command))}\n\n{done.stdout}")
            path.write_text("\n".join(printed), encoding="utf-8")
        return path.read_text(encoding="utf-8")


def steps(bundle: Path, data: Path, validation: Path, folder: Path) -> Iterator[Step]:
    """All of them, the quickest first."""

    def tool(name: str, *words: object) -> tuple[str, ...]:
        return (str(TOOLS / name), *map(str, words))

    def command(*words: object) -> tuple[str, ...]:
        return (*PACKAGE, *map(str, words))

    for seed in (0, 1):
        yield Step(
            f"planted word errors, seed {seed}",
            (tool("plant_errors.py", bundle, validation, "--seed", seed),),
        )
    for name, reciters in CONCATENATED.items():
        index = data / "recitations" / "index.jsonl"
        words = ("--reciters", *reciters, "--surahs", "78-114", "--recordings", 12, "--seed", 1)
        yield Step(
            f"concatenated clips, {name}",
            (tool("alignment_accuracy.py", "concatenated", index, "--model", bundle, *words),),
        )
    times, scores = data / "alignment" / "times.jsonl", folder / "scores"
    words = ("--model", bundle, "--scores", scores, "--unseen", *UNSEEN)
    yield Step("published verse times", (tool("alignment_accuracy.py", "verses", times, *words),))
    for name in EVALUATION_SETS:
        manifest = data / "eval" / name / "manifest.jsonl"
        words = ("--model", bundle, "--decoder", "ctc", "--identify", "--to", folder / name)
        yield Step(f"identified {name}", (command("evaluate", manifest, *words),))
    others = folder / "not-quran"
    yield Step(
        "recordings without Quran",
        (
            tool("identification_study.py", "make", others, "--reversed", validation),
            tool("identification_study.py", "score", bundle, others, "--quran", validation, "--every", 4),
        ),
    )
    planted, originals, clips = folder / "planted", folder / "originals", sub_manifest(data, folder)
    audit = ("corpus", "audit", "--align", "--model", bundle, "--no-audio")
    yield Step(
        "audit of planted faults",
        (
            tool("plant_faults.py", "plant", clips, "--to", planted, "--seed", 2, "--share", 0.05),
            command(*audit, planted / "manifest.jsonl"),
            command(*audit, clips, "--to", originals),
            tool("plant_faults.py", "score", planted, "--original", originals),
        ),
    )


def sub_manifest(data: Path, folder: Path) -> Path:
    """A manifest of the clips that are audited, next to the reports."""
    to = folder / "audit.jsonl"
    index = data / "recitations" / "index.jsonl"
    lines = []
    for text in index.read_text("utf-8").splitlines():
        line = json.loads(text)
        surah = int(line["verses"][0].partition(":")[0])
        if line["reciter"] in AUDITED and surah >= FIRST_AUDITED_SURAH:
            line["audio_filepath"] = str((index.parent / line["audio_filepath"]).resolve())
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    to.write_text("".join(lines), encoding="utf-8")
    return to


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings, see above")
    parser.add_argument("--validation", type=Path, required=True, help="manifest of clips for planted errors")
    parser.add_argument("--to", type=Path, default=Path("measured"), help="folder of the outputs")
    parser.add_argument("--only", action="append", default=[], metavar="STEP", help="one step, or several")
    parser.add_argument("--list", action="store_true", help="print the steps and their commands")
    given = parser.parse_args()
    checksum = json.loads((given.bundle / "bundle.json").read_text(encoding="utf-8"))["sha256"][:12]
    folder = given.to / f"search-{checksum}"
    folder.mkdir(parents=True, exist_ok=True)
    all_steps = list(steps(given.bundle, given.data, given.validation, folder))
    if unknown := [name for name in given.only if name not in {step.name for step in all_steps}]:
        parser.error(f"--only {unknown[0]}: there is no such step; --list names them")
    for step in all_steps:
        if given.only and step.name not in given.only:
            continue
        if given.list:
            print(step.name, *(f"  python {shlex.join(one)}" for one in step.commands), sep="\n")
        else:
            print(f"## {step.name}\n\n```\n{step.output(folder).rstrip()}\n```\n", flush=True)


if __name__ == "__main__":
    main()
