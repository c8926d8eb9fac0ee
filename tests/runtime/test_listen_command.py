"""`quran-asr listen` as it is typed: files, pipes, a microphone, and Ctrl-C."""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

import quran_asr
from quran_asr import audio
from quran_asr.cli.main import main
from quran_asr.errors import QuranAsrError
from quran_asr.records import Segment
from quran_asr.runtime import audio_input
from quran_asr.runtime.audio_input import piped
from quran_asr.runtime.recognizer import Replay

COMMAND = [sys.executable, "-m", "quran_asr", "listen"]


@pytest.fixture
def recording(voice: np.ndarray, tmp_path: Path) -> Path:
    audio.write(tmp_path / "a.wav", voice)
    return tmp_path / "a.wav"


def run(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["listen", *map(str, words)])
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


def test_a_file_gives_the_words_that_transcribe_gives(small_bundle, recording, capfd) -> None:
    transcript = quran_asr.load(small_bundle, look_ahead_ms=80, pause_seconds=None).recognize(recording)
    code, out, err = run(capfd, recording, "--model", small_bundle, "--look-ahead", "80", "--pause", "0")
    assert (code, out) == (0, transcript.text + "\n")
    assert err.startswith("6.0 s of audio, ")
    code, out, _ = run(
        capfd, recording, "--model", small_bundle, "--look-ahead", "80", "--pause", "0", "--json"
    )
    results = [json.loads(line) for line in out.splitlines()]
    assert [word["text"] for one in results for word in one["committed"]] == transcript.text.split()
    times = [one["time"] for one in results]
    assert times == sorted(times) and times[0] < 1.0 and times[-1] == 6.0
    assert results[0]["partial"] and not results[-1]["partial"]


@pytest.mark.slow
def test_a_pipe_gives_the_same(small_bundle, voice, recording) -> None:
    for rate in (16_000, 8_000):
        whole = np.rint(audio.resample(voice, 16_000, rate) * 32_767).astype(np.int16)
        done = subprocess.run(
            [*COMMAND, "-", "--model", str(small_bundle), "--rate", str(rate)],
            input=whole.tobytes() + b"\1",  # half a sample at the end is no sample
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        expected = quran_asr.load(small_bundle).recognize(whole, rate)
        assert done.stdout.decode().split() == expected.text.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.wav --model none", "none: no such model"),
        ("--model {bundle}", "give either a FILE or --microphone"),
        ("a.wav --microphone --model {bundle}", "give either a FILE or --microphone"),
        ("none.wav --model {bundle}", "none.wav: no such file"),
        ("page.mp3 --model {bundle}", "page.mp3: a web page, not audio"),
        (". --model {bundle}", "this is a folder"),
        ("a.wav --look-ahead 90 --model {bundle}", "no look-ahead of 90 ms"),
        ("a.wav --decoder beam --model {bundle}", "'beam' is not one of"),
        ("a.wav --pause -1 --model {bundle}", "-1"),
        ("broken.flac --model {bundle}", "broken.flac: "),
        ("a.wav --pause 1e300 --model {bundle}", "--pause"),
        ("- --rate 0 --model {bundle}", "--rate"),
        ("a.wav --rate 8000 --model {bundle}", "`--rate` applies to a pipe, and the input is a file"),
        ("a.wav --device 1 --model {bundle}", "`--device` applies to a microphone, and the input is a file"),
        (
            "a.wav --stall 3 --model {bundle}",
            "`--stall` applies to a microphone or a pipe, and the input is a file",
        ),
        ("- --real-time --model {bundle}", "`--real-time` applies to a file, and the input is a pipe"),
        (
            "--microphone --rate 8000 --model {bundle}",
            "`--rate` applies to a pipe, and the input is a microphone",
        ),
        ("a.wav --follow --at 97:9 --model {bundle}", "there is no verse 97:9: surah 97 has 5 verses"),
        ("a.wav --at 97:1 --model {bundle}", "hint: add --follow"),
        ("a.wav --model .", ".: neither a bundle nor a run: it has no bundle.json"),
        ("a.wav --model a.wav", "a.wav: neither a .nemo nor a .ckpt"),
    ],
)
def test_wrong_use_is_reported_in_one_line(
    words, message, small_bundle, recording, capfd, monkeypatch
) -> None:
    monkeypatch.chdir(recording.parent)
    Path("page.mp3").write_text("<html>not found</html>")
    audio.write("broken.flac", np.random.default_rng(0).uniform(-0.1, 0.1, 90_000).astype(np.float32))
    Path("broken.flac").write_bytes(Path("broken.flac").read_bytes()[:60_000])
    code, out, err = run(capfd, *words.format(bundle=small_bundle).split())
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err and "torch" not in err


def piped_into(small_bundle: Path, *words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, "-", "--model", str(small_bundle), *words], stdin=pipe, stdout=pipe, stderr=pipe
    )


