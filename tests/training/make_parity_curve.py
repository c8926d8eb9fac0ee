"""Make `golden/parity.json`: the losses of 50 steps of stock NeMo's training.

python tests/training/make_parity_curve.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from parity import OVERRIDES, losses

GOLDEN = Path(__file__).parent / "golden" / "parity.json"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        curve = losses("stock", 50, Path(folder))
    about = {
        "made_by": "python tests/training/make_parity_curve.py",
        "nemo_toolkit": version("nemo_toolkit"),
        "torch": version("torch"),
        "overrides": list(OVERRIDES),
        "losses": [round(loss, 5) for loss in curve],
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
