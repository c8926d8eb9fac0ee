"""A trained model as a recognizer in torch.

A model that can be fed chunk by chunk is searched as its bundle is (`StreamingRecognizer`), so both give the
same words of recordings of any length. One that needs whole recordings, as most published models, transcribes
long ones in parts (`OfflineRecognizer`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from quran_asr import audio
from quran_asr.config.architecture import of_nemo
from quran_asr.config.recipe import load_recipe
from quran_asr.decoding import ctc
from quran_asr.decoding.options import DEFAULT_DECODER, PAUSE_SECONDS, Decoding
from quran_asr.decoding.vocabulary import WORD_START, Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.run_folder import open_run
from quran_asr.files import temporary_folder
from quran_asr.records import SAMPLE_RATE, Hypothesis, Segment, Transcript
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.text.spelling import SPELLINGS, alphabet, edition_of
from quran_asr.training.checkpoints import model_weights
from quran_asr.training.model import (
    EncDecHybridRNNTCTCBPEModel,
    build_model,
    frame_seconds,
    look_aheads,
    set_look_ahead,
)
from quran_asr.training.nemo_archive import Archive, extract_tokenizer, read_archive, read_weights
from quran_asr.training.streaming import TorchNetworks, check_features, describe, model_shape

if TYPE_CHECKING:
    from quran_asr.records import Samples

WINDOW = 64
"""Clips sorted by length together, so that little is padding and answers still come early."""
WINDOW_SECONDS = 600.0
"""Audio in memory of models that take many recordings at once, unless one alone is longer."""
HELD_SECONDS = 1800.0
"""Audio that waits to be sorted."""
BATCH_SECONDS = 120.0
"""Padded audio in one pass of the encoder."""
LONGEST_SECONDS = 90.0
"""A longer recording is cut at its pauses: attention needs memory with the square of the length."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of one clip that is recognized in one pass."""

    clip: int
    offset: float
    """Seconds into the clip."""
    samples: Samples


class StreamingRecognizer(Recognizer):
    """The recognizer of a bundle with networks in torch, of many recordings at once."""

    def recognize_clips(
        self,
        segments: Sequence[Segment],
        on_progress: Callable[[int, int], None] | None = None,
        on_seconds: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | QuranAsrError]:
        """As the recognizer of a bundle; `on_seconds` is called when a group of segments is done."""
        done = 0
        for window in windows(segments):
            streams = [self.stream(where=segment.place) for segment in window]
            errors: dict[int, QuranAsrError] = {}
            for i, (segment, stream) in enumerate(zip(window, streams, strict=True)):
                try:
                    stream.push(audio.read(segment.audio, segment.offset, segment.duration or None))
                    stream.end()
                except QuranAsrError as error:
                    errors[i] = error
            self.engine.advance([stream for i, stream in enumerate(streams) if i not in errors])
            if on_seconds is not None:
                on_seconds(sum(s.duration for i, s in enumerate(window) if i not in errors))
            for i, stream in enumerate(streams):
                yield errors.get(i) or stream.error or stream.transcript
                done += 1
                if on_progress is not None:
                    on_progress(done, len(segments))


