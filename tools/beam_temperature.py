"""WER of `transducer-beam` at several temperatures. Clips are encoded once for each look-ahead.

python tools/beam_temperature.py MANIFEST TEMPERATURE... [--model BUNDLE] [--look-ahead MS]... [--width N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quran_asr.corpus.manifest import read_manifest
from quran_asr.decoding.options import BEAM, Decoding
from quran_asr.evaluation.scoring import score_clips
from quran_asr.runtime.n_best import decode, encode
from quran_asr.runtime.recognizer import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("temperatures", type=float, nargs="+", metavar="TEMPERATURE")
    parser.add_argument("--model", type=Path, help="a bundle; default: that of the package")
    parser.add_argument(
        "--look-ahead", type=int, action="append", metavar="MS", help="default: all of the model"
    )
    parser.add_argument("--width", type=int, default=BEAM, metavar="N", help=f"of the beam; default: {BEAM}")
    given = parser.parse_args()
    print("look-ahead", *(f"{one:>7g}" for one in given.temperatures))
    for look_ahead_ms in given.look_ahead or load(given.model).bundle.look_aheads_ms:
        recognizer = load(given.model, look_ahead_ms=look_ahead_ms, threads=1)
        clips = read_manifest(given.manifest, recognizer.spelling)
        encoded = [encode(recognizer, clip) for clip in clips]
        references = [(clip.text, *clip.also_accept) for clip in clips]
        rates = []
        for temperature in given.temperatures:
            texts = list(decode(recognizer, encoded, Decoding(temperature=temperature, beam=given.width)))
            words = [score.words for score in score_clips(references, texts, recognizer.spelling)]
            rates.append(sum(one.errors for one in words) / sum(one.reference_length for one in words))
        print(f"{look_ahead_ms:>7} ms", *(f"{rate:7.4f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
