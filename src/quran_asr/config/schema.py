"""The keys of a recipe: NeMo's under NeMo's names, our own under `quran`, with types and ranges.

The classes have no defaults, since `recipes/base.yaml` has a value for every key; only augmentations have
one, which turns them off. `config/validation.py` reads the types and turns a YAML tree into these records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a key takes."""

    low: float | None = None
    high: float | None = None
    low_is_allowed: bool = True

    def fault(self, number: float) -> str:
        """What is wrong with a number, as the end of a sentence; empty when it is fine."""
        if self.low is not None and number < self.low:
            return f"must be at least {self.low:g}" if self.low_is_allowed else f"must be above {self.low:g}"
        if self.low is not None and number == self.low and not self.low_is_allowed:
            return f"must be above {self.low:g}"
        if self.high is not None and number > self.high:
            return f"must be at most {self.high:g}"
        return ""


PositiveInt = Annotated[int, Range(low=1)]
CountInt = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(low=0, low_is_allowed=False)]
NotNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(low=0, high=1)]
PositiveShare = Annotated[float, Range(low=0, high=1, low_is_allowed=False)]
Hertz = Annotated[float, Range(low=0, high=8000, low_is_allowed=False)]
Limit = Annotated[int, Range(low=-1)]
"""-1 means no limit, as in Lightning."""
RoomSeconds = Annotated[float, Range(low=0.1, high=2)]
Level = Annotated[float, Range(low=-90, high=0)]
Decibels = Annotated[float, Range(low=-60, high=120)]


@dataclass(frozen=True, slots=True)
class TrainData:
    """`model.train_ds`"""

    manifest_filepath: str | tuple[str, ...] | None
    """One manifest, a list, or null when `train --train` names it."""
    batch_size: PositiveInt
    """Clips in a batch on one GPU; the most clips where `batch_duration` is given."""
    batch_duration: Positive | None
    """Seconds of padded audio in a batch; null for a fixed number of clips."""
    max_duration: Positive
    """Seconds; longer clips are left out, counted and weighed in hours."""
    min_duration: NotNegative
    """Seconds; shorter clips are left out, of validation too."""
    num_workers: CountInt

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifests as a tuple, whichever way they were written."""
        return _as_tuple(self.manifest_filepath)


@dataclass(frozen=True, slots=True)
class ValidationData:
    """`model.validation_ds`"""

    manifest_filepath: str | tuple[str, ...] | None
    """One manifest, a list, or null when `train --validation` names it."""
    batch_size: PositiveInt
    max_duration: Positive | None
    """Seconds; null keeps every clip."""
    num_workers: CountInt

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifests as a tuple, whichever way they were written."""
        return _as_tuple(self.manifest_filepath)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """`model.tokenizer`"""

    dir: str | None
    """Folder of a finished tokenizer; null trains one on all 6,236 verses."""
    type: Literal["bpe"]


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """`model.preprocessor`: log-mel features, as `AudioToMelSpectrogramPreprocessor` makes them."""

    features: PositiveInt
    """Mel bins."""
    window_size: Positive
    """Seconds."""
    window_stride: Positive
    """Seconds from one frame to the next."""
    window: Literal["hann"]
    n_fft: PositiveInt
    dither: NotNegative
    normalize: Literal["NA"]
    """Not normalized: a stream has no whole recording to normalize by."""
    pad_to: CountInt
    log: bool


