"""The command `quran-asr`: finds the command, runs it, and turns errors into one line.

Command modules are imported when they are asked for, so that `--help` starts at once; only their
functions import rooms that need numpy or torch.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence

import click

from quran_asr import __version__
from quran_asr.cli.interrupt import TerminatedError, clean_up_when_terminated, end_interrupted, is_interrupt
from quran_asr.cli.output import echo, print_error
from quran_asr.errors import QuranAsrError

COMMANDS = {
    "quickstart": (
        "quran_asr.cli.quickstart:quickstart",
        "The whole path in small, in some minutes on a CPU.",
    ),
    "text": ("quran_asr.cli.text:text", "Show, find and split the words of the Quran."),
    "corpus": ("quran_asr.cli.corpus:corpus", "Make manifests: scan recordings, split, or speak verses."),
    "recipe": ("quran_asr.cli.recipe:recipe", "List, show and begin recipes: the settings of a training."),
    "plan": ("quran_asr.cli.plan:plan", "What a training will be: steps, batch, rate, parameters."),
    "check": ("quran_asr.cli.check:check", "Look before training: data, machine, memory, can it learn."),
    "tokenizer": ("quran_asr.cli.train:tokenizer", "Make a recipe's tokenizer from the whole Quran."),
    "train": ("quran_asr.cli.train:train", "Train a recognizer, or go on with a run."),
    "watch": ("quran_asr.cli.watch:watch", "What the curves of a run say: signs, causes, remedies."),
    "plot": ("quran_asr.cli.plot:plot", "Draw the curves of runs: a picture and a page."),
    "checkpoints": (
        "quran_asr.cli.checkpoints:checkpoints",
        "List a run's checkpoints by WER; average, thin out, export.",
    ),
    "compare": ("quran_asr.cli.compare:compare", "Set recipes, runs or reports against each other."),
    "sweep": ("quran_asr.cli.sweep:sweep", "Hyperparameter search."),
    "evaluate": ("quran_asr.cli.evaluate:evaluate", "Compute WER and CER of a model on a manifest."),
    "transcribe": ("quran_asr.cli.evaluate:transcribe", "Write down what is recited in sound files."),
    "export": ("quran_asr.cli.export:export", "Make a model a bundle that needs neither torch nor NeMo."),
    "listen": ("quran_asr.cli.listen:listen", "Print words while they are recited: a file or a microphone."),
    "serve": ("quran_asr.cli.serve:serve", "Serve a page that follows a reciter, word by word."),
    "benchmark": (
        "quran_asr.cli.benchmark:benchmark",
        "How fast this machine trains and hears, beside stock NeMo.",
    ),
}
"""Name -> (place of the click command, its line in `--help`), in the order of a journey."""


class LazyGroup(click.Group):
    """Lists all commands without importing any of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `quran-asr {near[0]}`?" if near else "`quran-asr --help` lists the commands"
            raise QuranAsrError(f"no command `{args[0]}`", remedy=hint) from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: quran-asr text show 2:255",
)
@click.version_option(__version__, prog_name="quran-asr")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """From recordings of Quran recitation to a trained, measured recognizer."""


def _run(args: list[str]) -> object:
    """What the command returned. Not through click's own `main`, which exits 1 on a closed pipe."""
    try:
        with cli.make_context("quran-asr", args) as context:
            return cli.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 fine, 1 a negative finding, 2 wrong use or input, 130 interrupted.

    SIGTERM ends it with 143 after it has cleaned up.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    clean_up_when_terminated()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without Arabic ends no command
            stream.reconfigure(errors="backslashreplace")
    with errors_in_one_line(debug="--debug" in args):
        code = _run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def errors_in_one_line(*, debug: bool) -> Iterator[None]:
    """Print what ends a command in one line, and exit with the code that belongs to it."""
    try:
        yield
    except (KeyboardInterrupt, ImportError, click.Abort) as error:
        if debug or not (isinstance(error, click.Abort) or is_interrupt(error)):
            raise
        end_interrupted()
    except TerminatedError:
        echo("terminated", err=True)
        raise
    except QuranAsrError as error:
        if debug:
            raise
        print_error(error)
        sys.exit(2)
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        echo(usage.getvalue(), err=True, nl=False)
        sys.exit(2)
    except UnicodeEncodeError as error:
        if debug:
            raise
        name = error.object[max(0, error.start - 40) : error.end + 40]
        print_error(QuranAsrError(f"a name that is not UTF-8 text: `{name}`", remedy="rename it"))
        sys.exit(2)
    except BrokenPipeError:  # `quran-asr ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        hint = "free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        print_error(QuranAsrError(error.strerror or str(error), where=where, remedy=hint))
        sys.exit(2)
