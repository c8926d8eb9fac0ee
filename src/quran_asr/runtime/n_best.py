"""N-best lists of recordings, and decoding of whole recordings from stored encoder outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from quran_asr import audio
from quran_asr.decoding.decoder import build_decoder
from quran_asr.decoding.options import BEAMS
from quran_asr.decoding.partial import OpenWords, add_tokens
from quran_asr.errors import QuranAsrError
from quran_asr.records import Alternative, Transcript

if TYPE_CHECKING:
    from quran_asr.decoding.decoder import BeamDecoder, EncoderOutput
    from quran_asr.decoding.options import Decoding
    from quran_asr.records import Samples, Segment
    from quran_asr.runtime.recognizer import Recognizer


def recognize_n_best(
    recognizer: Recognizer, segment: Segment, count: int, *, rescore: bool = False
) -> Transcript:
    """The words of a recording, with the most probable texts as `n_best`.

    Args:
        recognizer: with a beam search.
        segment: the recording.
        count: largest length of the list, and smallest beam.
        rescore: search without the language model, and sort the list with it afterwards.

    Raises:
        QuranAsrError: the recording cannot be read, or the decoder is not a beam search.
    """
    decoder = _beam_decoder(recognizer)
    return _n_best(recognizer, decoder, encode(recognizer, segment), count, rescore=rescore)


def rescored_text(recognizer: Recognizer, samples: Samples, count: int) -> str:
    """The text of samples, float32 at 16 kHz, that `recognize_n_best` with `rescore` gives."""
    decoder = _beam_decoder(recognizer)
    return _n_best(recognizer, decoder, encode_samples(recognizer, samples), count, rescore=True).text


def _beam_decoder(recognizer: Recognizer) -> BeamDecoder:
    name = recognizer.decoding.decoder
    if name not in BEAMS.values():
        raise QuranAsrError(f"the decoder {name} has no n-best list", remedy=f"use {BEAMS['transducer']}")
    return cast("BeamDecoder", recognizer.engine.decoder)


def _n_best(
    recognizer: Recognizer, decoder: BeamDecoder, encoded: EncoderOutput, count: int, *, rescore: bool
) -> Transcript:
    vocabulary, seconds = recognizer.bundle.vocabulary, recognizer.bundle.frame_seconds
    found = decoder.n_best(encoded, 2 * count, rescoring=rescore)
    texts: dict[str, Alternative] = {}
    for candidate in found:  # one text may have several token sequences
        text = vocabulary.text(candidate.hypothesis.tokens)
        texts.setdefault(text, Alternative(text, candidate.hypothesis.score, candidate.acoustic))
    words = vocabulary.words(found[0].hypothesis, seconds)
    return Transcript(" ".join(word.text for word in words), words, n_best=tuple(texts.values())[:count])


def recognize_clips_n_best(
    recognizer: Recognizer,
    segments: Sequence[Segment],
    on_progress: Callable[[int, int], None] | None = None,
    *,
    count: int,
    rescore: bool = False,
) -> Iterator[Transcript | QuranAsrError]:
    """`recognize_n_best` of each segment, in order; the error itself for one that cannot be read."""
    for done, segment in enumerate(segments, start=1):
        try:
            yield recognize_n_best(recognizer, segment, count, rescore=rescore)
        except QuranAsrError as error:
            yield error
        if on_progress is not None:
            on_progress(done, len(segments))


def encode(recognizer: Recognizer, segment: Segment) -> EncoderOutput:
    """The encoder's outputs for a recording, without decoding it.

    Raises:
        QuranAsrError: it cannot be read, or the scores are NaN.
    """
    samples = audio.read(segment.audio, segment.offset, segment.duration or None)
    return encode_samples(recognizer, samples, segment.place)


def encode_samples(recognizer: Recognizer, samples: Samples, where: str = "") -> EncoderOutput:
    """The same for samples, float32 at 16 kHz."""
    stream = recognizer.stream(where=where)
    stream.push(samples)
    stream.end()
    return recognizer.engine.encode(stream)


def decode(recognizer: Recognizer, encoded: Iterable[EncoderOutput], decoding: Decoding) -> Iterator[str]:
    """The text of each recording from its encoder outputs, with another decoder or language model.

    Args:
        recognizer: of the bundle; its own decoding is not used.
        encoded: of whole recordings, from `encode`.
        decoding: the decoder and its settings.

    Raises:
        QuranAsrError: a score is NaN.
    """
    decoder = build_decoder(decoding, recognizer.engine.model)
    for one in encoded:
        (found,) = decoder.step([one], [decoder.start])
        words, _ = add_tokens(
            OpenWords(),
            found.tokens,
            recognizer.bundle.vocabulary,
            recognizer.bundle.frame_seconds,
            draft=found.draft,
            ends=found.ends,
            final=True,
        )
        yield " ".join(word.text for word in words.committed)
