"""Quran recitation recognition: transcribe, follow, align; train, diagnose, compare and export models.

```python
import quran_asr

print(quran_asr.transcribe("recitation.mp3").text)     # with the model of the package
print(quran_asr.identify("recitation.mp3").verses)

recognizer = quran_asr.load("bundle")                  # a folder that `quran-asr export` wrote
stream = recognizer.stream()
for samples in microphone:                             # float32 or int16, any rate that is given
    result = stream.accept(samples)
    print(result.committed, result.partial)
print(stream.finish().committed)

for update in quran_asr.follow("recitation.mp3", "bundle"):  # the current word, and words that are final
    print(update)

for segment in quran_asr.align("surah36.mp3", "36", "bundle").segments:
    print(segment.verses, segment.start, segment.end)
```

Importing the package imports none of its parts and changes nothing in the program that does so: what is asked
for is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quran_asr.errors import QuranAsrError
    from quran_asr.runtime.alignment import align, identify
    from quran_asr.runtime.following import follow
    from quran_asr.runtime.recognizer import Recognizer, load, transcribe
    from quran_asr.text.quran import Quran, load_quran

__version__ = "0.1.0"

__all__ = [
    "Quran",
    "QuranAsrError",
    "Recognizer",
    "__version__",
    "align",
    "follow",
    "identify",
    "load",
    "load_quran",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    if name in ("Recognizer", "load", "transcribe"):
        from quran_asr.runtime import recognizer

        return getattr(recognizer, name)
    if name in ("align", "identify"):
        from quran_asr.runtime import alignment

        return getattr(alignment, name)
    if name == "follow":
        from quran_asr.runtime import following

        return following.follow
    if name == "QuranAsrError":
        from quran_asr.errors import QuranAsrError

        return QuranAsrError
    if name in ("Quran", "load_quran"):
        from quran_asr.text import quran

        return getattr(quran, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
