"""`quran-asr kit`: what a GPU host without a network needs, in one folder; and the way back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.extras import need
from quran_asr.cli.numbers import FiniteRange
from quran_asr.cli.printing import echo, print_findings, print_json, print_table, progress_bar
from quran_asr.findings import Finding, QuranAsrError

if TYPE_CHECKING:
    from quran_asr.corpus.pieces import Packed
    from quran_asr.runs.kits.host_packages import Choice
    from quran_asr.runs.schema import Recipe

_folder = click.Path(path_type=Path, file_okay=False)
_file = click.Path(path_type=Path, dir_okay=False)
SHOWN_WHEELS = 6


@click.command(
    epilog="Example: quran-asr kit small --train data/train.jsonl --validation data/validation.jsonl --to kit"
)
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option(
    "--train", "training", multiple=True, type=_file, help="Manifest to train on; may be given again."
)
@click.option("--validation", multiple=True, type=_file, help="Manifest to choose checkpoints by.")
@click.option(
    "--test", multiple=True, type=_file, help="Manifest to evaluate; default: that of --validation."
)
@click.option("--to", type=_folder, metavar="FOLDER", help="Folder to write; it must be empty or a kit.")
@click.option(
    "--host-packages",
    type=_file,
    default="torch",
    show_default=True,
    metavar="FILE|torch|science",
    help="What the host has: its `python3 -m pip list --format=freeze`, or a list of ours: torch (2.11, with "
    "Triton 3.6, lightning and their needs) or science (SciPy, pandas, transformers too).",
)
@click.option("--lock", type=_file, help="Versions to carry; default: requirements/lock.txt of the checkout.")
@click.option("--max-mib", type=FiniteRange(min=1), help="Size that the whole kit may have.")
@click.option("--hours", type=FiniteRange(min=0, min_open=True), help="Hours to train on at most.")
@click.option(
    "--validation-hours",
    default=0.25,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    help="Hours of validation, and of test, at most.",
)
@click.option("--kbps", default=24, show_default=True, type=click.IntRange(8, 128), help="Opus, kbit/s.")
@click.option("--benchmark", "preset", metavar="WORDS", default="", help="Words for `benchmark training`.")
@click.option("--collect", type=_folder, metavar="RESULTS", help="Make a run of results that came back.")
@click.option("--run", "run_kit", type=_folder, hidden=True)
@click.option("--export", "export_kit", type=_folder, hidden=True)
@click.option("--work", type=_folder, hidden=True)
@click.option("--began", type=FiniteRange(), hidden=True)
@click.option("--minutes", type=FiniteRange(min=0.1), hidden=True)
@click.option("--every", type=FiniteRange(min=0.01), default=3.0, hidden=True)
@click.option("--tests", type=_folder, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def kit(
    words: tuple[str, ...],
    training: tuple[Path, ...],
    validation: tuple[Path, ...],
    test: tuple[Path, ...],
    to: Path | None,
    host_packages: Path,
    lock: Path | None,
    max_mib: float | None,
    hours: float | None,
    validation_hours: float,
    kbps: int,
    preset: str,
    collect: Path | None,
    run_kit: Path | None,
    export_kit: Path | None,
    work: Path | None,
    began: float | None,
    minutes: float | None,
    every: float,
    tests: Path | None,
    as_json: bool,
) -> int:
    """Gather what a CUDA host without a network needs: wheels that it lacks, audio, recipe, and run.py.

    There, `python3 kit/run.py --to RESULTS --minutes 9` benchmarks, trains, evaluates and leaves at most 8
    files under 16 MiB each, 60 MiB together; the same command again goes on. Here, `kit --collect
    RESULTS/results --to RUN` makes a run folder of them with a stock .nemo.
    """
    if to is None:
        raise QuranAsrError("kit needs a folder", where="--to", remedy="quran-asr kit --to kit")
    if collect is not None:
        return collect_results(collect, to, as_json)
    if run_kit is not None or export_kit is not None:
        from quran_asr.cli.kit_host import bring_out, work_on_host

        assert work is not None
        if export_kit is not None:
            return bring_out(export_kit, work, to)
        assert run_kit is not None
        return work_on_host(run_kit, work, to, began, minutes, every, tests)

    need("train")
    from quran_asr.runs.kits.kit import INDEX, write_index

    recipe = chosen_recipe(words)
    findings = look_at(recipe)
    if print_findings(findings):
        return 1
    manifests = {"train": training, "validation": validation, "test": test or validation}
    parts = read_parts(manifests, recipe)
    empty(to)
    choice = carry_wheels(to, host_packages, lock, recipe)
    write_rest(to, recipe)
    packed = pack_audio(to, parts, max_mib, hours, validation_hours, kbps)
    facts = {
        "recipe_name": recipe.name,
        "benchmark": preset.split(),
        "audio": {
            "clips": packed.clips,
            "hours": {name: round(value, 4) for name, value in packed.hours.items()},
            "of_hours": {name: round(value, 4) for name, value in packed.of_hours.items()},
            "encoded_anew": packed.encoded,
            "kbps": kbps,
        },
        "packages": {
            "carried": {one.name: one.version for one in choice.carried},
            "because": {one.name: one.why for one in choice.carried if one.why},
            "of_the_host": dict(choice.of_the_host),
            "left_out": list(choice.left_out),
            "unfit": list(choice.unfit),
        },
    }
    write_index(to, INDEX, facts)
    return report_kit(to, choice, packed, facts, max_mib, as_json)


def chosen_recipe(words: tuple[str, ...]) -> Recipe:
    """The recipe that the host trains."""
    from quran_asr.cli.start import load
    from quran_asr.runs.overrides import split_words

    name, overrides = split_words(words, default="small")
    return load(name, overrides)


def look_at(recipe: Recipe) -> list[Finding]:
    """What cannot go on a host without a network, and what cannot come back."""
    from quran_asr.runs.kits.kit import LARGEST_RESULTS, half_size
    from quran_asr.runs.parameters import count_parameters

    findings = []
    if recipe.init_from_pretrained_model is not None or recipe.exp_manager.resume_from_checkpoint is not None:
        findings.append(
            Finding(
                "error", "kit-start", "init_from_pretrained_model",
                "a kit carries no pretrained weights: a host without a network could not have them",
                "choose a recipe that starts from random weights: small, scratch, laptop",
            )
        )  # fmt: skip
    if recipe.model.tokenizer.dir is not None:
        findings.append(
            Finding(
                "error", "kit-tokenizer", "model.tokenizer.dir",
                "a kit carries no tokenizer folder: the host makes its own from the text",
                "leave out model.tokenizer.dir",
            )
        )  # fmt: skip
    size = half_size(count_parameters(recipe.model, recipe.quran.vocabulary_size))
    if not size.fits:
        findings.append(
            Finding(
                "warning", "kit-weights", "model.encoder",
                f"weights of {size.bytes / 2**20:.0f} MiB in half precision do not fit into the "
                f"{LARGEST_RESULTS / 2**20:.0f} MiB that come back: curves and scores will, the weights stay "
                "in the work folder of the host",
                "at most 30.9 million parameters fit: the recipe small",
            )
        )  # fmt: skip
    return findings


def empty(to: Path) -> None:
    """A folder for the kit: new, or that of an earlier kit."""
    import shutil

    from quran_asr.runs.kits.kit import INDEX

    if to.is_dir() and any(to.iterdir()):
        # one that could not be finished has no index yet
        begun = (to / "wheels").is_dir() or ((to / "run.py").is_file() and (to / "package.zip").is_file())
        if not (to / INDEX).is_file() and not begun:
            raise QuranAsrError("is not empty, and no kit", where=str(to), remedy="name another folder: --to")
        for part in ("data", "run.py", "recipe.yaml", "package.zip", INDEX):
            path = to / part
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    to.mkdir(parents=True, exist_ok=True)


def read_parts(manifests: dict[str, tuple[Path, ...]], recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The lines of each part that the recipe takes."""
    from quran_asr.corpus.manifest import read_lines

    parts: dict[str, list[dict[str, Any]]] = {}
    ds = recipe.model
    limits = {"train": ds.train_ds.max_duration, "validation": ds.validation_ds.max_duration, "test": None}
    for name, paths in manifests.items():
        if not paths:
            raise QuranAsrError(f"no {name} manifest", remedy=f"give one with --{name} FILE")
        lines = [line for path in paths for line in read_lines(path)]
        longest = limits[name]
        parts[name] = [
            line
            for line in lines
            if (longest is None or line["duration"] <= longest)
            and (name == "test" or line["duration"] >= ds.train_ds.min_duration)
        ]
        if len(parts[name]) < len(lines):
            echo(f"{len(lines) - len(parts[name])} {name} clips lie outside the recipe's limits", err=True)
        if not parts[name]:
            raise QuranAsrError(f"no {name} clip is left", where=str(paths[0]))
    return parts