@dataclass(frozen=True, slots=True)
class SpecAugment:
    """`model.spec_augment`"""

    freq_masks: CountInt
    freq_width: CountInt
    """Widest mask, mel bins."""
    time_masks: CountInt
    """For every clip, of whatever length; two are better for clips under 10 s."""
    time_width: Share
    """Widest mask, share of the clip."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """`model.encoder`: a cache-aware streaming FastConformer (`ConformerEncoder`)."""

    n_layers: PositiveInt
    d_model: PositiveInt
    n_heads: PositiveInt
    """Must divide `d_model`."""
    ff_expansion_factor: PositiveInt
    use_bias: bool
    """Biases in the feed-forward, attention and convolution modules."""
    subsampling: Literal["dw_striding"]
    subsampling_factor: Literal[2, 4, 8, 16]
    subsampling_conv_channels: PositiveInt
    causal_downsampling: bool
    att_context_size: tuple[tuple[int, int], ...]
    """[left, right] encoder frames for each look-ahead that is trained; the first is the default."""
    att_context_probs: tuple[Share, ...] | None
    """Probability of each look-ahead; null for equal ones."""
    att_context_style: Literal["chunked_limited"]
    self_attention_model: Literal["rel_pos"]
    untie_biases: bool
    pos_emb_max_len: PositiveInt
    xscaling: bool
    """Multiply the input of the layers by the square root of `d_model`."""
    conv_kernel_size: PositiveInt
    conv_norm_type: Literal["layer_norm", "batch_norm"]
    conv_context_size: Literal["causal"]
    dropout: Share
    dropout_pre_encoder: Share
    dropout_emb: Share
    dropout_att: Share


@dataclass(frozen=True, slots=True)
class PredNet:
    """`model.decoder.prednet`"""

    pred_hidden: PositiveInt
    pred_rnn_layers: PositiveInt
    dropout: Share


@dataclass(frozen=True, slots=True)
class Decoder:
    """`model.decoder`: the prediction network of the transducer."""

    prednet: PredNet


@dataclass(frozen=True, slots=True)
class JointNet:
    """`model.joint.jointnet`"""

    joint_hidden: PositiveInt
    activation: Literal["relu", "sigmoid", "tanh"]
    dropout: Share


@dataclass(frozen=True, slots=True)
class Joint:
    """`model.joint`"""

    fused_batch_size: PositiveInt | None
    """Clips whose joint and transducer loss are computed at a time; null for all. Only memory and speed."""
    jointnet: JointNet


@dataclass(frozen=True, slots=True)
class Greedy:
    """`model.decoding.greedy`"""

    max_symbols: PositiveInt
    """Most tokens that the transducer may emit in one frame."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """`model.decoding`"""

    greedy: Greedy


@dataclass(frozen=True, slots=True)
class AuxCTC:
    """`model.aux_ctc`"""

    ctc_loss_weight: Share
    """Loss = (1 - weight) x transducer + weight x CTC."""


@dataclass(frozen=True, slots=True)
class WarpRNNT:
    """`model.loss.warprnnt_numba_kwargs`: NeMo's name, whatever engine computes the loss."""

    fastemit_lambda: NotNegative


@dataclass(frozen=True, slots=True)
class Loss:
    """`model.loss`"""

    warprnnt_numba_kwargs: WarpRNNT


@dataclass(frozen=True, slots=True)
class Sched:
    """`model.optim.sched`: how the learning rate moves with the optimizer steps."""

    name: Literal["NoamAnnealing", "CosineAnnealing", "PolynomialHoldDecayAnnealing"]
    warmup_steps: CountInt
    """Optimizer steps."""
    min_lr: NotNegative
    hold_ratio: Share | None
    """Share of all steps for which PolynomialHoldDecayAnnealing stays at the peak; null for the others."""
    power: Positive
    """Exponent of PolynomialHoldDecayAnnealing's fall; the others do not use it."""


@dataclass(frozen=True, slots=True)
class Optim:
    """`model.optim`"""

    name: Literal["adamw", "muon"]
    """`muon` updates the matrices of the encoder's layers by Muon and all other parameters by AdamW."""
    lr: Positive
    """The peak rate; with NoamAnnealing a multiplier (`plan` shows the peak that follows)."""
    betas: tuple[Share, Share]
    weight_decay: NotNegative
    sched: Sched


@dataclass(frozen=True, slots=True)
class Model:
    """`model`"""

    sample_rate: Literal[16000]
    train_ds: TrainData
    validation_ds: ValidationData
    tokenizer: Tokenizer
    preprocessor: Preprocessor
    spec_augment: SpecAugment
    encoder: Encoder
    decoder: Decoder
    joint: Joint
    decoding: Decoding
    aux_ctc: AuxCTC
    loss: Loss
    optim: Optim


