"""What the prediction network reads in training: fresh starts at words, and wrong tokens."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from quran_asr.config.schema import Recipe
from quran_asr.records import Segment
from quran_asr.training.data.batches import Batch, ClipSet, collate, tokenize
from quran_asr.training.model import build_model
from quran_asr.training.module import TrainingModule, restarts, with_wrong_tokens
from quran_asr.training.tokenizer import Tokenizer


def test_fresh_starts_are_at_beginnings_of_words_and_as_frequent_as_asked() -> None:
    random.seed(0)
    begins = [True, False, True, False]
    clips = [(0, 1, 2, 3, 0, 1), (0, 1, 3)] * 500
    starts = restarts(clips, begins, 0.3)
    assert set(starts[::2]) == {0, 2, 4}
    assert set(starts[1::2]) == {0}, "a single word has no place to start anew"
    assert 100 < sum(start > 0 for start in starts) < 200
    assert restarts(clips, begins, 0.0) == [0] * 1000


def test_as_many_tokens_are_wrong_as_asked() -> None:
    torch.manual_seed(0)
    tokens = torch.full((100, 50), 7)
    changed = (with_wrong_tokens(tokens, 0.2, 48) != 7).float().mean()
    assert 0.17 < float(changed) < 0.22
    assert with_wrong_tokens(tokens, 0.0, 48) is tokens


@pytest.fixture
def module(tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment]) -> TrainingModule:
    torch.manual_seed(0)
    clips = ClipSet(tokenize(segments, tokenizer), cache_bytes=0)
    model = build_model(replace(tiny, quran=replace(tiny.quran, prefix_resets=1.0)), tokenizer.folder)
    model.decoder.prediction["dec_rnn"].lstm.dropout = 0.0
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    recipe = replace(tiny, quran=replace(tiny.quran, prefix_resets=1.0))
    return TrainingModule(model, recipe, clips, clips, lambda finding: None).train()


def test_behind_a_fresh_start_the_network_knows_nothing_of_what_came_before(module: TrainingModule) -> None:
    batch: Batch = collate([module.training_clips[index] for index in (0, 3)])
    random.seed(1)
    clips = [module.training_clips.clips[index].tokens for index in batch.indices]
    starts = restarts(clips, module._begins_word, 1.0)
    assert all(starts)
    random.seed(1)
    predicted = module._predicted(batch)
    assert predicted.shape[:2] == (2, max(map(len, clips)) + 1)
    for row, (tokens, start) in enumerate(zip(clips, starts, strict=True)):
        for begin, end in ((0, start), (start, len(tokens))):
            part = torch.tensor([tokens[begin:end]])
            alone, _, _ = module.model.decoder(targets=part, target_length=torch.tensor([part.shape[1]]))
            expected = alone.transpose(1, 2)[0, : end - begin]
            torch.testing.assert_close(predicted[row, begin:end], expected)
    module.eval()
    whole, _, _ = module.model.decoder(targets=batch.tokens, target_length=batch.token_lengths)
    torch.testing.assert_close(module._predicted(batch), whole.transpose(1, 2))
