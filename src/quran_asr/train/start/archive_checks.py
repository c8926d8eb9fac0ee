"""What a value of a stranger's configuration may be, and how it is made anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Unfit(Exception):  # noqa: N818 - a sentence's end, made an error by `archive_config.rebuild`
    """A key or value that no configuration of such a model has."""


@dataclass(frozen=True, slots=True)
class One:
    """One of some words, numbers, true, false or null."""

    choices: tuple[Any, ...]

    def fit(self, value: Any, key: str) -> Any:
        for choice in self.choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise Unfit(f"`{key}: {shown(value)}` is not one of {', '.join(map(str, self.choices))}")


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds."""

    low: float
    high: float
    whole: bool = False
    optional: bool = False

    def fit(self, value: Any, key: str) -> Any:
        if value is None and self.optional:
            return None
        if type(value) is int or (type(value) is float and not self.whole):
            if self.low <= value <= self.high:
                return value
            raise Unfit(f"`{key}: {shown(value)}` is not between {self.low:g} and {self.high:g}")
        kind = "a whole number" if self.whole else "a number"
        raise Unfit(f"`{key}: {shown(value)}` is not {kind}")


@dataclass(frozen=True, slots=True)
class Many:
    """A list of up to `most`."""

    of: Check
    most: int = 32

    def fit(self, value: Any, key: str) -> Any:
        if not isinstance(value, list) or len(value) > self.most:
            raise Unfit(f"`{key}: {shown(value)}` is not a list of up to {self.most}")
        return [self.of.fit(item, key) for item in value]


@dataclass(frozen=True, slots=True)
class Either:
    """What one of several checks takes."""

    checks: tuple[Check, ...]

    def fit(self, value: Any, key: str) -> Any:
        for check in self.checks:
            try:
                return check.fit(value, key)
            except Unfit:
                continue
        raise Unfit(f"`{key}: {shown(value)}` has no value that is known")


@dataclass(frozen=True, slots=True)
class Artifact:
    """`nemo:NAME`, a file of the archive itself."""

    def fit(self, value: Any, key: str) -> Any:
        if value is None or (isinstance(value, str) and value.startswith("nemo:") and "${" not in value):
            return value
        raise Unfit(f"`{key}: {shown(value)}` is not a file of the archive")


@dataclass(frozen=True, slots=True)
class Text:
    """A short printable text, for people."""

    def fit(self, value: Any, key: str) -> Any:
        if isinstance(value, str) and len(value) <= 200 and value.isprintable() and "${" not in value:
            return value
        raise Unfit(f"`{key}: {shown(value)}` is not a short text")


@dataclass(frozen=True, slots=True)
class Dropped:
    """Anything at all: it is handed to nobody."""

    def fit(self, value: Any, key: str) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with these keys and no others."""

    keys: Mapping[str, Check]
    needed: tuple[str, ...] = ()
    target: str = ""
    """The class of `nemo.collections.asr.modules` that it makes."""
    optional: bool = False
    """Whether null may stand in its place."""

    def fit(self, value: Any, key: str) -> Any:
        if value is None and self.optional:
            return None
        if not isinstance(value, dict):
            raise Unfit(f"`{key}: {shown(value)}` is not a section")
        inside = f"{key}." if key else ""
        rebuilt: dict[str, Any] = {}
        if self.target:
            rebuilt["_target_"] = self._class(value, inside)
        for name, held in value.items():
            if name == "_target_" and self.target:
                continue
            check = self.keys.get(name) if isinstance(name, str) else None
            if check is None:
                raise Unfit(f"`{inside}{shown(name)}` is a key that no such model has")
            if not isinstance(check, Dropped):
                if isinstance(held, str) and "${" in held:
                    raise Unfit(f"`{inside}{name}: {shown(held)}` is an interpolation")
                rebuilt[name] = check.fit(held, f"{inside}{name}")
        for name in self.needed:
            if name not in rebuilt:
                raise Unfit(f"`{inside}{name}` is missing")
        return rebuilt

    def _class(self, value: dict[Any, Any], inside: str) -> str:
        named = value.get("_target_")
        if not isinstance(named, str):
            raise Unfit(f"`{inside}_target_` is missing: it should be {self.target}")
        module, _, name = named.rpartition(".")
        modules = "nemo.collections.asr.modules"
        if name != self.target or module not in (modules, f"{modules}.{_MODULES[name]}"):
            raise Unfit(f"`{inside}_target_: {shown(named)}` is not NeMo's {self.target}")
        return f"{modules}.{name}"


def shown(value: Any) -> str:
    """A value in an error: short, and without what steers a terminal."""
    try:
        written = ascii(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return written.strip("'\"")[:60] if isinstance(value, str) else written[:60]


Check = One | Number | Many | Either | Artifact | Text | Dropped | Section

_MODULES = {
    "AudioToMelSpectrogramPreprocessor": "audio_preprocessing",
    "SpectrogramAugmentation": "audio_preprocessing",
    "ConformerEncoder": "conformer_encoder",
    "RNNTDecoder": "rnnt",
    "RNNTJoint": "rnnt",
    "ConvASRDecoder": "conv_asr",
}