@pytest.mark.slow
def test_a_pipe_that_stalls_and_one_that_brings_a_file_are_errors(small_bundle, voice, recording) -> None:
    process = piped_into(small_bundle, "--stall", "0.5")
    process.stdin.write((voice * 32_767).astype(np.int16).tobytes())
    process.stdin.flush()  # and is not closed
    out, err = process.stdout.read(), process.stderr.read()
    process.stdin.close()
    assert process.wait(300) == 2
    assert b"-: no audio has come for 0.5 s\nhint: look at what writes into the pipe" in err
    assert out.endswith(b"\n") or not out  # what was certain is shown, on a line of its own
    process = piped_into(small_bundle)
    _, err = process.communicate(recording.read_bytes(), timeout=300)
    assert process.returncode == 2
    assert b"wav comes, and bare 16-bit samples" in err


def samples_of(*pieces: bytes) -> list[np.ndarray]:
    """What `piped` gives of bytes that come in these pieces."""
    read, write = os.pipe()

    def play() -> None:
        with os.fdopen(write, "wb", buffering=0) as end, contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                end.write(piece)
                time.sleep(0.01)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        return list(piped(read))
    finally:
        os.close(read)
        thread.join()


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (b"  \n<!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf<HTML><body>not found", "a web page"),
        (b"\0\0\0\x20ftypM4A \0\0\2\0", "mp4"),
        (b"ID3\4\0\0\0\0\0\0", "mp3"),
        (b"RIFF\0\0\0\0WAVE", "wav"),
        (b"OggS\0\2", "ogg"),
        (b"fLaC\0\0\0\x22", "flac"),
        (audio.as_mp3(np.zeros(16_000, np.float32)), "mp3"),
        (audio.as_mp3(np.zeros(44_100, np.float32), 44_100), "mp3"),
        (b"\xff\xfb\x90\x64" + bytes(8), "mp3"),
    ],
)
def test_a_file_in_a_pipe_is_refused_however_it_comes(begin: bytes, what: str) -> None:
    for pieces in ([begin], [begin[:1], begin[1:3], begin[3:9], begin[9:]]):
        with pytest.raises(QuranAsrError, match=f"{what} comes, and bare 16-bit samples"):
            samples_of(*pieces)


def test_samples_that_look_like_a_frame_of_mp3_are_recognized() -> None:
    draw = np.random.default_rng(0).integers(-3000, 3000, 4_000).astype("<i2")
    sound = b"\xff\xfb\x90\x64" + draw.tobytes()
    assert np.concatenate(samples_of(sound[:5], sound[5:])).astype("<i2").tobytes() == sound


@pytest.mark.parametrize("sound", [b"", b"1"])
def test_a_pipe_without_sound_is_an_error(sound: bytes, small_bundle: Path) -> None:
    with pytest.raises(QuranAsrError, match="no audio came"):
        samples_of(sound)
    process = piped_into(small_bundle)
    out, err = process.communicate(sound, timeout=300)
    assert (process.returncode, out) == (2, b"") and b"error: -: no audio came" in err


def test_a_microphone_without_its_library_is_reported_before_the_model_is_loaded(
    small_bundle, capfd, monkeypatch
) -> None:
    def missing() -> None:
        raise QuranAsrError("the PortAudio library is not installed")

    def loaded(*words: Any, **settings: Any) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(audio_input, "load_backend", missing)
    monkeypatch.setattr("quran_asr.runtime.recognizer.load", loaded)
    code, out, err = run(capfd, "--model", small_bundle, "--microphone")
    assert (code, out) == (2, "") and err == "error: the PortAudio library is not installed\n"


def test_what_cannot_be_recognized_is_named(small_bundle: Path, tmp_path: Path) -> None:
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, np.full(32_000, 9_000, np.float32), 16_000, subtype="FLOAT")
    segments = [Segment(str(loud), offset, 0.5, (), "", "") for offset in (0.0, 0.5)]
    recognizer = quran_asr.load(small_bundle)
    for engine in (recognizer, Replay(recognizer)):
        errors = list(engine.recognize_clips(segments))
        assert [error.where for error in errors] == [str(loud), f"{loud} at 0.5 s"]


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": -1},
        {"threads": 1025},
        {"threads": 1.5},
        {"threads": True},
        {"look_ahead_ms": 80.0},
        {"look_ahead_ms": "80"},
        {"pause_seconds": "1"},
        {"pause_seconds": 1e18},
        {"pause_seconds": float("nan")},
    ],
)
def test_a_setting_in_python_that_is_none_is_named(settings: dict[str, Any], small_bundle: Path) -> None:
    (name,) = settings
    with pytest.raises(QuranAsrError, match=f"{name} is "):
        quran_asr.load(small_bundle, **settings)