def carry_wheels(to: Path, host_packages: Path, lock: Path | None, recipe: Recipe) -> Choice:
    """Choose, fetch and lay the wheels into the kit; those of an earlier kit are used again."""
    from quran_asr.runs.kits.host_packages import choose, download, read_host, read_lock, read_needs

    lock = lock or Path(__file__).parents[3] / "requirements" / "lock.txt"
    pins, host = read_lock(lock), read_host(host_packages)
    wheels = to / "wheels"
    echo("fetching wheels that the host lacks", err=True)
    choice = choose(pins, read_needs(recipe), host, lambda asked: download(asked, wheels))
    wanted = {one.file for one in choice.carried}
    for path in wheels.iterdir() if wheels.is_dir() else ():
        if path.name not in wanted:
            path.unlink()
    return choice


def write_rest(to: Path, recipe: Recipe) -> None:
    """Recipe, package and the script that begins on the host."""
    from dataclasses import replace

    from quran_asr.files import write_atomically
    from quran_asr.runs.kits import kit_run
    from quran_asr.runs.kits.kit import pack_package
    from quran_asr.runs.recipe import as_yaml

    def without_data(ds: Any) -> Any:
        return replace(ds, manifest_filepath=None)

    model = replace(
        recipe.model,
        train_ds=without_data(recipe.model.train_ds),
        validation_ds=without_data(recipe.model.validation_ds),
    )
    write_atomically(to / "recipe.yaml", as_yaml(replace(recipe, model=model)).encode())
    write_atomically(to / "run.py", Path(kit_run.__file__).read_bytes())
    pack_package(to / "package.zip")