@dataclass(frozen=True, slots=True)
class Trainer:
    """`trainer`: Lightning's keys."""

    devices: PositiveInt
    """GPUs of each machine that the recipe was made for; training uses what is there."""
    num_nodes: PositiveInt
    """Machines; more than one is started by torchrun or SLURM."""
    accelerator: Literal["auto", "cpu", "gpu"]
    max_epochs: Limit
    max_steps: Limit
    """Optimizer steps; training ends at whichever limit comes first."""
    precision: Literal[32, "bf16-mixed"]
    accumulate_grad_batches: PositiveInt
    gradient_clip_val: NotNegative
    log_every_n_steps: PositiveInt
    """Optimizer steps."""
    val_check_interval: PositiveInt | PositiveShare
    """A share of an epoch (1.0) or a number of batches (500)."""
    check_val_every_n_epoch: PositiveInt | Literal["auto"] | None
    """auto: as often as takes 3 % of the time. Both it and null count `val_check_interval` across epochs."""


@dataclass(frozen=True, slots=True)
class CheckpointCallback:
    """`exp_manager.checkpoint_callback_params`"""

    monitor: Literal["val_wer"]
    mode: Literal["min"]
    save_top_k: PositiveInt


@dataclass(frozen=True, slots=True)
class ExpManager:
    """`exp_manager`"""

    exp_dir: str
    """Run folders are `<exp_dir>/<name>/<date_time>/`."""
    resume_from_checkpoint: str | None
    """A run's `.ckpt` resumes that run; a `.nemo` starts a new one from its weights and tokens."""
    create_tensorboard_logger: bool
    checkpoint_callback_params: CheckpointCallback


@dataclass(frozen=True, slots=True)
class Curriculum:
    """`quran.curriculum`: short clips and CTC first, for short budgets from random weights."""

    first_seconds: Positive
    """Longest clip until CTC has left its plateau."""
    plateau: Share
    """The plateau is left when CTC, running mean a token, is below this share of the tokens' entropy."""
    latest_step: CountInt
    """Optimizer step at which the next stage begins even if the plateau was not left."""
    growth_steps: CountInt
    """Optimizer steps in which the longest clip then grows linearly to `max_duration`."""
    ctc_loss_weight: Share
    """Weight of CTC when the transducer joins; falls linearly to `model.aux_ctc.ctc_loss_weight`."""


@dataclass(frozen=True, slots=True)
class Augment:
    """`quran.augment`: changes of the waveform. The defaults change nothing."""

    gain_db: Annotated[float, Range(low=0, high=60)] = 0.0
    """Each clip is made louder or softer by up to this much."""
    level_db: tuple[Level, Level] | None = None
    """Each clip is brought to a level (RMS, dB below full scale) drawn between these; null keeps its own."""
    clip_probability: Share = 0.0
    """The clip of an overdriven microphone: 6 to 18 dB of its peaks are cut off."""
    silence_probability: Share = 0.0
    """Share of clips with silence or room tone before them and, drawn independently, after them."""
    silence_seconds: tuple[NotNegative, NotNegative] = (0.0, 1.5)
    """Its length is drawn between these."""
    tight_probability: Share = 0.0
    """The silence that a clip begins and ends with is cut off to within 20 ms of the voice."""
    lowpass_probability: Share = 0.0
    lowpass_hz: tuple[Hertz, Hertz] = (2500.0, 8000.0)
    """The cut-off is drawn between these."""
    speed: tuple[Annotated[float, Range(low=0.5, high=2)], ...] = (1.0,)
    """Factors drawn with equal probability; [1.0] changes nothing. The pitch and timbre change too."""
    tempo: tuple[Annotated[float, Range(low=0.4, high=2)], ...] = (1.0,)
    """Factors like those of `speed` that leave the voice as it is: slower and faster recitation."""
    voice: tuple[Annotated[float, Range(low=0.5, high=2)], ...] = (1.0,)
    """Factors like those of `speed` that leave the tempo as it is: above 1 for higher voices, such as those
    of women and children."""
    equalizer_db: Annotated[float, Range(low=0, high=40)] = 0.0
    """The spectrum of each clip is bent by up to this much, independently in each octave."""
    noise_probability: Share = 0.0
    """Steady noise, of a colour between white and brown."""
    noise_snr_db: tuple[Decibels, Decibels] = (5.0, 30.0)
    """Level of the clip over that of the noise, drawn between these."""
    room_probability: Share = 0.0
    """The clip as recorded in one of 64 simulated rooms."""
    room_seconds: tuple[RoomSeconds, RoomSeconds] = (0.2, 0.8)
    """Reverberation time (until 60 dB less are left) of the rooms, drawn between these."""
    codec_probability: Share = 0.0
    """The clip after MP3, Vorbis or GSM telephony coding."""
    windows: PositiveInt = 1
    """Up to so many consecutive whole verses of a named reciter are a clip too, behind the basmala where a
    surah begins and the reciter has 1:1; 1: each alone."""


