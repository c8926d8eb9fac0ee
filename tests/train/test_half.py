"""Weights that go through half precision and parts: what they lose, and what is refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from quran_asr.findings import QuranAsrError
from quran_asr.train.half import halved, join_parts, write_parts


def test_a_model_loses_half_its_bytes_and_three_digits_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = {
        "encoder.weight": torch.randn(64, 300),
        "encoder.bias": torch.randn(64),
        "preprocessor.featurizer.fb": torch.rand(1, 80, 257),
        "encoder.large": torch.full((4, 4), 70_000.0),
        "encoder.counter": torch.tensor(3),
        "encoder.view": torch.randn(600, 300)[::2, ::3],
    }
    parts = write_parts(weights, tmp_path, part_bytes=50_000)
    assert len(parts) > 2 and all(part.stat().st_size <= 50_000 for part in parts)
    assert [part.name for part in parts] == [f"weights-{n}.part" for n in range(1, len(parts) + 1)]
    back = join_parts(parts)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        exact = name not in ("encoder.weight", "encoder.view")
        assert torch.equal(back[name], tensor) == exact, name
        # float16 has 11 bits: half a unit in the last place, and the smallest step below 6.1e-5
        torch.testing.assert_close(back[name], tensor, rtol=2**-11, atol=2**-25)
    assert halved(weights)["encoder.weight"].dtype == torch.float16


def test_parts_in_another_order_or_with_a_pickle_are_refused(tmp_path: Path) -> None:
    parts = write_parts({"a": torch.randn(100, 100)}, tmp_path, part_bytes=9_000)
    with pytest.raises(QuranAsrError, match="its parts are no weights"):
        join_parts(parts[::-1])
    mark = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {mark}",)

    with zipfile.ZipFile(parts[0], "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Evil()}, protocol=2))
        archive.writestr("archive/version", "3\n")
    with pytest.raises(QuranAsrError, match="its parts are no weights"):
        join_parts(parts[:1])
    assert not mark.exists()
    torch.save({"a": {"b": 1}}, parts[0])
    with pytest.raises(QuranAsrError, match="more than tensors by name"):
        join_parts(parts[:1])
