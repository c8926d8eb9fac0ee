"""The checks that need torch, each with a planted fault."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quran_asr import audio
from quran_asr.config.architecture import of_recipe
from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.checks.data import Data, ctc_feasible, known_characters, round_trip
from quran_asr.records import Segment
from quran_asr.training import checks
from quran_asr.training import checks as loss_check
from quran_asr.training import checks as preflight
from quran_asr.training.checks import (
    check_loss,
    check_start,
    diagnose,
    gate_clips,
    overfit_gate,
    torch_environment,
)
from quran_asr.training.data.batches import Batch
from quran_asr.training.loss.transducer import transducer_loss
from quran_asr.training.memory import heaviest
from quran_asr.training.model import build_model
from quran_asr.training.module import Losses, TrainingModule
from quran_asr.training.nemo_archive import read_archive
from quran_asr.training.tokenizer import Tokenizer, train_tokenizer

CPU = torch.device("cpu")


# --- texts ------------------------------------------------------------------------------------------


def test_the_tokenizer_keeps_what_it_should_and_a_foreign_one_is_named(
    tiny: Recipe, segments: list[Segment], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    data = Data(tuple(segments), tuple(segments))
    assert [o.status for o in round_trip(tiny, tokenizer, data)] == ["pass"]
    foreign = train_tokenizer("diacritized", 64, tmp_path / "foreign")
    given = replace(
        tiny, model=replace(tiny.model, tokenizer=replace(tiny.model.tokenizer, dir=str(foreign.folder)))
    )
    statuses = {o.status: o for o in round_trip(given, foreign, data)}
    assert "quran.vocabulary_size=64" in statuses["warning"].remedy


def test_characters_that_the_tokenizer_lacks_are_named_with_the_line(
    tiny: Recipe, spoken: Path, segments: list[Segment], tokenizer: Tokenizer
) -> None:
    strange = [*segments[:2], replace(segments[2], text=segments[2].text + "ڤ"), *segments[3:]]
    outcome = known_characters(tiny, tokenizer, Data(tuple(strange), tuple(segments)))
    assert outcome.status == "failure"
    assert "`ڤ` (U+06A4)" in outcome.message
    assert f"{spoken}:3" in outcome.message
    assert known_characters(tiny, tokenizer, Data(tuple(segments), ())).status == "pass"


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("causal", [True, False])
def test_frames_in_closed_form_are_those_of_the_model(
    tiny: Recipe, tokenizer: Tokenizer, factor: int, causal: bool
) -> None:
    encoder = replace(tiny.model.encoder, subsampling_factor=factor, causal_downsampling=causal)
    recipe = replace(tiny, model=replace(tiny.model, encoder=encoder))
    model = build_model(recipe, tokenizer.folder).eval()
    lengths = torch.tensor([1600, 4000, 15_999, 16_000, 16_159, 16_160, 33_333])
    with torch.no_grad():
        features, n = model.preprocessor(
            input_signal=torch.randn(len(lengths), int(lengths.max())), length=lengths
        )
        _, frames = model.encoder(audio_signal=features, length=n)
    built = of_recipe(recipe.model, tokenizer.size)
    assert [built.frames(int(samples) / 16_000) for samples in lengths] == frames.tolist()


def test_clips_too_short_for_their_tokens_are_weighed(
    tiny: Recipe, spoken: Path, segments: list[Segment], tokenizer: Tokenizer
) -> None:
    assert ctc_feasible(tiny, tokenizer, segments).status == "pass"
    hurried = replace(segments[0], duration=0.3)
    outcome = ctc_feasible(tiny, tokenizer, [hurried, *segments[1:]])
    assert outcome.status == "failure"  # one of twelve
    assert "1 of 12" in outcome.message
    assert "nobody recites that fast" in outcome.remedy
    rare = ctc_feasible(tiny, tokenizer, [hurried, *(99 * segments[1:])])
    assert rare.status == "pass"
    coarse = replace(tiny.model.encoder, subsampling_factor=16)
    slow = [replace(s, duration=len(s.text) / 12) for s in segments]
    outcome = ctc_feasible(replace(tiny, model=replace(tiny.model, encoder=coarse)), tokenizer, slow)
    assert outcome.status == "failure"
    assert "model.encoder.subsampling_factor" in outcome.remedy


def test_a_repeated_token_needs_a_frame_more(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    """torch's own CTC says which clips have an alignment."""
    built = of_recipe(tiny.model, tokenizer.size)
    for seconds in np.arange(0.4, 1.6, 0.08):
        segment = replace(segments[0], duration=float(seconds), text="ممم مما سسا لل")
        tokens = torch.tensor([tokenizer.encode(segment.text)])
        frames = built.frames(segment.duration)
        scores = torch.zeros(frames, 1, tokenizer.size + 1).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(
            scores, tokens, torch.tensor([frames]), torch.tensor([tokens.shape[1]]), blank=tokenizer.size
        )
        possible = ctc_feasible(tiny, tokenizer, [segment]).message.startswith("frames >=")
        assert possible == math.isfinite(float(loss))


