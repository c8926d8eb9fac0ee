"""What a start from a 114M archive takes: FOLDER KIND. `test_transfer.py` makes the archive and runs this."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.planning.starting_point import OFFLINE, STREAMING
from quran_asr.training.checkpoints import save_nemo
from quran_asr.training.initialization import transfer
from quran_asr.training.model import build_model, model_config
from quran_asr.training.nemo_archive import read_archive, read_weights
from quran_asr.training.tokenizer import train_tokenizer

PRE_ENCODE = "encoder.pre_encode."
OUTCOMES = ("copied", "salvaged", "fresh", "mismatched")


def offline_config(recipe: Any, tokenizer: Path) -> dict[str, Any]:
    """NeMo's offline transducer of a recipe's size: not causal, batch norm, features normalised."""
    config = model_config(recipe, tokenizer)
    del config["aux_ctc"]
    del config["quran"]
    config["preprocessor"]["normalize"] = "per_feature"
    config["encoder"] |= {
        "causal_downsampling": False,
        "att_context_size": [-1, -1],
        "att_context_probs": None,
        "att_context_style": "regular",
        "conv_norm_type": "batch_norm",
        "conv_context_size": None,
    }
    return config


def offline_archive(recipe: Any, tokenizer: Path, to: Path) -> None:
    """Write what NeMo's own class makes of it."""
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from omegaconf import OmegaConf

    EncDecRNNTBPEModel(cfg=OmegaConf.create(offline_config(recipe, tokenizer))).save_to(str(to))


def correlation(model: Any, weights: dict[str, Tensor]) -> float:
    """Of the subsampling's outputs with those of the offline model it came from, at the best time offset."""
    from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling

    theirs = ConvSubsampling("dw_striding", 8, 80, 512, 256, is_causal=False)
    named = weights.items()
    theirs.load_state_dict({n.removeprefix(PRE_ENCODE): t for n, t in named if n.startswith(PRE_ENCODE)})
    mel, lengths = torch.randn(2, 300, 80), torch.tensor([300, 300])
    with torch.no_grad():
        a, _ = theirs(mel, lengths)
        b, _ = model.encoder.pre_encode(mel, lengths)
    n = min(a.shape[1], b.shape[1]) - 1
    pairs = [(a[:, s : n + s].flatten(), b[:, t : n + t].flatten()) for s in (0, 1) for t in (0, 1)]
    return max(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs)


def make_full_size(folder: Path, kind: str) -> None:
    """Write `KIND.nemo` and the tokenizer of the model that starts from it."""
    recipe = load_recipe("transfer")
    torch.manual_seed(0)
    tokens = train_tokenizer("diacritized", 1024, folder / "tokenizer")
    if kind == "offline":
        offline_archive(recipe, tokens.folder, folder / "offline.nemo")
    else:
        save_nemo(build_model(recipe, tokens.folder), folder / "streaming.nemo")


def read(folder: Path, kind: str) -> dict[str, Any]:
    recipe = load_recipe("transfer")
    torch.manual_seed(1)
    model = build_model(recipe, folder / "tokenizer")
    built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    random_start = correlation_of(model, folder, kind)
    began = time.perf_counter()
    found = read_archive(folder / f"{kind}.nemo")
    weights = read_weights(found)
    pieces = [f"x{piece}" for piece in found.pieces or ()]  # as if it had other tokens
    planned = transfer(model, recipe.model, found.config, weights, pieces, kind)
    seconds = time.perf_counter() - began
    shapes = {n: tuple(t.shape) for n, t in weights.items() if not n.startswith("preprocessor.")}
    running = {n for n in shapes if "running_" in n or "num_batches" in n}
    expected = (OFFLINE if kind == "offline" else STREAMING).shapes()
    return {
        "seconds": round(seconds, 2),
        "built_gb": built / 1e6,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "same_shapes": {n: s for n, s in shapes.items() if n not in running} == expected,
        "running": len(running),
        "outcomes": {o: sum(t.outcome == o for t in planned.tensors) for o in OUTCOMES},
        "encoder_share": planned.encoder_share,
        "share": planned.share,
        "correlation": correlation(model, weights) if kind == "offline" else None,
        "correlation_of_a_random_start": random_start,
    }


def correlation_of(model: Any, folder: Path, kind: str) -> float | None:
    if kind != "offline":
        return None
    return correlation(model, read_weights(read_archive(folder / f"{kind}.nemo")))


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]), sys.argv[2])))