def windows(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Segments to recognize together: at most `WINDOW`, and `WINDOW_SECONDS` unless one alone is longer."""
    window: list[Segment] = []
    seconds = 0.0
    for segment in segments:
        if window and (len(window) == WINDOW or seconds + segment.duration > WINDOW_SECONDS):
            yield window
            window, seconds = [], 0.0
        window.append(segment)
        seconds += segment.duration
    if window:
        yield window


class OfflineRecognizer:
    """Greedy recognition of whole recordings, cut at pauses where they are long."""

    def __init__(
        self, model: EncDecHybridRNNTCTCBPEModel, name: str, decoder: str, look_ahead_ms: int | None
    ) -> None:
        """A model in evaluation mode, on the device where it is to run; see `recognizer_of`.

        Raises:
            QuranAsrError: the decoder cannot search whole recordings.
        """
        if decoder not in ("transducer", "ctc"):
            raise QuranAsrError(
                f"the model needs whole recordings, which {decoder} cannot search",
                where=name,
                remedy="use transducer or ctc",
            )
        context = chosen_context(model, name, look_ahead_ms)
        set_look_ahead(model, context)
        self.model = model
        self.name = name
        self.decoder = decoder
        self.look_ahead_ms: int | None = None
        if context[1] >= 0:
            self.look_ahead_ms = round(1000 * frame_seconds(model)) * context[1]
        self.vocabulary = vocabulary_of(model)
        self.spelling = spelling_of(model)
        self.edition = edition_of(self.spelling)
        self.training_data: Path | None = None

    def recognize_clips(
        self,
        segments: Sequence[Segment],
        on_progress: Callable[[int, int], None] | None = None,
        on_seconds: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | QuranAsrError]:
        """One answer a segment, in their order; audio that cannot be read gives the error itself.

        Args:
            segments: stretches of any length: no more than about half an hour is in memory.
            on_progress: called with (done, segments) after each.
            on_seconds: called with the seconds of audio that were recognized since the last call.
        """
        given = held = 0
        stretches: list[Stretch] = []
        parts: dict[int, list[tuple[float, Transcript]]] = {}
        errors: dict[int, QuranAsrError] = {}

        def recognize_held() -> None:
            nonlocal held
            for stretch, transcript in zip(stretches, self._recognize(stretches), strict=True):
                parts.setdefault(stretch.clip, []).append((stretch.offset, transcript))
            stretches.clear()
            if on_seconds is not None and held:
                on_seconds(held / SAMPLE_RATE)
            held = 0

        for i, segment in enumerate(segments):
            try:
                for offset, samples in cut_at_pauses(_blocks(segment)):
                    stretches.append(Stretch(i, offset, samples))
                    held += len(samples)
                    if held > HELD_SECONDS * SAMPLE_RATE:
                        recognize_held()
            except QuranAsrError as error:
                errors[i] = error
            if i + 1 < min(given + WINDOW, len(segments)):
                continue
            recognize_held()
            for clip in range(given, i + 1):
                found = sorted(parts.pop(clip, []), key=lambda part: part[0])
                yield errors.get(clip) or Transcript(
                    " ".join(transcript.text for _, transcript in found if transcript.text),
                    tuple(word for _, transcript in found for word in transcript.words),
                )
                if on_progress is not None:
                    on_progress(clip + 1, len(segments))
            given = i + 1

    def text_of(self, samples: Samples) -> str:
        """The words of a recording, float32 [samples] at 16 kHz."""
        stretches = [Stretch(0, offset, part) for offset, part in cut_at_pauses([samples])]
        return " ".join(transcript.text for transcript in self._recognize(stretches) if transcript.text)

    def _recognize(self, stretches: Sequence[Stretch]) -> list[Transcript]:
        """Transcripts in the order of the stretches, recognized in batches of similar length."""
        order = sorted(range(len(stretches)), key=lambda i: len(stretches[i].samples))
        transcripts: list[Transcript | None] = [None] * len(stretches)
        batch: list[int] = []
        for place, i in enumerate(order):
            batch.append(i)
            following = order[place + 1] if place + 1 < len(order) else None
            room = BATCH_SECONDS * SAMPLE_RATE
            if following is None or len(stretches[following].samples) * (len(batch) + 1) > room:
                for j, transcript in zip(
                    batch, self._recognize_batch([stretches[j] for j in batch]), strict=True
                ):
                    transcripts[j] = transcript
                batch = []
        return [transcript for transcript in transcripts if transcript is not None]

    @torch.inference_mode()
    def _recognize_batch(self, stretches: Sequence[Stretch]) -> list[Transcript]:
        lengths = torch.tensor([len(stretch.samples) for stretch in stretches])
        padded = torch.zeros(len(stretches), max(1, int(lengths.max())))
        for row, stretch in zip(padded, stretches, strict=True):
            row[: len(stretch.samples)] = torch.from_numpy(stretch.samples)
        device = next(self.model.parameters()).device
        features, feature_lengths = self.model.preprocessor(
            input_signal=padded.to(device), length=lengths.to(device)
        )
        encoded, frames = self.model.encoder(audio_signal=features, length=feature_lengths)
        search = self._transducer if self.decoder == "transducer" else self._ctc
        seconds = frame_seconds(self.model)
        return [
            Transcript(
                self.vocabulary.text(hypothesis.tokens),
                self.vocabulary.words(hypothesis, seconds, offset=stretch.offset),
            )
            for stretch, hypothesis in zip(stretches, search(encoded, frames), strict=True)
        ]

    def _transducer(self, encoded: Tensor, frames: Tensor) -> list[Hypothesis]:
        found = self.model.decoding.rnnt_decoder_predictions_tensor(
            encoder_output=encoded, encoded_lengths=frames, return_hypotheses=True
        )
        return [
            Hypothesis(
                tuple(int(token) for token in hypothesis.y_sequence),
                tuple(int(frame) for frame in hypothesis.timestamp),
                float(hypothesis.score),
            )
            for hypothesis in found
        ]

    def _ctc(self, encoded: Tensor, frames: Tensor) -> list[Hypothesis]:
        scores = self.model.ctc_decoder(encoder_output=encoded).float().cpu().numpy()
        return [ctc.greedy(clip[:n]) for clip, n in zip(scores, frames.tolist(), strict=True)]


AnyRecognizer = StreamingRecognizer | OfflineRecognizer


def load_recognizer(
    model: Path,
    decoder: str | None = None,
    look_ahead_ms: int | None = None,
    pause_seconds: float | None = PAUSE_SECONDS,
) -> AnyRecognizer:
    """A recognizer from a `.nemo`, a `.ckpt` of a run, or a run folder (its best).

    Args:
        model: what to load.
        decoder: one of `DECODERS`; `transducer` or `ctc` of a model that needs whole recordings. None takes
            the beam search over the transducer, or greedy search where there is none.
        look_ahead_ms: one of the model's look-aheads; None takes the widest.
        pause_seconds: after which the search restarts; None: never, and never in a model that
            needs whole recordings.

    Raises:
        QuranAsrError: nothing loadable there, or the model lacks what is asked for.
    """
    loaded, model = load_model(model)
    recognizer = recognizer_of(loaded, str(model), decoder, look_ahead_ms, pause_seconds)
    training_data = model.parent.parent / "training_data.json"
    recognizer.training_data = training_data if training_data.is_file() else None
    return recognizer


def recognizer_of(
    model: EncDecHybridRNNTCTCBPEModel,
    name: str,
    decoder: str | None = None,
    look_ahead_ms: int | None = None,
    pause_seconds: float | None = PAUSE_SECONDS,
) -> AnyRecognizer:
    """A recognizer of a model in memory, which is moved to the GPU if there is one; see `load_recognizer`.

    Raises:
        QuranAsrError: an unknown decoder, or a look-ahead that the model was not trained for.
    """
    decoding = Decoding(decoder or DEFAULT_DECODER, pause_seconds=pause_seconds)
    chosen_context(model, name, look_ahead_ms)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        shape = model_shape(model, name)
        bundle = describe(model, name, spelling_of(model), shape, Path(name), {})
        check_features(model, bundle.features, name)
    except QuranAsrError:
        return OfflineRecognizer(model, name, decoder or "transducer", look_ahead_ms)
    networks = TorchNetworks(model, shape)
    return StreamingRecognizer(bundle, decoding, look_ahead_ms, networks=networks)


def chosen_context(model: EncDecHybridRNNTCTCBPEModel, name: str, look_ahead_ms: int | None) -> list[int]:
    """The attention context of a look-ahead; None takes the widest.

    Raises:
        QuranAsrError: the model was not trained for it; names those that it has.
    """
    available = look_aheads(model)
    chosen = next(iter(available)) if look_ahead_ms is None else look_ahead_ms
    if chosen not in available:
        known = ", ".join(f"{ms} ms" if ms >= 0 else "whole recording" for ms in available)
        raise QuranAsrError(
            f"the model has no look-ahead of {chosen} ms", where=name, remedy=f"it has: {known}"
        )
    return available[chosen]


def load_model(path: Path) -> tuple[EncDecHybridRNNTCTCBPEModel, Path]:
    """The model of a `.nemo`, a `.ckpt` of a run, or a run folder (its best), and the file it came from.

    Raises:
        QuranAsrError: nothing loadable there.
    """
    if path.is_dir():
        path = open_run(path).model_file()
    if not path.is_file():
        raise QuranAsrError("no such model", where=str(path), remedy="give a .nemo, a .ckpt or a run folder")
    return (restore(path) if path.suffix == ".nemo" else restore_checkpoint(path)), path


def vocabulary_of(model: EncDecHybridRNNTCTCBPEModel) -> Vocabulary:
    return Vocabulary(tuple(model.tokenizer.ids_to_tokens(range(model.tokenizer.vocab_size))))


def spelling_of(model: EncDecHybridRNNTCTCBPEModel) -> str:
    """The spelling that a model writes: that of its archive, else the one that its alphabet shows."""
    stored = model.cfg.get("quran")
    if stored is not None and "spelling" in stored:
        return str(stored.spelling)
    pieces = vocabulary_of(model).pieces
    letters = {letter for piece in pieces if piece != "<unk>" for letter in piece} - {WORD_START}
    for spelling in sorted(SPELLINGS, key=lambda name: len(alphabet(name))):
        if letters <= alphabet(spelling):
            return spelling
    return "diacritized"


def _blocks(segment: Segment) -> Iterator[Samples]:
    duration = segment.duration or None
    if duration is not None and duration <= LONGEST_SECONDS:
        yield audio.read(segment.audio, segment.offset, duration)
    else:
        yield from audio.read_blocks(segment.audio, LONGEST_SECONDS, segment.offset, duration)


def cut_at_pauses(blocks: Iterable[Samples]) -> Iterator[tuple[float, Samples]]:
    """(seconds, samples) of parts no longer than about 30 s; audio up to 90 s stays whole.

    Cuts lie in the quietest tenth of a second between 20 and 30 s after the last one.

    Args:
        blocks: of the audio, one after another; as much is in memory as a block and 90 s.
    """
    hop = SAMPLE_RATE // 10
    held = np.zeros(0, np.float32)
    start = 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) // hop > 300 and (start or len(held) > LONGEST_SECONDS * SAMPLE_RATE):
            cut = 200 * hop + hop * int(
                np.square(held[200 * hop : 300 * hop]).reshape(-1, hop).mean(1).argmin()
            )
            yield start / SAMPLE_RATE, held[:cut]
            start, held = start + cut, held[cut:]
    if len(held) or not start:
        yield start / SAMPLE_RATE, held


def restore(path: Path) -> EncDecHybridRNNTCTCBPEModel:
    """The hybrid model of an archive. NeMo builds it from our own configuration and gets no file of it.

    Raises:
        QuranAsrError: refused, no hybrid transducer + CTC model, or weights of another one.
    """
    archive = read_archive(path)
    if not archive.model_class.endswith(".EncDecHybridRNNTCTCBPEModel"):
        raise QuranAsrError(
            f"holds a {archive.model_class.rsplit('.', 1)[-1]}, not a hybrid transducer + CTC model",
            where=str(path),
            remedy="start a training from it with init_from_pretrained_model",
        )
    weights = read_weights(archive)
    _refuse_larger(archive, weights)
    with temporary_folder() as folder:
        extract_tokenizer(archive, folder)
        config = {**archive.config, "tokenizer": {"dir": str(folder), "type": "bpe"}}
        try:
            with warnings.catch_warnings():  # torch on the dropout of a one-layer LSTM
                warnings.simplefilter("ignore")
                model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(config))
            model.load_state_dict(weights)
        except Exception as error:  # NeMo raises whatever its parts raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
            raise QuranAsrError(
                f"NeMo cannot restore it ({reason})",
                where=str(path),
                remedy="fetch or copy it again, or use another model",
            ) from error
    return model


def _refuse_larger(archive: Archive, weights: Mapping[str, Tensor]) -> None:
    """A small file may not describe a model that fills the memory: what is built is what has weights."""
    described = of_nemo(archive.config, len(archive.pieces or ()), str(archive.path)).shapes()
    built, held = sum(map(math.prod, described.values())), sum(tensor.numel() for tensor in weights.values())
    if built > 2 * held:
        raise QuranAsrError(
            f"describes a model of {built:,} parameters and has {held:,}",
            where=str(archive.path),
            remedy="do not use this archive",
        )


def restore_checkpoint(path: Path) -> EncDecHybridRNNTCTCBPEModel:
    """The model of a `.ckpt`, built from the recipe of the run in whose `checkpoints` it lies.

    Raises:
        QuranAsrError: it lies in no run, cannot be read, or has other tensors than the recipe's model.
    """
    if not (path.parent.parent / "recipe.yaml").is_file():
        raise QuranAsrError(
            "neither a .nemo archive nor a .ckpt in the `checkpoints` folder of its run",
            where=str(path),
            remedy="a .ckpt holds weights only and stays in its run; the run's .nemo can go anywhere",
        )
    weights = model_weights(path)
    run = open_run(path.parent.parent)
    model = build_model(load_recipe(str(run.path / "recipe.yaml")), run.tokenizer)
    put_weights(model, weights, path)
    return model


def put_weights(model: EncDecHybridRNNTCTCBPEModel, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a model; `path` is named where they do not fit.

    Raises:
        QuranAsrError: a tensor is missing, too many, or of another shape.
    """
    own = model.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [
        name for name, tensor in own.items() if tensor.shape != weights[name].shape
    ]
    if wrong:
        raise QuranAsrError(
            f"does not fit the recipe of its run: {len(wrong)} tensors differ, the first {wrong[0]}",
            where=str(path),
            remedy="use a checkpoint that this run wrote",
        )
    model.load_state_dict(dict(weights))
