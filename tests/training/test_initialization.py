from __future__ import annotations

import torch

from quran_asr.config.schema import Recipe
from quran_asr.records import Segment
from quran_asr.training.data.batches import ClipSet, collate, tokenize
from quran_asr.training.initialization import OUTPUT_DEVIATION, initialize
from quran_asr.training.model import build_model
from quran_asr.training.tokenizer import Tokenizer


def test_every_stage_of_the_subsampling_keeps_the_signal_alive(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    torch.manual_seed(0)
    model = build_model(tiny, tokenizer.folder)
    clips = ClipSet(tokenize(segments, tokenizer), cache_bytes=1 << 30)

    before = subsampled(model, clips)
    others = {k: v.clone() for k, v in model.state_dict().items() if "pre_encode" not in k}
    initialize(model, clips)
    after = subsampled(model, clips)

    # NeMo's weights: what the frames differ by is a fraction of what they have in common
    assert (before.std(dim=0) / before.abs().mean(dim=0).clamp_min(1e-3)).median() < 0.5
    # a third of tolerance: here every clip begins and ends in padding, there they were one long signal
    assert torch.allclose(after.std(dim=0), torch.full_like(after[0], OUTPUT_DEVIATION), rtol=0.33)
    assert after.mean(dim=0).abs().max() < OUTPUT_DEVIATION / 3
    for name, tensor in others.items():
        assert torch.equal(model.state_dict()[name], tensor), f"{name} was changed too"


def subsampled(model: object, clips: ClipSet) -> torch.Tensor:
    """What leaves the subsampling for all clips one after the other: [frames, d_model]."""
    batch = collate([clips[i] for i in range(len(clips))])
    model.eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        features, lengths = model.preprocessor(  # type: ignore[attr-defined]
            input_signal=batch.audio, length=batch.audio_lengths
        )
        frames, counts = model.encoder.pre_encode(x=features.transpose(1, 2), lengths=lengths)  # type: ignore[attr-defined]
    model.train()  # type: ignore[attr-defined]
    return torch.cat([clip[:n] for clip, n in zip(frames, counts.int().tolist(), strict=True)])
