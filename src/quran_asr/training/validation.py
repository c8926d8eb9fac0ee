"""Validation metrics: errors of both decoders, and the shapes of failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quran_asr.decoding import ctc
from quran_asr.evaluation.edit_distance import count
from quran_asr.evaluation.report import ScoredClip
from quran_asr.evaluation.scoring import repeated_words, score_clips
from quran_asr.records import Counts, Segment
from quran_asr.training.distributed import Ranks
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel


def transducer_texts(model: EncDecHybridRNNTCTCBPEModel, encoded: Tensor, frames: Tensor) -> list[str]:
    """Greedy transducer transcripts. encoded [B, D, T], frames [B]."""
    hypotheses = model.decoding.rnnt_decoder_predictions_tensor(
        encoder_output=encoded, encoded_lengths=frames, return_hypotheses=False
    )
    return [hypothesis.text for hypothesis in hypotheses]


class Validation:
    """Gathers counts over a set of clips."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel, decode: Callable[[list[int]], str]) -> None:
        self._model = model
        self._decode = decode
        self._words = Counts()
        self._ctc_words = Counts()
        self._letters = Counts()
        self._blank_frames = 0
        self._frames = 0
        self._repeated = 0
        self._hypothesis_words = 0
        self._loss = 0.0
        self._losses = 0
        self._hypotheses: dict[int, str] = {}

    @torch.no_grad()
    def add(self, encoded: Tensor, frames: Tensor, texts: Sequence[str], indices: Sequence[int]) -> None:
        """Decode a batch both ways and count.

        Args:
            encoded: [B, D, T].
            frames: [B].
            texts: the reference of each clip.
            indices: places of the clips in their set.
        """
        hypothesis = transducer_texts(self._model, encoded, frames)
        self._hypotheses.update(zip(indices, hypothesis, strict=True))
        scores = self._model.ctc_decoder(encoder_output=encoded).float().cpu().numpy()
        for reference, transducer, clip, n in zip(texts, hypothesis, scores, frames.tolist(), strict=True):
            words = transducer.split()
            ctc_text = self._decode(list(ctc.greedy(clip[:n]).tokens))
            self._words += count(reference.split(), words)
            self._ctc_words += count(reference.split(), ctc_text.split())
            self._letters += count(reference, transducer)
            self._blank_frames += int((clip[:n].argmax(axis=1) == clip.shape[1] - 1).sum())
            self._frames += n
            self._repeated += repeated_words(reference.split(), words)
            self._hypothesis_words += len(words)

    def add_loss(self, losses: Tensor) -> None:
        """losses [B], nats."""
        self._loss += float(losses.sum())
        self._losses += len(losses)

    def join(self, ranks: Ranks) -> None:
        """Take in what the other processes measured on their shares; all of them call this."""
        for part in ranks.gather(self._hypotheses):
            self._hypotheses |= part
        mine = [
            *(self._words, self._ctc_words, self._letters),
            *(
                self._blank_frames,
                self._frames,
                self._repeated,
                self._hypothesis_words,
                self._loss,
                self._losses,
            ),
        ]
        words, ctc_words, letters, *numbers = (
            sum(parts[1:], parts[0]) for parts in zip(*ranks.gather(mine), strict=True)
        )
        self._words, self._ctc_words, self._letters = words, ctc_words, letters
        self._blank_frames, self._frames, self._repeated, self._hypothesis_words, self._loss, self._losses = (
            numbers
        )

    def transcripts(self, segments: Sequence[Segment], spelling: str) -> list[ScoredClip]:
        """The transducer's hypothesis of each clip that could be read, in the order of the set's segments."""
        places = sorted(self._hypotheses)
        reference = [(segments[place].text,) for place in places]
        scores = score_clips(reference, [self._hypotheses[place] for place in places], spelling)
        return [ScoredClip(segments[place], score) for place, score in zip(places, scores, strict=True)]

    def measures(self) -> dict[str, float]:
        """The validation keys of `metrics.jsonl`; rates are fractions."""
        nothing = self._words.reference_length == 0  # every clip was unreadable: no rate, not a perfect one
        return {
            "wer": math.nan if nothing else self._words.rate,
            "ctc_wer": math.nan if nothing else self._ctc_words.rate,
            "cer": math.nan if nothing else self._letters.rate,
            "loss": self._loss / self._losses if self._losses else float("nan"),
            "blank_share": self._blank_frames / max(1, self._frames),
            "repeat_share": self._repeated / max(1, self._hypothesis_words),
            "length_ratio": self._words.hypothesis_length / max(1, self._words.reference_length),
        }