# --- machine and loss -------------------------------------------------------------------------------


def test_what_torch_lacks_is_reported_with_its_remedy(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(checks, "DRIVER", tmp_path / "none")
    assert torch_environment(tiny.trainer)[0].status == "pass"
    (tmp_path / "driver").write_text("NVRM version")
    monkeypatch.setattr(checks, "DRIVER", tmp_path / "driver")
    (outcome,) = torch_environment(tiny.trainer)
    assert outcome.status == "warning"
    assert "driver" in outcome.message
    wants = replace(tiny, trainer=replace(tiny.trainer, accelerator="gpu"))
    assert torch_environment(wants.trainer)[0].status == "failure"


def test_a_loss_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_loss(CPU).status == "pass"
    monkeypatch.setattr(loss_check, "transducer_loss", lambda *given: transducer_loss(*given) * 1.01)
    assert check_loss(CPU).status == "failure"

    def doubled(*given: Any) -> torch.Tensor:
        loss = transducer_loss(*given)
        return 2 * loss - loss.detach()

    monkeypatch.setattr(loss_check, "transducer_loss", doubled)  # the right value with a wrong gradient
    assert check_loss(CPU).status == "failure"


# --- start ------------------------------------------------------------------------------------------


def start(recipe: Recipe, tokenizer: Tokenizer, segments: Sequence[Segment], archive: Path | None = None):
    tables: list[str] = []
    opened = None if archive is None else read_archive(archive)
    return check_start(recipe, tokenizer, segments, opened, allow_partial=False, report=tables.append), tables


@pytest.mark.slow
def test_a_random_start_lets_a_signal_through_or_is_reported(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    outcome, _ = start(tiny, tokenizer, segments)
    assert outcome.status == "pass"
    wide = replace(tiny.model.encoder, subsampling_conv_channels=32)
    stock = replace(
        tiny, quran=replace(tiny.quran, initialization="nemo"), model=replace(tiny.model, encoder=wide)
    )
    outcome, _ = start(stock, tokenizer, segments)
    assert outcome.status == "warning"
    assert outcome.remedy == "quran.initialization=data"


@pytest.mark.slow
def test_a_pretrained_start_arrives_whole_or_fails(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment], tmp_path: Path
) -> None:
    model = build_model(tiny, tokenizer.folder)
    model.save_to(str(tmp_path / "same.nemo"))
    outcome, tables = start(tiny, tokenizer, segments, tmp_path / "same.nemo")
    assert outcome.status == "pass"
    assert "100.0 % of the encoder" in outcome.message
    assert "copied" in tables[0]
    with torch.no_grad():
        model.encoder.layers[0].norm_out.weight[0] = math.nan
    model.save_to(str(tmp_path / "nan.nemo"))
    outcome, _ = start(tiny, tokenizer, segments, tmp_path / "nan.nemo")
    assert outcome.status == "failure"
    assert "encoder.layers.0.norm_out.weight" in outcome.message
    wider = replace(tiny, model=replace(tiny.model, encoder=replace(tiny.model.encoder, d_model=48)))
    with pytest.raises(QuranAsrError, match="of the encoder's parameters would arrive"):
        start(wider, tokenizer, segments, tmp_path / "same.nemo")


# --- memory -----------------------------------------------------------------------------------------


def test_the_heaviest_batch_is_as_full_as_the_recipe_allows() -> None:
    recipe = load_recipe("quickstart", ["model.train_ds.batch_size=4", "model.train_ds.batch_duration=20"])
    seconds, tokens = [2.0, 6.0, 5.0, 6.0, 9.0, 5.5], [500, 10, 10, 11, 5, 12]
    longest = heaviest(recipe.model.train_ds, recipe.quran.augment, seconds, tokens)[0]
    assert longest.seconds == (9.0, 6.0)  # three would be 27 s with padding
    by_clips = load_recipe(
        "quickstart", ["model.train_ds.batch_size=4", "model.train_ds.batch_duration=null"]
    )
    longest, richest = heaviest(by_clips.model.train_ds, by_clips.quran.augment, seconds, tokens)
    assert longest.seconds == (9.0, 6.0, 6.0, 5.5)
    assert richest.tokens == (500,)  # no other clip of about its length


MEASURE = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from quran_asr.corpus.manifest import read_manifest
from quran_asr.config.recipe import load_recipe
from quran_asr.training import memory as heaviest_batch
from quran_asr.training.tokenizer import Tokenizer

words = ["quran.vocabulary_size=48", "model.train_ds.batch_duration=null", "model.train_ds.batch_size=16"]
recipe, tokenizer = load_recipe("quickstart", words), Tokenizer(Path(sys.argv[2]))
clips = [replace(read_manifest(sys.argv[1], "letters")[0], duration=6.0)] * 16

def outcome(free, seconds):
    heaviest_batch.available_memory, heaviest_batch.CPU_SECONDS = lambda: free, seconds
    outcome = heaviest_batch.check_memory(recipe, tokenizer, clips, torch.device("cpu"))
    return [outcome.status, outcome.message, outcome.remedy]

outcomes = [outcome(100_000_000_000, 1000.0), outcome(100_000_000_000, 1.0)]  # a busy machine measures, too
print(json.dumps([*outcomes, outcome(100_000_000, 1.0)]))
"""


@pytest.mark.slow
def test_estimated_memory_is_near_the_measured_and_a_lack_fails(spoken: Path, tokenizer: Tokenizer) -> None:
    """In a process of its own, as `check` has: earlier tests keep freed memory in this one."""
    command = [sys.executable, "-c", MEASURE, str(spoken), str(tokenizer.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured, estimated, lacking = json.loads(done.stdout.splitlines()[-1])

    def taken(message: str) -> float:
        number, unit = message.split(" takes ")[1].split()[:2]
        return float(number) * {"GB": 1e9, "MB": 1e6}[unit]

    assert (measured[0], estimated[0]) == ("pass", "pass")
    assert "(measured)" in measured[1] and "(estimated" in estimated[1]
    assert taken(estimated[1]) == pytest.approx(taken(measured[1]), rel=0.5)
    assert lacking[0] == "failure"
    assert "trainer.accumulate_grad_batches=" in lacking[2]


# --- the gate ---------------------------------------------------------------------------------------


@pytest.fixture
def learner(spoken: Path) -> Recipe:
    return load_recipe(
        "quickstart", ["quran.vocabulary_size=48", f"model.train_ds.manifest_filepath={spoken}"]
    )


def test_the_gate_takes_clips_with_words_of_their_own(
    learner: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    chosen = gate_clips(learner.model, tokenizer, segments)
    assert len({segment.text for segment in chosen}) == 4
    assert len(gate_clips(learner.model, tokenizer, [s for s in segments if s.text == segments[0].text])) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("silence", "are silent"),
        ("texts of others", "do the texts belong to the recordings"),
        ("rate 0", "nothing is learned at all"),
        ("loss upside down", "a loss below 0"),
    ],
)
def test_the_gate_stops_what_cannot_be_learned(
    learner: Recipe,
    tokenizer: Tokenizer,
    segments: list[Segment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    cause: str,
) -> None:
    clips = gate_clips(learner.model, tokenizer, segments)
    if fault == "silence":
        audio.write(tmp_path / "silence.wav", np.zeros(3 * 16_000, dtype=np.float32))
        clips = [replace(clip, audio=str(tmp_path / "silence.wav"), duration=2.0) for clip in clips]
    elif fault == "texts of others":  # the same recording under two texts
        clips = [clips[0], replace(clips[0], text=clips[1].text)]
    elif fault == "rate 0":
        monkeypatch.setattr(preflight, "GATE_RATE", 0.0)
    else:
        right = TrainingModule.losses

        def wrong(self: TrainingModule, batch: Batch) -> Losses:
            transducer, ctc, consistency = right(self, batch)
            assert transducer is not None
            return Losses(-transducer, -ctc, consistency)

        monkeypatch.setattr(TrainingModule, "losses", wrong)
    gate = overfit_gate(learner, tokenizer, clips, 20)
    outcome = diagnose(gate, len(clips))
    assert outcome.status == "failure", outcome
    assert cause in outcome.remedy, outcome


@pytest.mark.slow
def test_the_gate_passes_what_can_learn(
    learner: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    clips = gate_clips(learner.model, tokenizer, segments)
    gate = overfit_gate(learner, tokenizer, clips, 200)
    assert gate.passed, gate
    assert gate.wer == gate.ctc_wer == 0
    assert gate.last_loss < 0.2 * gate.first_loss
    assert diagnose(gate, 4).status == "pass"
