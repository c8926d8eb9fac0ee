"""A stranger's `model_config.yaml`, rebuilt from a schema: nothing of it reaches NeMo as it was written.

NeMo makes of a configuration whatever it names: any class of its own, with any argument, under `_target_`, or
under the older `target`, `cls` and `params`. A tokenizer class among them runs Python from the hub, others
write and delete files. So a configuration is not searched for what is known to be dangerous. It must consist
of the keys below, which are those of the published FastConformers from NeMo 1.x to 3.0 and of our own models;
values are numbers within bounds, true, false, null or words of a list; and the result is built from the
checked values alone.
"""

from __future__ import annotations

from typing import Any

import yaml

from quran_asr.errors import QuranAsrError
from quran_asr.training.archive_schema import OF_MODEL, InvalidValue, shown

MODELS = {
    "EncDecHybridRNNTCTCBPEModel": "hybrid_rnnt_ctc_bpe_models",
    "EncDecRNNTBPEModel": "rnnt_bpe_models",
    "EncDecCTCModelBPE": "ctc_bpe_models",
}
"""Class -> its module below `nemo.collections.asr.models`."""
DEEPEST = 20
"""Levels of a configuration; the published ones have 6."""
LONGEST_PLAIN = 20_000
"""Characters of a value without quotes, of which YAML tries whether it is a number or a date."""
FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""YAML's loader in C where there is one; both build plain values only."""


def parse(content: bytes, where: str) -> Any:
    """The plain values of a YAML file; nothing in it is expanded.

    Raises:
        QuranAsrError: not YAML, or YAML with anchors, tags or a depth that no configuration has.
    """
    try:
        text = content.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=FAST):  # flat, so that no depth is too deep to be refused
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise _refused("aliases in the configuration", where)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif (
                isinstance(event, yaml.ScalarEvent) and event.implicit[0] and len(event.value) > LONGEST_PLAIN
            ):
                raise _refused("a value of too many characters", where)
            if depth > DEEPEST:
                raise _refused("sections within sections without end", where)
        return yaml.load(text, Loader=FAST)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:80]
        raise QuranAsrError(f"not a configuration ({reason})", where=where) from None


def rebuild(config: Any, where: str) -> dict[str, Any]:
    """The configuration of a FastConformer, rebuilt from its known keys.

    Args:
        config: plain values, as `parse` gives them.
        where: its file, for errors.

    Returns:
        The same keys and values in NeMo's order of sections, without data, optimizer and vocabulary: NeMo
        takes the vocabulary from the tokenizer.

    Raises:
        QuranAsrError: another model, or a key or value that such a model does not have; names it.
    """
    if not isinstance(config, dict):
        raise _refused("the configuration is not a mapping", where)
    named = config.get("target")
    if not isinstance(named, str):
        raise QuranAsrError("names no model class (`target`)", where=where)
    module, _, name = named.rpartition(".")
    models = "nemo.collections.asr.models"
    if name not in MODELS or module not in (models, f"{models}.{MODELS[name]}"):
        raise _refused(f"`target: {shown(named)}` is not {', '.join(MODELS)}", where)
    try:
        rebuilt: dict[str, Any] = OF_MODEL[name].fit(config, "")
    except InvalidValue as error:
        raise _refused(str(error), where) from None
    rebuilt["target"] = f"{models}.{MODELS[name]}.{name}"
    if "joint" in rebuilt:
        rebuilt["decoding"] = _greedily(rebuilt.get("decoding"))
    if "aux_ctc" in rebuilt:
        rebuilt["aux_ctc"]["decoding"] = {"strategy": "greedy_batch"}
    for head in (rebuilt["decoder"], rebuilt.get("aux_ctc", {}).get("decoder", {})):
        if head.get("_target_", "").endswith("ConvASRDecoder"):
            head |= {"num_classes": -1, "vocabulary": []}
    return rebuilt


def _greedily(decoding: dict[str, Any] | None) -> dict[str, Any]:
    """NeMo's greedy search, as many symbols a frame as the model's own."""
    greedy = (decoding or {}).get("greedy") or {}
    symbols = greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or 10
    return {
        "strategy": "greedy_batch",
        "preserve_alignments": False,
        "greedy": {"max_symbols": symbols, "use_cuda_graph_decoder": False},
    }


def _refused(why: str, where: str) -> QuranAsrError:
    return QuranAsrError(
        f"refused: {why}",
        where=where,
        remedy="use a FastConformer with a transducer or CTC decoder, published or trained here",
    )
