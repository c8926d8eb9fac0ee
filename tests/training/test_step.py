"""A training step: it waits for no device, its gradients are clipped by the norm that is known, and layers
that run again change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.experiments.planning import cost
from quran_asr.experiments.run_folder import create_run
from quran_asr.records import Segment
from quran_asr.training.data.batches import ClipSet, collate, tokenize
from quran_asr.training.diagnostics import DiagnosticsCallback
from quran_asr.training.distributed import Ranks
from quran_asr.training.loss import joint as transducer_joint
from quran_asr.training.loss import lattice
from quran_asr.training.metrics import Metrics
from quran_asr.training.model import build_model, frame_counts
from quran_asr.training.module import TrainingModule
from quran_asr.training.optimizer import Gradients
from quran_asr.training.tokenizer import Tokenizer
from quran_asr.training.trainer import make_trainer

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "item", "unique")
"""Operations that need a value, or a shape that hangs on one: on a GPU the process waits for it."""


class Waits(TorchDispatchMode):
    """Notes operations for which a process waits, from one batch's start to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if self.active and name in WAITS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Between(lightning.Callback):
    """The first batch settles what is known from then on."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.waits.active = batch_idx > 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.waits.active = False


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_that_writes_no_line_waits_for_no_device(
    spoken: Path, segments: list[Segment], tokenizer: Tokenizer, tiny_overrides: tuple[str, ...],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulated: int,
) -> None:  # fmt: skip
    """Forward, both losses, backward, judging, clipping, AdamW and the metrics, as a GPU would run them."""
    for part in (lattice, transducer_joint):
        monkeypatch.setattr(part, "free_to_read", lambda device: False)

    def waited(log_every: int) -> list[str]:
        recipe = load_recipe(
            "quickstart",
            [
                *tiny_overrides,
                f"model.train_ds.manifest_filepath={spoken}",
                "quran.curriculum=null",
                "model.train_ds.batch_size=2",
                "model.encoder.dropout=0.1",
                "model.joint.jointnet.dropout=0.2",
                "model.spec_augment.time_masks=2",
                f"trainer.accumulate_grad_batches={accumulated}",
                f"trainer.log_every_n_steps={log_every}",
                f"trainer.max_steps={6 // accumulated}",
                "trainer.check_val_every_n_epoch=null",
            ],
        )
        run = create_run(tmp_path, "run")
        clips = ClipSet(
            tokenize(segments, tokenizer), cache_bytes=1 << 30, training=True, augment=recipe.quran.augment
        )
        module = TrainingModule(
            build_model(recipe, tokenizer.folder), recipe, clips, clips, lambda finding: None
        )
        waits = Waits()
        metrics = Metrics(
            run, lambda progress: None, DiagnosticsCallback(run, recipe, [], lambda finding: None), 0.0
        )
        trainer = make_trainer(recipe, run, [metrics, Between(waits)], lambda finding: None, Ranks(), 0)
        with waits:
            trainer.fit(module)
        assert trainer.global_step == 6 // accumulated
        return waits.seen

    assert waited(log_every=100) == []
    assert waited(log_every=1) != [], "where a line is written it waits: the test can fail"


class NoAutocast:
    """torch has no autocast for tensors without data."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: Any) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_reads_nothing_of_tensors_that_hold_no_data(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment], monkeypatch: pytest.MonkeyPatch,
    accumulated: int,
) -> None:  # fmt: skip
    """On the `meta` device every reading raises, however it is done: what a GPU would make us wait for."""
    for place in (torch, torch.amp, torch.amp.autocast_mode):
        monkeypatch.setattr(place, "autocast", NoAutocast)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device=None: False)
    # torch's own CTC does not run there: a sum takes its place
    monkeypatch.setattr(torch.nn.functional, "ctc_loss", lambda scores, *_, **__: scores.sum((0, 2)))
    joint = replace(tiny.model.joint, jointnet=replace(tiny.model.joint.jointnet, dropout=0.0))
    recipe = replace(
        tiny,
        quran=replace(tiny.quran, curriculum=None),
        model=replace(tiny.model, joint=joint),
        trainer=replace(tiny.trainer, accumulate_grad_batches=accumulated),
    )
    clips = ClipSet(tokenize(segments[:3], tokenizer), cache_bytes=1 << 30)
    module = TrainingModule(build_model(recipe, tokenizer.folder), recipe, clips, clips, lambda finding: None)
    batch = collate([clips[i] for i in range(3)])
    module.train().losses(batch)  # the first batch settles that frames are computed rightly
    module = module.to("meta")
    optimizer = module.configure_optimizers()["optimizer"]
    monkeypatch.setattr(TrainingModule, "global_step", 5)
    for place in range(2 * accumulated):
        there = batch.to(torch.device("meta"))
        module.on_train_batch_start(there, place)
        loss = module.training_step(there, place)
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]
        module.on_after_backward()
        if (place + 1) % accumulated == 0:
            module.on_before_optimizer_step(optimizer)
            module.configure_gradient_clipping(optimizer, 1.0)
    assert module.means.sums.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        module.stop_if_all_is_skipped(there)  # reads: where a line is written


