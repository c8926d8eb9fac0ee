"""What an archive from outside may hold, and what is refused before anything in it is used."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.checkpoints import _why_no_archive
from quran_asr.records import Segment
from quran_asr.tarfiles import is_archive
from quran_asr.training.checkpoints import save_nemo
from quran_asr.training.model import build_model
from quran_asr.training.nemo_archive import CONFIG, WEIGHTS, extract_tokenizer, read_archive, read_weights
from quran_asr.training.recognizer import load_recognizer, restore
from quran_asr.training.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from published_configs import as_yaml, hybrid

GOOD = as_yaml({key: value for key, value in hybrid().items() if key != "tokenizer"}).decode()


class Planted:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.flag),)


def weights(content: object = None) -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.ones(20_000)} if content is None else content, file)
    return file.getvalue()


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An archive with these files, and with `extra` members as tar has them."""

    def archive(config: str = GOOD, *extra: tarfile.TarInfo, content: bytes | None = None) -> Path:
        path = tmp_path / "model.nemo"
        with tarfile.open(path, "w") as tar:
            for name, data in ((CONFIG, config.encode()), (WEIGHTS, content or weights())):
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            for member in extra:
                tar.addfile(member, io.BytesIO(b"\0" * member.size))
        return path

    return archive


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


def test_a_good_archive_is_read(make: Make) -> None:
    archive = read_archive(make())
    assert archive.config["encoder"]["feat_in"] == 80
    assert list(read_weights(archive)) == ["a"]


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (member("../outside"), "leaves the archive"),
        (member("/etc/passwd"), "leaves the archive"),
        (member("folder/inner"), "a folder within"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "a link or device"),
        (member("hard", tarfile.LNKTYPE, "./model_config.yaml"), "a link or device"),
        (member("device", tarfile.CHRTYPE), "a link or device"),
        (member("fifo", tarfile.FIFOTYPE), "a link or device"),
        (member(CONFIG), "the same file twice"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_members_that_no_archive_has_are_refused(make: Make, extra: tarfile.TarInfo, why: str) -> None:
    path = make(GOOD, extra)
    with pytest.raises(QuranAsrError, match=why) as refused:
        read_archive(path)
    assert refused.value.where == f"{path}: {extra.name}"


def test_a_bomb_is_refused(make: Make) -> None:
    path = make(GOOD, member("zeros", size=60_000_000))
    packed = path.with_name("bomb.nemo")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert packed.stat().st_size < 1_000_000
    with pytest.raises(QuranAsrError, match="unpacks to more than"):
        read_archive(packed)


def header(name: str, kind: bytes, size: int) -> bytes:
    return member(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 512)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"x", b"g"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_claims_hundreds_of_megabytes_is_not_read(
    kind: bytes, packed: bool, tmp_path: Path
) -> None:
    size = 300_000_000
    path = tmp_path / "model.nemo"
    with gzip.open(path, "wb", compresslevel=1) if packed else path.open("wb") as file:
        file.write(header("long", kind, size))
        if packed:
            for _ in range(size // 1_000_000):
                file.write(bytes(1_000_000))
    if not packed:
        os.truncate(path, size + 512)  # a hole: it takes no room
    tracemalloc.start()
    try:
        for use in (read_archive, is_archive, lambda path: list(saved_files(path))):
            began = time.process_time()
            if use is read_archive:
                with pytest.raises(QuranAsrError, match="a header of"):
                    use(path)
            else:
                assert not use(path)
            assert time.process_time() - began < 2
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def saved_files(path: Path) -> list[str]:
    """What `checkpoints` says of a `.nemo`: why it is not one."""
    return [] if _why_no_archive(path) else [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_two_million_members_are_refused_at_once(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    thousand = b"".join(header(f"m{number}", kind, 0) for number in range(1000))
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(2000):
            file.write(thousand)
    began = time.process_time()
    with pytest.raises(QuranAsrError, match="more than 1,000 files"):
        read_archive(path)
    assert _why_no_archive(path) == "torn, or not an archive"
    assert time.process_time() - began < 2


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, b"x", b"g"])
def test_headers_that_follow_each_other_without_end_are_one_error(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    content = padded(b"a\0" if kind == tarfile.GNUTYPE_LONGNAME else b"12 path=a/b\n")
    path.write_bytes((header("h", kind, 12) + content) * 20_000)
    with pytest.raises(QuranAsrError):
        read_archive(path)
    assert not is_archive(path)


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
def test_other_compressions_are_not_opened(pack: Callable[[bytes], bytes], make: Make) -> None:
    path = make()
    path.write_bytes(pack(path.read_bytes()))
    with pytest.raises(QuranAsrError, match=r"not a whole \.nemo archive"):
        read_archive(path)
    assert not is_archive(path)


def test_a_gzipped_archive_as_older_nemo_writes_it_is_read(make: Make) -> None:
    path = make()
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_weights(read_archive(path))) == ["a"]


def test_a_configuration_of_more_than_half_a_megabyte_is_refused(make: Make) -> None:
    with pytest.raises(QuranAsrError, match=r"refused: [0-9,]+ bytes"):
        read_archive(make(GOOD + "#" * 500_000))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (GOOD + "x:\n  _target_: os.system\n", "`x` is a key"),
        (GOOD + "preprocessor: {_target_: os.system}\n", "is not NeMo's AudioToMelSpectrogramPreprocessor"),
        (GOOD.replace("target: nemo", "target: torch"), "`target: torch"),
        (GOOD + "sample_rate: ${oc.env:HOME}\n", "is an interpolation"),
        (GOOD + "'${oc.env:HOME}': 1\n", "is a key"),
        (
            GOOD + "tokenizer: {type: bpe, model_path: /etc/passwd}\n",
            "path: /etc/passwd` is not a file of the archive",
        ),
        (GOOD + "tokenizer: {type: bpe, model_path: 'nemo:missing.model'}\n", "is not a file of the archive"),
        ("[1, 2]", "not a mapping"),
        ("a: [", "not a configuration"),
        ("a: 1", "names no model class"),
    ],
)
def test_configurations_that_would_do_more_than_configure_are_refused(
    make: Make, config: str, why: str
) -> None:
    with pytest.raises(QuranAsrError, match=re.escape(why)):
        read_archive(make(config))


