"""False alarms and misses of the rules of `watch`, and the coverage of its forecast, on synthetic curves.

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
    print("| healthy | curves | errors | warnings |\n|---|---|---|---|")
    for kind in HEALTHY:
        alarms = false_alarms(kind, seeds)
        errors, warnings = (_listed(*alarms[severity]) for severity in ("error", "warning"))
        print(f"| {kind} | {len(seeds)} | {errors} | {warnings} |")
    print("\n| sick | diagnosis | hits | misses | other errors |\n|---|---|---|---|---|")
    for kind, (code, _) in SICK.items():
        missed, others = misses(kind, seeds)
        listed = ", ".join(f"{name} {count}" for name, count in others.most_common()) or "-"
        print(
            f"| {kind} | `{code}` | {len(seeds) - len(missed)} of {len(seeds)} | {len(missed)} | {listed} |"
        )
        if options.show and missed:
            print(f"    missed: seeds {missed}")
    print("\n| forecast | at | made | held | median width | median error |\n|---|---|---|---|---|---|")
    for kind in HEALTHY:
        for label, results in forecasts(kind, seeds).items():
            if results:
                held, widths, errors_ = zip(*results, strict=True)
                figures = f"{median(widths):.3f} | {median(errors_):.3f}"
                print(f"| {kind} | {label} | {len(held)} | {sum(held) / len(held):.0%} | {figures} |")


def false_alarms(kind: str, seeds: range) -> dict[str, tuple[int, Counter[str]]]:
    """Severity -> healthy trainings that were ever given a diagnosis of it, and by which codes."""
    trainings: Counter[str] = Counter()
    codes: dict[str, Counter[str]] = {"error": Counter(), "warning": Counter()}
    for seed in seeds:
        seen = {
            (diagnosis.severity, diagnosis.code)
            for cut in CUTS
            for diagnosis in diagnose(made(kind, seed).curves(cut))
            if diagnosis.severity in codes
        }
        trainings.update({severity for severity, _ in seen})
        for severity, code in seen:
            codes[severity][code] += 1
    return {severity: (trainings[severity], found) for severity, found in codes.items()}


def _listed(count: int, codes: Counter[str]) -> str:
    return f"{count}" + (f" ({', '.join(f'{code} {n}' for code, n in codes.most_common())})" if codes else "")


def misses(kind: str, seeds: range) -> tuple[list[int], Counter[str]]:
    """Seeds of a sick training whose diagnosis was not made, and the other errors that were."""
    missed = []
    others: Counter[str] = Counter()
    code = SICK[kind][0]
    for seed in seeds:
        diagnoses = [d for d in diagnose(made(kind, seed).curves()) if d.severity != "good"]
        if code not in {diagnosis.code for diagnosis in diagnoses}:
            missed.append(seed)
        others.update(d.code for d in diagnoses if d.severity == "error" and d.code != code)
    return missed, others


def forecasts(kind: str, seeds: range) -> dict[str, list[tuple[bool, float, float]]]:
    """Label -> for each forecast from a part of a curve: whether its interval held, its width, its error."""
    results: dict[str, list[tuple[bool, float, float]]] = {"1.25x": [], "2x": []}
    for seed in seeds:
        whole = finite(made(kind, seed).curves().validation["wer"])
        for cut in (0.25, 0.5, 0.75):
            for expected in forecast(made(kind, seed).curves(cut), ()).expected:
                came = [point.value or 0.0 for point in whole if point.step >= expected.step]
                if came and expected.label in results:
                    held = expected.low <= came[0] <= expected.high
                    width, error = expected.high - expected.low, abs(expected.wer - came[0])
                    results[expected.label].append((held, width, error))
    return results


if __name__ == "__main__":
    main()