@dataclass(frozen=True, slots=True)
class Quran:
    """`quran`: keys that NeMo does not have."""

    spelling: Literal["uthmani", "diacritized", "letters"]
    vocabulary_size: Annotated[int, Range(low=40, high=8000)]
    """Tokens of the BPE vocabulary, without the blank."""
    seed: CountInt
    initialization: Literal["data", "nemo"]
    """Of the subsampling, for random starts: `data` scales it by a batch before step 1."""
    max_skipped_batches: PositiveInt
    """Batches in a row with NaN or infinite loss or gradient after which training stops with a diagnosis."""
    overfit_gate_steps: CountInt
    """Steps in which one batch must be overfitted before training begins; 0 leaves the gate out."""
    stop_on: tuple[()] | tuple[str, ...]
    """Codes of diagnostics (`watch`) that end the training, its last checkpoint written, with exit code 1."""
    checkpoint_minutes: Positive
    """`last.ckpt` is written at every validation and this often in between: what a power cut costs."""
    curriculum: Curriculum | None
    augment: Augment | None
    audio_cache_gb: NotNegative
    """Decoded clips are kept in memory up to this, and never in more than half of what is free."""
    activation_checkpointing: bool
    """Run each encoder layer again in the backward pass instead of keeping what it computed."""
    copied_rate: PositiveShare
    """Tensors of the encoder that came from the start learn at this share of the rate of the others."""
    unfreeze_after: CountInt
    """Optimizer steps for which they are frozen; their rate then rises over as many as the warm-up has."""
    weight_average: Annotated[float, Range(low=0, high=0.99999)]
    """Decay per optimizer step of the running mean of the weights that is validated and kept; 0: none."""
    prefix_resets: Share
    """Share of clips in which the prediction network restarts at some word, as it does after a pause."""
    prefix_noise: Share
    """Share of wrong tokens that the prediction network reads in training, so that it relies on the audio."""
    consistency: NotNegative
    """Weight, beside that of CTC, of the agreement between two views of each clip behind different masks of
    SpecAugment (arXiv:2410.05101; there 0.2). A step then costs twice as much; 0: one view."""
    average: CountInt
    """At the end the mean of this many best checkpoints is evaluated; kept if its WER is lower. 0: none."""

    @property
    def views(self) -> int:
        """How often a training step sees each clip, each time behind other masks."""
        return 2 if self.consistency else 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """All settings of a training."""

    name: str
    init_from_pretrained_model: str | None
    """A published model, a Hugging Face id, a `.nemo`, a run, a bundle, or `default`: that in the package.

    null starts from random weights.
    """
    model: Model
    trainer: Trainer
    exp_manager: ExpManager
    quran: Quran

    @property
    def effective_batch(self) -> int:
        """Clips (at most, where batches are filled by seconds) behind one optimizer step, as designed."""
        trainer = self.trainer
        processes = trainer.devices * trainer.num_nodes
        return self.model.train_ds.batch_size * processes * trainer.accumulate_grad_batches


def _as_tuple(manifests: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if manifests is None:
        return ()
    return (manifests,) if isinstance(manifests, str) else manifests