def pack_audio(
    to: Path,
    parts: dict[str, list[dict[str, Any]]],
    max_mib: float | None,
    hours: float | None,
    validation_hours: float,
    kbps: int,
) -> Packed:
    """Clips into the room that is left."""
    from quran_asr.corpus.pieces import pack

    taken = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    budget = (1 << 50) if max_mib is None else int(max_mib * 2**20) - taken - (64 << 10)  # the index
    if budget <= 0:
        wheels = sorted((to / "wheels").glob("*.whl"), key=lambda path: -path.stat().st_size)[:SHOWN_WHEELS]
        largest = ", ".join(f"{path.name.split('-')[0]} {path.stat().st_size / 2**20:.1f}" for path in wheels)
        raise QuranAsrError(
            f"wheels and package alone take {taken / 2**20:.1f} MiB (the largest: {largest})",
            where=f"--max-mib {max_mib:g}",
            remedy="a host that has more needs less: give its own list with --host-packages",
        )
    (to / "data").mkdir(exist_ok=True)
    limits = {"validation": validation_hours, "test": validation_hours}
    if hours is not None:
        limits["train"] = hours
    with progress_bar("packing audio", "bytes") as on_progress:
        return pack(
            dict(parts), to / "data", budget=budget, hours=limits, kilobits=kbps, on_progress=on_progress
        )


