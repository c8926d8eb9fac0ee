"""`recipe list`, `show` and `new` and `plan`, as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from quran_asr.cli.main import main
from quran_asr.config.recipe import SHIPPED, as_plain, load_recipe, resolve


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_the_shipped_recipes_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "recipe", "list", "--json")
    listed = json.loads(out)
    assert code == 0
    assert [entry["name"] for entry in listed] == list(SHIPPED)
    assert all(entry["summary"].endswith(".") and len(entry["summary"]) < 110 for entry in listed)
    assert next(e for e in listed if e["name"] == "transfer")["parameters"] == 114_752_514
    code, out, _ = run(capsys, "recipe", "list")
    assert "114.8 M" in out and out.count("\n") == len(SHIPPED) + 1


def test_show_prints_the_promised_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "recipe", "show", "transfer", "trainer.max_epochs=50", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert list(shown) == ["name", "recipe", "origin"]
    assert shown["name"] == "transfer"
    assert shown["recipe"] == as_plain(load_recipe("transfer", ["trainer.max_epochs=50"]))
    assert shown["origin"]["trainer.max_epochs"] == "command line"
    assert shown["origin"]["init_from_pretrained_model"] == "transfer.yaml:8"


def test_show_prints_yaml_with_the_origin_of_every_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, out, _ = run(capsys, "recipe", "show", "large")
    assert yaml.safe_load(out) == as_plain(load_recipe("large"))
    assert "    d_model: 768  # large.yaml:" in out
    assert all("# " in line for line in out.splitlines() if not line.endswith(":"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show"], "error: no recipe is named"),
        (["show", "transfr"], "error: no recipe `transfr`\nhint: did you mean `transfer`?"),
        (["show", "small", "large"], "error: two recipes: `small` and `large`"),
        (["show", "small", "trainer.device=1", "model.optim.lr=x"], "unknown key `trainer.device`"),
    ],
)
def test_wrong_use_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = run(capsys, "recipe", *words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_new_recipe_is_what_was_asked_for_and_invites_changes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("model.optim.lr=5e-4", "trainer.max_epochs=60", "~quran.augment", "name=mine-1")
    code, _, err = run(capsys, "recipe", "new", "mine.yaml", "--base", "small", *words)
    assert code == 0 and "wrote mine.yaml" in err
    assert load_recipe("mine.yaml") == load_recipe("small", words)
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert "#   quran-asr train mine.yaml" in text
    # Whoever takes every # of a setting away gets the base's values.
    _, _, settings = text.partition("base: small\n")
    uncommented = "\n".join(line.replace("# ", "", 1) for line in settings.splitlines()[2:])
    Path("all.yaml").write_text(f"base: small\n{uncommented}\n")
    assert load_recipe("all.yaml") == load_recipe("small", words)
    assert "mine.yaml:" in resolve("all.yaml").origin["model.optim.lr"].replace("all", "mine")


def test_a_new_recipe_overwrites_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("precious")
    code, _, err = run(capsys, "recipe", "new", "mine.yaml")
    assert code == 2 and "error: mine.yaml: already exists" in err
    assert Path("mine.yaml").read_text() == "precious"
    for words, message in (
        (("small",), "is the name of a shipped recipe"),
        (("other.yaml", "small"), "has no value"),
        (("other.yaml", "model.optim.lr=x"), "must be a number"),
        (("other.yaml", "--base", "smal"), "did you mean `small`?"),
    ):
        code, _, err = run(capsys, "recipe", "new", *words)
        assert code == 2 and message in err
    assert not Path("other.yaml").exists()


def test_a_new_recipe_finds_its_base_from_its_own_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(capsys, "recipe", "new", "base.yaml", "trainer.max_epochs=7")
    Path("recipes").mkdir()
    code, _, _ = run(capsys, "recipe", "new", "recipes/child.yaml", "--base", "base.yaml")
    assert code == 0
    assert load_recipe("recipes/child.yaml").trainer.max_epochs == 7


def test_show_needs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['quran-asr', 'recipe', 'show', 'transfer', '--json']\n"
        "from quran_asr.cli.main import main\n"
        "try: main()\n"
        "finally:\n"
        "    heavy = {'numpy', 'torch', 'omegaconf', 'rich'} & set(sys.modules)\n"
        "    print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["name"] == "transfer"
