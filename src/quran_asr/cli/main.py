"""The command `quran-asr`: finds the command, runs it, and turns errors into one line.

Command modules are imported when they are needed, so that `--help` starts at once; only their functions
import packages that need numpy or torch.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from quran_asr import __version__
from quran_asr.cli.interrupt import TerminatedError, clean_up_when_terminated, end_interrupted, is_interrupt
from quran_asr.cli.output import echo, print_error
from quran_asr.errors import QuranAsrError

SECTIONS = {
    "Use a model": {
        "transcribe": ("quran_asr.cli.transcribe:transcribe", "Transcribe audio files."),
        "identify": ("quran_asr.cli.identify:identify", "Find the verses that recordings contain."),
        "align": ("quran_asr.cli.align:align", "Find when each word is recited; subtitles and verse clips."),
        "listen": ("quran_asr.cli.listen:listen", "Transcribe a file, a microphone or a pipe live."),
        "serve": ("quran_asr.cli.serve:serve", "Serve a page that follows a reciter, word by word."),
        "export": ("quran_asr.cli.export:export", "Export a model to a bundle that needs no torch."),
    },
    "Prepare data": {
        "text": ("quran_asr.cli.text:text", "Show and search the text of the Quran."),
        "corpus": ("quran_asr.cli.corpus:corpus", "Scan, audit, split or synthesize recordings."),
    },
    "Language models": {
        "lm": ("quran_asr.cli.lm:lm", "Build, evaluate and tune language models."),
    },
    "Train": {
        "quickstart": ("quran_asr.cli.quickstart:quickstart", "Train and evaluate a small model in minutes."),
        "recipe": ("quran_asr.cli.recipe:recipe", "List, show or create training recipes."),
        "plan": ("quran_asr.cli.plan:plan", "Show steps, batch size, memory and time of a training."),
        "check": ("quran_asr.cli.check:check", "Check machine, data and recipe before a training."),
        "tokenizer": ("quran_asr.cli.train:tokenizer", "Train the tokenizer of a recipe."),
        "train": ("quran_asr.cli.train:train", "Train a model, or resume a run."),
        "sweep": ("quran_asr.cli.sweep:sweep", "Search hyperparameters."),
    },
    "Inspect": {
        "evaluate": ("quran_asr.cli.evaluate:evaluate", "Compute WER and CER of a model on a manifest."),
        "watch": ("quran_asr.cli.watch:watch", "Diagnose a training by its curves."),
        "plot": ("quran_asr.cli.plot:plot", "Plot the curves of runs."),
        "checkpoints": (
            "quran_asr.cli.checkpoints:checkpoints",
            "List, average, prune or export checkpoints.",
        ),
        "compare": ("quran_asr.cli.compare:compare", "Compare recipes, runs or reports."),
        "benchmark": ("quran_asr.cli.benchmark:benchmark", "Measure the speed of training and inference."),
    },
}
"""What commands are for -> name -> (place of the click command, its line in `--help`)."""

HINTS = {
    errno.ENOSPC: "free some space and run the same command again",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "name another place, or change its permissions"
    ),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file has this name: name another place"),
    **dict.fromkeys((errno.ENOENT, errno.EISDIR), "check the path"),
    errno.ENAMETOOLONG: "name a shorter path",
}
"""What to do about errors of the system, by their number."""

COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


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
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in section.items()], col_max=14)

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
    epilog="Example: quran-asr transcribe recitation.mp3",
)
@click.version_option(__version__, prog_name="quran-asr")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Recognize Quran recitation; train, diagnose and compare models for it."""


def _run(args: list[str]) -> object:
    """Run a command and return its result; click's own `main` would exit with 1 on a closed pipe."""
    try:
        with cli.make_context("quran-asr", args) as context:
            return cli.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except click.UsageError as error:
        if error.ctx is None:  # click's parser of options does not say whose they are
            error.ctx = _context_of(args)
        raise


def _context_of(args: list[str]) -> click.Context:
    """The context of the command that the words name."""
    context = click.Context(cli, info_name="quran-asr")
    for word in args:
        if not isinstance(context.command, click.Group):
            break
        command = context.command.get_command(context, word)
        if command is not None:
            context = click.Context(command, info_name=word, parent=context)
    return context


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 success, 1 a negative finding, 2 wrong use or input, 130 interrupted.

    SIGTERM ends it with 143 after cleaning up.
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


def _of_click(error: click.ClickException) -> QuranAsrError:
    """One line and a hint of what click would print in four."""
    what = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context is not None else "quran-asr"
    return QuranAsrError(what[:1].lower() + what[1:], remedy=f"see `{command} --help`")


@contextlib.contextmanager
def errors_in_one_line(*, debug: bool) -> Iterator[None]:
    """Print an error that ends a command in one line, and exit with its code."""
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
            traceback.print_exc()
        else:
            print_error(error)
        sys.exit(2)
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        print_error(_of_click(error))
        sys.exit(2)
    except UnicodeEncodeError as error:
        if debug:
            raise
        name = error.object[max(0, error.start - 40) : error.end + 40]
        print_error(QuranAsrError(f"a name that is not UTF-8: `{name}`", remedy="rename it"))
        sys.exit(2)
    except BrokenPipeError:  # `quran-asr ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        hint = HINTS.get(error.errno or 0, "")
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        print_error(QuranAsrError(error.strerror or str(error), where=where, remedy=hint))
        sys.exit(2)