def test_a_small_archive_that_describes_a_model_of_gigabytes_builds_nothing(
    tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "model.nemo"
    save_nemo(build_model(tiny, tokenizer.folder), tmp_path / "ours.nemo")
    with tarfile.open(tmp_path / "ours.nemo") as source, tarfile.open(path, "w") as target:
        for one in source:
            file = source.extractfile(one)
            if file is not None:
                content = file.read()
                if one.name.endswith(CONFIG):
                    content = content.replace(b"\n  n_layers: 1\n", b"\n  n_layers: 200\n")
                    content = content.replace(b"d_model: 32\n", b"d_model: 8192\n")
                one.size = len(content)
                target.addfile(one, io.BytesIO(content))
    with pytest.raises(QuranAsrError, match="describes a model of"):
        restore(path)


@pytest.mark.parametrize("trusting", [False, True])
def test_a_planted_pickle_does_not_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusting: bool
) -> None:
    if trusting:  # torch's own switch must not open the door
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    flag = tmp_path / "it-ran"
    content = weights({"a": Planted(flag)})
    path = make(content=content)
    for use in (lambda: read_weights(read_archive(path)), lambda: restore(path)):
        with pytest.raises(QuranAsrError, match="as weights alone"):
            use()
        assert not flag.exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert flag.exists(), "loaded without care it does run: the test can fail"


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04" + b"\0" * 600])
def test_what_is_not_an_archive_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(content)
    with pytest.raises(QuranAsrError, match=r"not a whole \.nemo archive|has no"):
        read_archive(path)
    with pytest.raises(QuranAsrError, match="no such archive"):
        read_archive(tmp_path / "missing.nemo")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_torn_archive_is_reported_to_be_torn(make: Make, share: float) -> None:
    path = make()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(QuranAsrError, match="cut off"):
        read_weights(read_archive(path))