@pytest.mark.alone
def test_ctrl_c_ends_a_file_with_its_words_so_far(small_bundle, voice, tmp_path) -> None:
    audio.write(tmp_path / "long.wav", np.tile(voice, 20))
    process = subprocess.Popen(
        [
            *COMMAND,
            *("--model", str(small_bundle)),
            str(tmp_path / "long.wav"),
            "--real-time",
            "--json",
            "--look-ahead",
            "0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = json.loads(process.stdout.readline())
    begun = time.monotonic()
    while json.loads(process.stdout.readline())["time"] < first["time"] + 0.5:
        pass
    assert time.monotonic() - begun > 0.3  # no faster than it was recited
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    last = json.loads(out.splitlines()[-1])
    assert last["committed"] and not last["partial"]
    assert b"of audio" in err and b"Traceback" not in err


class Microphone:
    """A module like sounddevice: plays a sound to the callback, then does what the test asks."""

    class PortAudioError(Exception):
        pass

    def __init__(self, sound: np.ndarray, then: Any) -> None:
        self.sound, self.then = sound, then

    def query_devices(self, device: Any = None, kind: Any = None) -> Any:
        return {"index": 0, "name": "Fake", "max_input_channels": 1, "default_samplerate": 16_000.0}

    def check_input_settings(self, **settings: Any) -> None:
        pass

    def InputStream(self, *, callback: Any, finished_callback: Any, blocksize: int, **settings: Any) -> Any:  # noqa: N802
        def play() -> None:
            for start in range(0, len(self.sound), blocksize):
                block = self.sound[start : start + blocksize, None]
                callback(block, len(block), None, SimpleNamespace(input_overflow=False))
            self.then(finished_callback)

        thread = threading.Thread(target=play)

        class Stream:
            def __enter__(self) -> None:
                thread.start()

            def __exit__(self, *error: object) -> None:
                thread.join()

        return Stream()


@pytest.fixture
def fake(voice: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def plug_in(then: Any) -> None:
        monkeypatch.setattr(audio_input, "load_backend", lambda: Microphone(voice, then))

    return plug_in


def test_a_microphone_is_recognized_until_ctrl_c(fake, small_bundle, voice, capfd) -> None:
    def press(finished: Any) -> None:
        time.sleep(1.0)
        _thread.interrupt_main()

    fake(press)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = run(capfd, "--model", small_bundle, "--microphone", "--look-ahead", "80")
    assert code == 0, err
    expected = quran_asr.load(small_bundle, look_ahead_ms=80).recognize(voice)
    half = out.split()[: len(out.split()) // 2]  # where it was cut off, words differ
    assert half and half == expected.text.split()[: len(half)]
    assert err.startswith("listening; Ctrl-C ends it\n") and " s of audio, " in err
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (lambda finished: finished(), "Fake: the microphone has gone (unplugged?)"),
        (lambda finished: None, "Fake: no audio has come for 0.4 s"),
    ],
)
def test_a_microphone_that_goes_or_stalls_is_an_error_after_its_words(
    then, message, fake, small_bundle, capfd
) -> None:
    fake(then)
    code, out, err = run(capfd, "--model", small_bundle, "--microphone", "--stall", "0.4", "--json")
    assert code == 2
    assert message in err
    assert json.loads(out.splitlines()[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_words_are_rewritten_in_place(small_bundle, recording) -> None:
    import pty

    main_end, other = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, str(recording), "--model", str(small_bundle), "--look-ahead", "0"],
        stdout=other,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "4000"},
    )
    os.close(other)
    shown = b""
    try:
        while part := os.read(main_end, 65_536):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert process.wait(300) == 0, process.stderr.read()
    results = shown.decode().split("\r\x1b[K")
    assert len(results) > 10 and any(one.endswith("]") for one in results)
    assert (
        results[-1].split() == quran_asr.load(small_bundle, look_ahead_ms=0).recognize(recording).text.split()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--at", "1:1"), "`--at` applies to --follow"),
        (("--follow", "--pause", "1"), "`--pause` does not apply to --follow"),
        (("--follow", "--decoder", "ctc"), "`--decoder` does not apply to --follow"),
    ],
)
def test_what_following_has_no_use_for_is_refused(words, message, recording, capfd) -> None:
    code, _, err = run(capfd, recording, *words)
    assert code == 2 and message in err


@pytest.mark.slow
def test_following_a_file_gives_what_python_gives(small_bundle, recording, capfd) -> None:
    from quran_asr.server.protocol import as_json

    updates = [as_json(update) for update in quran_asr.follow(recording, small_bundle)]
    samples = audio.read(recording)
    again = quran_asr.follow((samples[at : at + 1600] for at in range(0, len(samples), 1600)), small_bundle)
    finals = [one for one in updates if '"words"' in one]
    assert [one for one in map(as_json, again) if '"words"' in one] == finals
    code, out, _ = run(capfd, recording, "--follow", "--model", small_bundle, "--json")
    assert (code, out.splitlines()) == (0, updates)
