"""False alarms and misses of the rules of `watch`, and the coverage of its outlook, on made curves.

python tools/diagnostics_study.py                 # seeds 100 to 199, which no threshold was chosen on
python tools/diagnostics_study.py --seeds 0-99    # those that were
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

from synthetic_curves import HEALTHY, SICK, made

from quran_asr.experiments.curves import finite
from quran_asr.experiments.diagnostics.forecast import forecast
from quran_asr.experiments.diagnostics.rules import diagnose

CUTS = (0.15, 0.3, 0.5, 0.75, 1.0)
"""A healthy training is judged while it runs, not only at its end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="100-199")
    parser.add_argument("--show", action="store_true", help="name the seeds that went wrong")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    healthy(seeds, options.show)
    sick(seeds, options.show)
    ahead(seeds)


def healthy(seeds: range, show: bool) -> None:
    print("| healthy | curves | errors | warnings |\n|---|---|---|---|")
    for kind in HEALTHY:
        errors: Counter[str] = Counter()
        warnings: Counter[str] = Counter()
        wrong = 0
        warned = 0
        for seed in seeds:
            codes: dict[str, set[str]] = {"error": set(), "warning": set()}
            for cut in CUTS:
                for diagnosis in diagnose(made(kind, seed).curves(cut)):
                    if diagnosis.severity in codes:
                        codes[diagnosis.severity].add(diagnosis.code)
                        if show and diagnosis.severity == "error":
                            print(f"    seed {seed} at {cut}: {diagnosis.code}: {diagnosis.message}")
            wrong += bool(codes["error"])
            warned += bool(codes["warning"])
            errors.update(codes["error"])
            warnings.update(codes["warning"])
        print(f"| {kind} | {len(seeds)} | {_told(wrong, errors)} | {_told(warned, warnings)} |")


def _told(count: int, codes: Counter[str]) -> str:
    return f"{count}" + (f" ({', '.join(f'{code} {n}' for code, n in codes.most_common())})" if codes else "")


def sick(seeds: range, show: bool) -> None:
    print("\n| sick | sign | hits | misses | other errors told |\n|---|---|---|---|---|")
    for kind, (code, _) in SICK.items():
        hits = 0
        others: Counter[str] = Counter()
        for seed in seeds:
            diagnostics = diagnose(made(kind, seed).curves())
            found = {diagnosis.code for diagnosis in diagnostics if diagnosis.severity != "good"}
            hits += code in found
            others.update(
                diagnosis.code
                for diagnosis in diagnostics
                if diagnosis.severity == "error" and diagnosis.code != code
            )
            if show and code not in found:
                print(f"    seed {seed} missed: {sorted(found)}")
        told = ", ".join(f"{name} {n}" for name, n in others.most_common()) or "-"
        print(f"| {kind} | `{code}` | {hits} of {len(seeds)} | {len(seeds) - hits} | {told} |")


def ahead(seeds: range) -> None:
    """How often the 90 % interval held what came, where the outlook was made from a part of a curve."""
    print("\n| outlook | at | made | held | median width | median error |\n|---|---|---|---|---|---|")
    for kind in HEALTHY:
        told: dict[str, list[tuple[bool, float, float]]] = {"1.25x": [], "2x": []}
        for seed in seeds:
            whole = finite(made(kind, seed).curves().validation["wer"])
            for cut in (0.25, 0.5, 0.75):
                for expected in forecast(made(kind, seed).curves(cut), ()).expected:
                    came = [point.value or 0.0 for point in whole if point.step >= expected.step]
                    if came and expected.label in told:
                        held = expected.low <= came[0] <= expected.high
                        width, error = expected.high - expected.low, abs(expected.wer - came[0])
                        told[expected.label].append((held, width, error))
        for label, results in told.items():
            if results:
                held, widths, errors = zip(*results, strict=True)
                figures = f"{median(widths):.3f} | {median(errors):.3f}"
                print(f"| {kind} | {label} | {len(held)} | {sum(held) / len(held):.0%} | {figures} |")


if __name__ == "__main__":
    main()
