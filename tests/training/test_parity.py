"""The same seed and the same batches give stock NeMo's loss curve, step by step.

The curve was made by stock NeMo (its model, loss, loader, optimizer, schedule): see `make_parity_curve.py`.
Dropout, masks, dither and FastEmit are off, and there is one look-ahead: both sides draw nothing by chance.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("nemo", reason="needs the extra train")
pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("parity", HERE / "parity.py")
assert _spec is not None and _spec.loader is not None
parity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(parity)


def test_fifty_steps_follow_the_golden_curve(tmp_path: Path) -> None:
    golden = json.loads((HERE / "golden" / "parity.json").read_text("utf-8"))
    assert golden["overrides"] == list(parity.OVERRIDES), "make the curve again"
    ours = parity.losses("ours", 50, tmp_path)
    assert ours[0] == pytest.approx(golden["losses"][0], rel=1e-5)
    assert ours == pytest.approx(golden["losses"], rel=1e-3)
    assert ours[-1] < 0.8 * ours[0], "a curve that does not move shows nothing"


def test_some_steps_beside_stock_nemo(tmp_path: Path) -> None:
    steps = 4
    folders = [tmp_path / side for side in ("stock", "ours")]
    for folder in folders:
        folder.mkdir()
    stock, ours = (parity.losses(folder.name, steps, folder) for folder in folders)
    assert ours[0] == pytest.approx(stock[0], rel=1e-5)
    assert ours == pytest.approx(stock, rel=1e-4)
