#!/usr/bin/env python3
"""Draw the curves of a run: losses, word error rates, learning rate.

    python plot_training_results.py [RUN...] [--out FOLDER]

Without RUN it draws the last run under nemo_experiments. The same as `quran-asr plot`.
"""

import importlib.util
import os
import sys
from pathlib import Path

OWN_PYTHON = Path(__file__).resolve().parent / ".venv" / "bin" / "python"
NEEDED = ("quran_asr", "matplotlib")


def main() -> None:
    if all(importlib.util.find_spec(name) for name in NEEDED):
        from quran_asr.cli.main import main as quran_asr

        quran_asr(["plot", *sys.argv[1:]])
    elif OWN_PYTHON.exists() and Path(sys.prefix).resolve() != OWN_PYTHON.parent.parent.resolve():
        os.execv(OWN_PYTHON, [str(OWN_PYTHON), __file__, *sys.argv[1:]])
    else:
        print("error: quran-asr is not installed", file=sys.stderr)
        print("hint: run ./quickstart.sh, or: pip install 'quran-asr[plot]'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
