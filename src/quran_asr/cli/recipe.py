"""`quran-asr recipe`: list the shipped recipes, show one resolved, create one of your own."""

from __future__ import annotations

import click

from quran_asr.cli.output import echo


@click.group(epilog="Example: quran-asr recipe show transfer")
def recipe() -> None:
    """List, show or create recipes: the settings of a training."""


@recipe.command("list", epilog="Example: quran-asr recipe list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_recipes(as_json: bool) -> int:
    """List the shipped recipes, with their parameter counts."""
    from quran_asr.cli.output import print_json, print_table
    from quran_asr.config.architecture import count_parameters
    from quran_asr.config.recipe import SHIPPED, load_recipe
    from quran_asr.config.recipe_template import summary

    rows = []
    for name in SHIPPED:
        loaded = load_recipe(name)
        rows.append((name, count_parameters(loaded.model, loaded.quran.vocabulary_size), summary(name)))
    if as_json:
        print_json([{"name": name, "parameters": count, "summary": line} for name, count, line in rows])
    else:
        table = [(name, f"{count / 1e6:6.1f} M", line) for name, count, line in rows]
        print_table(("recipe", "parameters", "summary"), table)
    return 0


@recipe.command("show", epilog="Example: quran-asr recipe show transfer trainer.max_epochs=50")
@click.argument("words", metavar="RECIPE [KEY=VALUE]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: name, recipe, origin.")
def show(words: tuple[str, ...], as_json: bool) -> int:
    """Show a recipe as it would run, and which line sets each value."""
    from quran_asr.cli.output import print_json
    from quran_asr.config.overrides import split_words
    from quran_asr.config.recipe import as_plain, as_yaml, resolve

    name, overrides = split_words(words)
    resolved = resolve(name, overrides)
    if as_json:
        print_json({"name": name, "recipe": as_plain(resolved.recipe), "origin": resolved.origin})
    else:
        echo(as_yaml(resolved.recipe, resolved.origin), nl=False)
    return 0


@recipe.command(
    "new",
    short_help="Write a recipe that changes values of another.",
    epilog="Example: quran-asr recipe new mine.yaml --base small trainer.max_epochs=60",
)
@click.argument("file", metavar="FILE")
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--base", default="transfer", show_default=True, metavar="RECIPE", help="Recipe to start from.")
def new(file: str, words: tuple[str, ...], base: str) -> int:
    """Write a commented recipe that differs from another in the given values."""
    from pathlib import Path

    from quran_asr.config.recipe_template import write_starter

    write_starter(Path(file), base, words)
    echo(f"wrote {file}; show all values with: quran-asr recipe show {file}", err=True)
    return 0