def test_clipping_by_the_known_norm_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(n, 3)) for n in (4, 1, 7)] for _ in range(2))
    gradients = Gradients(torch.nn.ParameterList(ours), 1)
    gradients.begin(0)
    for one, other in zip(ours, theirs, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    gradients.diagnose()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    assert torch.equal(gradients.norm, norm)
    gradients.clip(1.0)
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("bad", [[0], [1], [0, 1]])
def test_a_step_is_made_with_the_usable_batches_of_its_window_and_not_at_all_without(bad: list[int]) -> None:
    """Gradients of a window stay in place until the next one's first backward pass, as with Lightning."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    gradients = Gradients(torch.nn.ParameterList([weight]), 2)

    def window(bad: list[int]) -> None:
        for place in range(2):
            gradients.begin(place)
            before = None if place == 0 or weight.grad is None else weight.grad
            found = torch.full((3,), float("inf") if place in bad else 1.0 + place)
            weight.grad = found if before is None else before + found
            gradients.diagnose()
        gradients.decide(optimizer)
        optimizer.step()

    window([])
    before, state = weight.detach().clone(), optimizer.state[weight]
    moments = state["exp_avg"].clone()
    window(bad)
    assert weight.grad is not None
    left = sum(1.0 + place for place in range(2) if place not in bad)
    assert torch.equal(weight.grad, torch.full((3,), left))
    assert float(gradients.norm) == pytest.approx(left * 3**0.5)
    assert gradients.skipped == len(bad)
    if len(bad) == 2:
        assert torch.equal(weight, before)
        assert torch.equal(state["exp_avg"], moments)
        assert float(state["step"]) == 1
        assert gradients.skipped_in_a_row()[0] == 2
    else:
        assert not torch.equal(weight, before)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_frames_are_known_before_the_encoder_has_run(
    tiny: Recipe, tokenizer: Tokenizer, causal: bool
) -> None:
    recipe = replace(
        tiny,
        model=replace(tiny.model, encoder=replace(tiny.model.encoder, causal_downsampling=causal)),
    )
    model = build_model(recipe, tokenizer.folder).eval()
    lengths = [1600 + 97 * i for i in range(160)]
    audio = torch.zeros(len(lengths), max(lengths))
    with torch.no_grad():
        features, frames = model.preprocessor(input_signal=audio, length=torch.tensor(lengths))
        _, frames = model.encoder(audio_signal=features, length=frames)
    assert frame_counts(model, lengths).tolist() == frames.tolist()


@pytest.mark.slow
def test_layers_that_run_again_give_the_same_loss_gradients_and_names(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    encoder = replace(tiny.model.encoder, n_layers=8, dropout=0.2, dropout_att=0.2)
    plain = replace(tiny, model=replace(tiny.model, encoder=encoder))
    frugal = replace(plain, quran=replace(plain.quran, activation_checkpointing=True))
    clips = ClipSet(tokenize(segments[:3], tokenizer), cache_bytes=1 << 30)
    found = []
    for recipe in (plain, frugal):
        lightning.seed_everything(3, verbose=False)
        module = TrainingModule(
            build_model(recipe, tokenizer.folder), recipe, clips, clips, lambda finding: None
        ).train()
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            transducer, ctc, _ = module.losses(collate([clips[i] for i in range(3)]))
        assert transducer is not None
        loss = transducer.mean() + ctc.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        names = list(module.model.state_dict())
        found.append((loss.detach(), [p.grad for p in module.model.parameters()], names, kept))
    (loss, gradients, names, much), (same, again, named, little) = found
    assert torch.equal(loss, same)
    for one, other in zip(gradients, again, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert names == named
    assert little < 0.6 * much


def test_the_plan_knows_that_layers_run_again() -> None:
    frugal, plain = (
        load_recipe("low-memory", [f"quran.activation_checkpointing={word}"]) for word in ("true", "false")
    )
    batch = cost.Batch(16, 10.0)
    assert cost.step_memory(frugal, batch).activations < 0.5 * cost.step_memory(plain, batch).activations
    assert load_recipe("low-memory") == frugal