def test_a_huge_archive_of_which_little_is_left_is_cut_off_and_no_bomb(make: Make) -> None:
    path = make(content=weights({"a": torch.ones(2_000_000)}))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(QuranAsrError, match="cut off") as refused:
        read_archive(path)
    assert refused.value.remedy == "get the file again"


def test_weights_that_were_damaged_on_their_way_are_refused(make: Make) -> None:
    path = make()
    content = bytearray(path.read_bytes())
    middle = content.find(torch.ones(1000).numpy().tobytes()) + 2000
    content[middle : middle + 200] = bytes(byte ^ 0xFF for byte in content[middle : middle + 200])
    path.write_bytes(bytes(content))
    with pytest.raises(QuranAsrError, match="damaged") as refused:
        read_weights(read_archive(path))
    assert "\n" not in refused.value.what


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 10_239), st.integers(0, 255)), min_size=1, max_size=20))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_flipped_bytes_give_an_archive_or_an_error_of_ours(make: Make, flips: list[tuple[int, int]]) -> None:
    path = make()
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    path.write_bytes(bytes(content))
    try:
        read_weights(read_archive(path))
    except QuranAsrError as error:
        assert "\n" not in error.what


@pytest.mark.slow
def test_our_archives_pass_and_restore(tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = build_model(tiny, tokenizer.folder)
    save_nemo(model, tmp_path / "ours.nemo")
    archive = read_archive(tmp_path / "ours.nemo")
    assert archive.pieces == tokenizer.pieces
    found = read_weights(archive)
    assert all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())
    restored = restore(tmp_path / "ours.nemo")
    assert all(torch.equal(tensor, restored.state_dict()[n]) for n, tensor in model.state_dict().items())
    extract_tokenizer(archive, tmp_path / "tokens")
    assert Tokenizer(tmp_path / "tokens").pieces == tokenizer.pieces


@pytest.mark.slow
def test_other_models_of_nemo_are_read_but_not_restored(
    tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from nemo.collections.asr.models import EncDecCTCModelBPE
    from omegaconf import OmegaConf

    from quran_asr.training.model import model_config

    config = model_config(tiny, tokenizer.folder)
    config["decoder"] = config["aux_ctc"]["decoder"]
    config["decoding"] = {"strategy": "greedy_batch"}
    for key in ("aux_ctc", "joint", "loss"):
        del config[key]
    EncDecCTCModelBPE(cfg=OmegaConf.create(config)).save_to(str(tmp_path / "ctc.nemo"))
    archive = read_archive(tmp_path / "ctc.nemo")
    assert archive.pieces == tokenizer.pieces
    assert "decoder.decoder_layers.0.weight" in read_weights(archive)
    with pytest.raises(QuranAsrError, match="holds a EncDecCTCModelBPE"):
        load_recognizer(tmp_path / "ctc.nemo")


STOCK = """
import sys, torch

class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "quran_asr":
            raise ImportError("not here")

sys.meta_path.insert(0, Closed())
try:
    import quran_asr
    sys.exit("it could be imported")
except ImportError:
    pass
from nemo.collections.asr.models import ASRModel
model = ASRModel.restore_from(sys.argv[1], map_location="cpu").eval()
expected = torch.load(sys.argv[2], weights_only=True)
assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in expected.items())
print(type(model).__name__, len(model.transcribe([sys.argv[3]], verbose=False)))
"""


@pytest.mark.slow
def test_stock_nemo_restores_and_transcribes_without_this_package(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment], tmp_path: Path
) -> None:
    model = build_model(tiny, tokenizer.folder)
    save_nemo(model, tmp_path / "ours.nemo")
    torch.save(model.state_dict(), tmp_path / "expected.pt")
    arguments = [str(tmp_path / "ours.nemo"), str(tmp_path / "expected.pt"), segments[0].audio]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("EncDecHybridRNNTCTCBPEModel")