def report_kit(
    to: Path, choice: Choice, packed: Packed, facts: dict[str, Any], max_mib: float | None, as_json: bool
) -> int:
    """What is in the kit, by size; an error if it is more than was allowed."""

    def size(*paths: Path) -> int:
        return sum(path.stat().st_size for path in paths)

    wheels = sum(one.bytes for one in choice.carried)
    rest = size(*(to / name for name in ("package.zip", "run.py", "recipe.yaml", "kit.json")))
    total = size(*(path for path in to.rglob("*") if path.is_file()))
    if as_json:
        mib = {"wheels": wheels, "audio": packed.bytes, "rest": rest, "total": total}
        print_json({"kit": str(to), "bytes": mib, "max_mib": max_mib, **facts})
    else:
        hours = ", ".join(
            f"{name} {packed.hours[name]:.2f} of {packed.of_hours[name]:.2f} h ({packed.clips[name]:,} clips)"
            for name in packed.hours
        )
        rows = [
            ("wheels", f"{wheels / 2**20:.1f}", f"{len(choice.carried)} packages that the host lacks"),
            ("audio", f"{packed.bytes / 2**20:.1f}", f"{len(packed.pieces)} archives: {hours}"),
            ("the rest", f"{rest / 2**20:.1f}", "this package, recipe, run.py, kit.json"),
            ("total", f"{total / 2**20:.1f}", "" if max_mib is None else f"of {max_mib:g}"),
        ]
        print_table(("", "MiB", ""), rows)
        echo()
        largest = sorted(choice.carried, key=lambda one: -one.bytes)[:SHOWN_WHEELS]
        echo("largest wheels: " + ", ".join(f"{one.name} {one.bytes / 2**20:.1f}" for one in largest))
        echo(f"left out, for no command of the host needs them: {', '.join(choice.left_out)}")
        echo(f"on the host: python3 {to.name}/run.py --to RESULTS --minutes 9")
    findings = [
        Finding(
            "note",
            "kit-replaces",
            one.name,
            f"{one.version} stands before the host's: {one.why}",
            "",
        )
        for one in choice.carried
        if one.why
    ]
    findings += [
        Finding("warning", "kit-unfit", "", f"{reason}; the host's is used all the same", "")
        for reason in choice.unfit
    ]
    if max_mib is not None and total > max_mib * 2**20:
        what = f"{total / 2**20:.1f} MiB, and {max_mib:g} are allowed"
        findings.append(Finding("error", "kit-size", str(to), what, "take fewer --hours"))
    return print_findings(findings)


def collect_results(results: Path, to: Path, as_json: bool) -> int:
    """Results that came back, as a run folder."""
    need("train")
    from quran_asr.runs.folder import RunFolder
    from quran_asr.runs.kits.kit import read_results, unpack_run

    index, parts = read_results(results)
    if to.exists():
        raise QuranAsrError("is there already", where=str(to), remedy="name a new folder: --to")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}-") as unfinished:
        run = RunFolder(Path(unfinished) / to.name)
        run.path.mkdir()
        unpack_run(results / "run.tar.gz", run.path)
        if not run.recipe.is_file():
            raise QuranAsrError(
                "holds no run: it was cut off or failed before it trained",
                where=str(results),
                remedy="log.txt in run.tar.gz says why",
            )
        for name in ("curves.png", "report.json", "results.json"):
            if (results / name).is_file():
                (run.path / name).write_bytes((results / name).read_bytes())
        model = None
        if parts:
            from quran_asr.train.half import nemo_from_parts

            named = index.get("model")
            model = nemo_from_parts(run, parts, str(named.get("file")) if isinstance(named, dict) else "")
        run.path.replace(to)
    place = None if model is None else to / "checkpoints" / model.name
    if as_json:
        print_json({"run": str(to), "model": None if place is None else str(place)})
    else:
        echo(f"run    {to}")
        echo(f"model  {place or 'none: no weights came back'}")
    return 0
