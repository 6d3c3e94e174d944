"""The application: commands gathered, errors told in one line."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from nfp_model import __version__
from nfp_model.cli.fitting import fit
from nfp_model.cli.measuring import measure
from nfp_model.cli.predicting import predict
from nfp_model.cli.scheduling import schedule
from nfp_model.cli.scoring import score
from nfp_model.cli.specs import specs_app
from nfp_model.cli.sweeping import sweep
from nfp_model.errors import NfpModelError

app = typer.Typer(
    name="nfp",
    help="How many decode positions one LLM forward processes at near-free latency, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("predict")(predict)
app.command("schedule")(schedule)
app.command("sweep")(sweep)
app.add_typer(specs_app, name="specs")
app.command("measure")(measure)
app.command("fit")(fit)
app.command("score")(score)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; an error is one line on stderr and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except NfpModelError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped")
    except BrokenPipeError:
        # The reader (head, less) has gone; point stdout away so that the interpreter's last flush stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        # A usage fault of the command line parser, which knows how to say itself in one sentence.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            sys.exit(2)
        _fail(error.format_message())


def _fail(message: str) -> NoReturn:
    print(f"nfp: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
