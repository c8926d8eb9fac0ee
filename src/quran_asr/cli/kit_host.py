"""What `kit/run.py` calls on the host: the stages, and bringing results out."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quran_asr.cli.printing import echo
from quran_asr.findings import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.runs.folder import RunFolder

LOG_BYTES = 200_000
"""Of the log, its end comes back."""


def work_on_host(
    kit: Path,
    work: Path,
    to: Path,
    began: float | None,
    minutes: float | None,
    every: float,
    tests: Path | None,
) -> int:
    """Do what is left to do."""
    from quran_asr.runs.kits.kit_stages import Host, run_kit

    seconds = float("inf") if minutes is None else 60 * minutes
    began = time.time() if began is None else began
    host = Host(kit, work, to, began + seconds, seconds, 60 * every, tests, lambda line: echo(line, err=True))
    return run_kit(host)


def bring_out(kit: Path, work: Path, to: Path) -> int:
    """Write what there is now to `results` below a folder: the whole set is replaced, never a part of it.

    Raises:
        QuranAsrError: it would be more than may come back; what was brought out before stays.
    """
    from quran_asr.runs.folder import runs_below
    from quran_asr.runs.kits.kit import LARGEST_OTHERS, RESULTS_INDEX, pack_run, write_index

    state = json.loads((work / "state.json").read_text(encoding="utf-8"))
    fresh = work / "outgoing"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    log = work / "log-end.txt"
    if (work / "log.txt").is_file():
        log.write_bytes((work / "log.txt").read_bytes()[-LOG_BYTES:])
    others = {
        "log.txt": log,
        "benchmark.json": work / "benchmark.json",
        "host.json": work / "environment.json",
        "tests.txt": work / "tests.txt",
        "evaluations/test/report.json": work / "evaluation" / "report.json",
        "evaluations/test/transcripts.jsonl": work / "evaluation" / "transcripts.jsonl",
    }
    facts: dict[str, Any] = {
        "kit": state["kit"],
        "recipe_name": state["index"],
        "calls": state["calls"],
        "stages": state["stages"],
        "model": None,
    }
    runs = runs_below(work / "runs")
    run = runs[-1] if runs else None
    for name, source in (
        ("curves.png", work / "plot" / "curves.png"),
        ("report.json", work / "evaluation" / "report.json"),
    ):
        if source.is_file():
            shutil.copyfile(source, fresh / name)
    place = work / "no-run" if run is None else run.path  # the log says why there is none
    pack_run(place, others, fresh / "run.tar.gz")
    if _size(fresh) > LARGEST_OTHERS:  # what was heard, word by word, is what can be missed
        slim = {name: path for name, path in others.items() if not name.endswith("transcripts.jsonl")}
        pack_run(place, slim, fresh / "run.tar.gz")
        (fresh / "curves.png").unlink(missing_ok=True)
        facts["left_out"] = ["curves.png", "transcripts of the evaluation"]
    if run is not None:
        facts["model"] = bring_weights(run, to / "results", fresh)
    write_index(fresh, RESULTS_INDEX, facts)
    refuse_too_much(fresh)
    swap(fresh, to / "results", work / "outgone")
    return 0


def bring_weights(run: RunFolder, before: Path, fresh: Path) -> dict[str, Any] | None:
    """Lay the weights of the best model so far beside the rest; those brought out already are taken again.

    Args:
        run: the run.
        before: the results of the last time.
        fresh: where the parts go.

    Returns:
        What `results.json` says of the model; None before the first checkpoint.
    """
    path = run.best_model() or run.last_checkpoint()
    if path is None:
        return None
    facts = path.stat()
    model: dict[str, Any] = {"file": path.name, "bytes": facts.st_size, "written": facts.st_mtime_ns}
    known = model_brought(before)
    if known is not None and known.items() >= model.items():
        for part in sorted(before.glob("weights-*.part")):
            shutil.copyfile(part, fresh / part.name)
        return known
    from quran_asr.runs.kits.kit import half_size
    from quran_asr.train.half import read_model, write_parts

    weights = read_model(path)
    model["parameters"] = sum(tensor.numel() for tensor in weights.values())
    if half_size(model["parameters"]).fits:
        write_parts(weights, fresh)
    else:
        model["stays"] = str(path)
    return model


def model_brought(results: Path) -> dict[str, Any] | None:
    """What whole results say of their model; None if there are none."""
    from quran_asr.runs.kits.kit import read_results

    try:
        model = read_results(results)[0].get("model")
    except QuranAsrError:
        return None
    return model if isinstance(model, dict) else None


def refuse_too_much(folder: Path) -> None:
    """Check the limits of what may come back.

    Raises:
        QuranAsrError: too many files, or too large.
    """
    from quran_asr.runs.kits.kit import LARGEST_FILE, LARGEST_RESULTS, MOST_FILES

    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    if (
        len(sizes) > MOST_FILES
        or sum(sizes.values()) > LARGEST_RESULTS
        or max(sizes.values()) >= LARGEST_FILE
    ):
        said = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sorted(sizes.items()))
        raise QuranAsrError(f"more than may come back: {said}", where=str(folder))


def swap(fresh: Path, place: Path, old: Path) -> None:
    """Put a whole folder in the place of another; cut off in between, the next call puts it there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    try:
        if place.exists():
            place.replace(old)
        fresh.replace(place)
    except OSError:  # on another file system
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(fresh, place)
    shutil.rmtree(old, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
