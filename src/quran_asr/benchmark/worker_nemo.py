"""The NeMo worker of the runtime benchmark: `transcribe`, and cache-aware streaming.

Streaming follows NeMo's example `speech_to_text_cache_aware_streaming_infer.py`: all audio goes into a
`CacheAwareStreamingAudioBuffer`, which passes the features chunk by chunk to `conformer_stream_step`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer
from omegaconf import open_dict

from quran_asr.benchmark.runtime_worker import RuntimeWorker, Shown
from quran_asr.records import SAMPLE_RATE
from quran_asr.training.model import look_aheads, set_look_ahead
from quran_asr.training.recognizer import restore
from quran_asr.training.trainer import quiet

if TYPE_CHECKING:
    from quran_asr.records import Samples

BATCH = 4
"""NeMo's own default in `transcribe`."""


class NeMo:
    def __init__(self, setup: dict[str, Any]) -> None:
        torch.set_num_threads(setup["threads"])
        with quiet():
            self.model: Any = restore(Path(setup["model"])).eval()
        with open_dict(self.model.cfg):
            self.model.cfg.setdefault("validation_ds", {})  # `transcribe` asks it for an option
        self.look_aheads = look_aheads(self.model)

    def whole(self, files: Sequence[str]) -> list[str]:
        set_look_ahead(self.model, next(iter(self.look_aheads.values())))
        with quiet():
            found = self.model.transcribe(list(files), batch_size=BATCH, verbose=False)
        return [hypothesis.text for hypothesis in found]

    @torch.inference_mode()
    def listen(self, recordings: Sequence[Samples], look_ahead_ms: int, piece: int | None) -> Iterator[Shown]:
        del piece  # the buffer cuts
        model = self.model
        set_look_ahead(model, self.look_aheads[look_ahead_ms])
        model.encoder.setup_streaming_params()
        buffer = CacheAwareStreamingAudioBuffer(model=model, online_normalization=False)
        for recording in recordings:
            buffer.append_audio(recording, stream_id=-1)
        preprocessor = model.cfg.preprocessor
        channel, time, length = model.encoder.get_initial_cache_state(batch_size=len(recordings))
        tokens = hypotheses = None
        for features, lengths in buffer:
            first = buffer.step == 1
            tokens, texts, channel, time, length, hypotheses = model.conformer_stream_step(
                processed_signal=features,
                processed_signal_length=lengths,
                cache_last_channel=channel,
                cache_last_time=time,
                cache_last_channel_len=length,
                keep_all_outputs=buffer.is_buffer_empty(),
                previous_hypotheses=hypotheses,
                previous_pred_out=tokens,
                drop_extra_pre_encoded=0 if first else model.encoder.streaming_cfg.drop_extra_pre_encoded,
                return_transcription=True,
            )
            # The last feature frame is centred in its window.
            needed = (buffer.buffer_idx - 1) * preprocessor.window_stride + preprocessor.window_size / 2
            yield Shown(min(needed, len(recordings[0]) / SAMPLE_RATE), [text.text for text in texts])


@contextmanager
def load(setup: dict[str, Any]) -> Iterator[RuntimeWorker]:
    """For `benchmark.worker`."""
    yield RuntimeWorker(NeMo(setup))
