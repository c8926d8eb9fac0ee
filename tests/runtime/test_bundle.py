"""Bundles that are damaged, foreign or made to harm: each is refused in a line that names the file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quran_asr
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.bundle import read_bundle, sealed
from quran_asr.runtime.sessions import refuse_external

ROOT = Path(__file__).parents[2]
CORE = ROOT / ".venv-core/bin/python"
Redescribe = Callable[..., None]


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def truncate(folder: Path, redescribe: Redescribe) -> None:
    path = folder / "encoder.onnx"
    path.write_bytes(path.read_bytes()[:-1_000])


def flip_a_bit(folder: Path, redescribe: Redescribe) -> None:
    content = bytearray((folder / "joint.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "joint.onnx").write_bytes(content)


def lose_a_file(folder: Path, redescribe: Redescribe) -> None:
    (folder / "prediction.onnx").unlink()


def put_a_folder_in_its_place(folder: Path, redescribe: Redescribe) -> None:
    (folder / "prediction.onnx").unlink()
    (folder / "prediction.onnx").mkdir()


def lose_the_description(folder: Path, redescribe: Redescribe) -> None:
    (folder / "bundle.json").unlink()


def write(text: str) -> Callable[[Path, Redescribe], None]:
    def damage(folder: Path, redescribe: Redescribe) -> None:
        (folder / "bundle.json").write_text(text)

    return damage


def describe(**changes: Any) -> Callable[[Path, Redescribe], None]:
    """Set keys of `bundle.json`, `shape__heads` for those inside; the checksums stay right."""

    def edit(described: dict[str, Any]) -> None:
        for path, value in changes.items():
            *outer, last = path.split("__")
            place = described
            for key in outer:
                place = place[key]
            if value is None:
                del place[last]
            else:
                place[last] = value

    return lambda folder, redescribe: redescribe(folder, edit)


def name_a_file_outside(folder: Path, redescribe: Redescribe) -> None:
    record = {"bytes": 1, "sha256": "0" * 64}
    redescribe(folder, lambda described: described["files"].update({"../../etc/passwd": record}))


def leave_out_a_piece(folder: Path, redescribe: Redescribe) -> None:
    path = folder / "vocabulary.txt"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:-1]), "utf-8")
    redescribe(folder)


def steer_the_terminal(folder: Path, redescribe: Redescribe) -> None:
    path = folder / "vocabulary.txt"
    path.write_text("\x1b[2J" + path.read_text("utf-8"), "utf-8")
    redescribe(folder)


def no_vocabulary(folder: Path, redescribe: Redescribe) -> None:
    (folder / "vocabulary.txt").write_text("", "utf-8")
    redescribe(folder)


def another_graph(name: str, instead: str) -> Callable[[Path, Redescribe], None]:
    def damage(folder: Path, redescribe: Redescribe) -> None:
        shutil.copy(folder / instead, folder / name)
        redescribe(folder)

    return damage


def half_a_graph(folder: Path, redescribe: Redescribe) -> None:
    (folder / "joint.onnx").write_bytes(b"\x08\x0a")  # an IR version and nothing else
    redescribe(folder)


def no_graph(folder: Path, redescribe: Redescribe) -> None:
    (folder / "joint.onnx").write_bytes(b"not a graph")
    redescribe(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"encoder\.onnx: has [\d,]+ bytes of [\d,]+"),
        (flip_a_bit, r"joint\.onnx: is damaged: its checksum is another"),
        (lose_a_file, r"prediction\.onnx: is missing"),
        (put_a_folder_in_its_place, r"prediction\.onnx: is missing"),
        (lose_the_description, r"bundle: no bundle: it has no bundle\.json"),
        (write("not { JSON"), r"bundle\.json: cannot be read"),
        (write("[" * 100_000), r"bundle\.json: cannot be read"),
        (write("[]"), r"bundle\.json: is not a bundle's description"),
        (write('{"format": true}'), r"bundle\.json: is not a bundle's description"),
        (write('{"format": 1}'), r"bundle\.json: was changed: its checksum is another"),
        (write(json.dumps(sealed({"format": 1}))), r"bundle\.json: lists no files"),
        (describe(format=3), r"bundle of format 3; this version reads up to 2"),
        (describe(shape=None), r"bundle\.json: is not a bundle's description: 'shape'"),
        (describe(shape__colour=1), r"bundle\.json: is not a bundle's description: .*colour"),
        (describe(shape__heads="two"), r"bundle\.json: "),
        (describe(shape__layers=60_000, shape__width=6_000, shape__heads=6_000, shape__head_size=1), "shape"),
        (describe(shape__look_aheads=[]), r"shape: no model has this shape"),
        (describe(shape__look_aheads=[0, 13]), r"shape: no model has this shape"),
        (describe(spelling="latin"), r"no spelling `latin`"),
        (describe(features__hop=0), r"features: hop"),
        (describe(features__sample_rate=8_000, features__highest_hertz=4_000.0), r"needs audio at 8,000 Hz"),
        (describe(beam_temperature=0), r"bundle\.json: temperature is 0"),
        (describe(beam_temperature="warm"), r"bundle\.json: is not a bundle's description"),
        (describe(files__spam=7, files={}), r"lists no encoder\.onnx"),
        (name_a_file_outside, r"bundle\.json: lists `\.\./\.\./etc/passwd`, which is not a plain file name"),
        (leave_out_a_piece, r"vocabulary\.txt: has 47 pieces, and encoder\.onnx is made for 48"),
        (steer_the_terminal, r"vocabulary\.txt:1: a piece holds control characters"),
        (no_vocabulary, r"vocabulary\.txt: the vocabulary is empty"),
        (no_graph, r"joint\.onnx: is not an ONNX graph"),
        (half_a_graph, r"joint\.onnx: ONNX Runtime [\d.]+ cannot load it"),
        (another_graph("joint.onnx", "prediction.onnx"), r"joint\.onnx: is another graph than a bundle's"),
        (another_graph("prediction.onnx", "joint.onnx"), r"prediction\.onnx: is another graph than"),
        (another_graph("encoder.onnx", "joint.onnx"), r"encoder\.onnx: is another graph than a bundle's"),
        (describe(shape__joint_width=17), r"encoder\.onnx: gives \[1, 16\] where \[1, 17\] is needed"),
        (describe(shape__layers=2), r"encoder\.onnx: is another graph than a bundle's"),
    ],
)
def test_what_is_wrong_with_a_bundle_is_one_line_with_a_remedy(
    damage: Callable[[Path, Redescribe], None], message: str, copy: Path, redescribe: Redescribe
) -> None:
    damage(copy, redescribe)
    with pytest.raises(QuranAsrError, match=message) as refused:
        quran_asr.load(copy)
    assert refused.value.remedy
    assert "\n" not in f"{refused.value.where}{refused.value.what}{refused.value.remedy}"
    assert len(refused.value.what) < 300


def test_a_look_ahead_that_the_model_lacks_names_those_it_has(small_bundle: Path) -> None:
    with pytest.raises(QuranAsrError, match="no look-ahead of 90 ms") as refused:
        quran_asr.load(small_bundle, look_ahead_ms=90)
    assert refused.value.remedy == "it has: 1040 ms, 480 ms, 80 ms, 0 ms"
    with pytest.raises(QuranAsrError, match="no decoder `beam`"):
        quran_asr.load(small_bundle, decoder="beam")


@pytest.mark.parametrize("named", [{}, {"beam_temperature": 2}, {"beam_temperature": 0.5}])
def test_the_beam_search_has_the_temperature_of_the_bundle(
    named: dict[str, float], small_bundle: Path, copy: Path, redescribe: Redescribe, voice: Any
) -> None:
    """Random weights give another text at 0.5 than at 2. A bundle without the key is searched at 2."""

    def edit(described: dict[str, Any]) -> None:
        described.pop("beam_temperature", None)
        described.update(named)

    redescribe(copy, edit)
    expected = quran_asr.load(small_bundle, temperature=named.get("beam_temperature", 2)).text_of(voice)
    assert quran_asr.load(copy).text_of(voice) == expected
    assert quran_asr.load(copy, temperature=2).text_of(voice) == quran_asr.load(small_bundle).text_of(voice)


def test_what_somebody_writes_beside_the_model_does_not_matter(copy: Path) -> None:
    (copy / "MODEL_CARD.md").write_text("My own words.")
    (copy / "notes.txt").write_text("Mine too.")
    assert quran_asr.load(copy).bundle == read_bundle(copy)


@pytest.mark.parametrize(
    "command", ["transcribe a.wav --model {bundle} --json", "evaluate m.jsonl --model {bundle} --json"]
)
def test_a_bundle_runs_without_torch(command: str, small_bundle: Path, voice: Any, tmp_path: Path) -> None:
    """In the core environment where that has been made, else with a guard."""
    from quran_asr import audio

    audio.write(tmp_path / "a.wav", voice)
    line = {"audio_filepath": "a.wav", "duration": 6.0, "verses": ["112:1"]}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    code = (
        "import sys\nsys.path.insert(0, sys.argv.pop(1))\nfrom quran_asr.cli.main import main\ntry:\n"
        "    main(sys.argv[1:])\nfinally:\n"
        "    heavy = {'torch', 'nemo', 'lightning', 'sentencepiece', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    python = CORE if CORE.exists() else Path(sys.executable)
    words = command.format(bundle=small_bundle).split()
    done = subprocess.run(
        [str(python), "-c", code, str(ROOT / "src"), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    if command.startswith("transcribe"):
        assert result[0]["text"] == quran_asr.load(small_bundle).recognize(tmp_path / "a.wav").text
        assert result[0]["words"][0]["confidence"] > 0
    else:
        assert result["clips"] == 1 and result["streaming"] is False and result["steadiness"] is None


@pytest.mark.parametrize("name", ["encoder.onnx", "prediction.onnx", "joint.onnx"])
def test_weights_in_a_file_that_the_bundle_does_not_list_are_refused(
    name: str, copy: Path, redescribe: Redescribe
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra train")
    graph = onnx.load(str(copy / name))
    (copy / name).unlink()
    onnx.save_model(
        graph, str(copy / name), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    redescribe(copy)
    with pytest.raises(QuranAsrError, match="keeps weights in another file") as refused:
        quran_asr.load(copy)
    assert refused.value.where == str(copy / name)


@pytest.mark.parametrize("place", ["attribute", "subgraph", "function"])
def test_external_tensors_are_found_wherever_onnx_allows_them(place: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra train")
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    nodes, functions = [constant], []
    if place == "subgraph":
        inner = helper.make_graph([], "inner", [], [], initializer=[tensor])
        nodes = [helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)]
    if place == "function":
        nodes = [helper.make_node("Own", [], ["w"], domain="own")]
        functions = [helper.make_function("own", "Own", [], ["w"], [constant], [helper.make_opsetid("", 17)])]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])])
    onnx.save(helper.make_model(graph, functions=functions), str(tmp_path / "g.onnx"))
    with pytest.raises(QuranAsrError, match="keeps weights in another file"):
        refuse_external(tmp_path / "g.onnx")
