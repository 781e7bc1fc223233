"""`python -m core <verb>`: the engine without the service; the only command line of core."""

import gc
import logging
import sys
from io import TextIOWrapper
from typing import Any

import typer
from pydantic import ValidationError

from core.commands.data import convert, fingerprint, preprocess, verify
from core.commands.evaluation import ensemble, evaluate, postprocess, select
from core.commands.exchange import export_model, import_model
from core.commands.plans import explain, move_plans, plan
from core.commands.prediction import predict
from core.commands.training import train
from core.domain.record import describe
from core.errors import DomainError

BOLD_RED = "\x1b[1;31m", "\x1b[0m"
"""What makes a terminal stress a sentence, and stop to."""


verbs = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Analyse a dataset, plan, preprocess, train, predict and evaluate, without the service.",
)
for _verb in (
    plan,
    explain,
    move_plans,
    fingerprint,
    verify,
    convert,
    preprocess,
    train,
    predict,
    evaluate,
    ensemble,
    select,
    postprocess,
    import_model,
    export_model,
):
    verbs.command()(_verb)


def _refuse(sentence: str) -> int:
    """Say what is wrong; return the exit status."""
    before, after = BOLD_RED if sys.stderr.isatty() else ("", "")
    print(f"{before}{sentence}{after}", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; a user's mistake ends in one sentence and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # So that names of files can be printed on every terminal.
            stream.reconfigure(errors="backslashreplace")
    try:
        given = sys.argv[1:] if arguments is None else arguments
        outcome: Any = verbs(given or ["--help"], standalone_mode=False)
    except DomainError as error:
        return _refuse(error.message)
    except ValidationError as error:
        return _refuse(f"this cannot be used: {describe(error)}")
    except OSError as error:
        return _refuse(
            f"{error.filename or 'a file'}: {error.strerror or error}; check the path, and who may use it"
        )
    except typer.Abort:
        return 130
    except Exception as error:
        told = getattr(error, "format_message", None)  # a usage error of the command line
        if told is None:
            raise
        return _refuse(f"{told().rstrip('.')}; `python -m core VERB --help` shows what a verb takes")
    return outcome if isinstance(outcome, int) else 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # To search all that was imported for garbage once more would take 60 ms.
    sys.exit(status)
