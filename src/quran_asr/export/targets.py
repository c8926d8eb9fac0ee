"""Other runtimes that a model can be exported for. No torch: `quran-asr --help` reads the names."""

from __future__ import annotations

TARGETS = {"sherpa": "quran_asr.export.sherpa:write_sherpa"}
"""Name -> function(model, shape, folder, look_ahead_frames), imported when the target is chosen.

It writes the model, in evaluation mode on the CPU, for one look-ahead (encoder frames) into
`<bundle>/<name>/<look-ahead>ms`.
"""
