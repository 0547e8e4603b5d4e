# SPDX-License-Identifier: Apache-2.0
"""The ``seqloom`` command: finds the subcommand, runs it, turns trouble into an exit status.

Results go to stdout, progress to stderr and only to a terminal. Exit status: 0 success, 1 a file,
model or result that cannot be used (one line on stderr), 2 bad options, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ._version import __version__

# In the order of the overview. A command is offered when its module is there.
COMMANDS = {
    "info": "what this build and this machine can do",
    "demo": "train a small model on bundled text, then write from it",
    "bench": "kernel benchmarks against every peer that is installed",
    "train": "train a model on a file",
    "generate": "continue a prompt with a trained model",
    "predict": "labels, tags, answers, transcripts and forecasts of a trained model",
    "translate": "translate with a trained encoder-decoder model",
}


EXAMPLE = "example:\n  seqloom info"


class CommandError(Exception):
    """Trouble with what the user gave: told in one line, exit status 1."""


def available() -> dict[str, str]:
    """The commands whose modules exist, with their lines of help."""
    return {
        name: text
        for name, text in COMMANDS.items()
        if importlib.util.find_spec(f"seqloom.commands.{name}") is not None
    }


def command_parser(name: str, *, example: str, usage: str | None = None) -> argparse.ArgumentParser:
    """The parser of a subcommand; `example` is shown at the end of its help."""
    return argparse.ArgumentParser(
        prog=f"seqloom {name}",
        usage=usage,
        description=COMMANDS.get(name.partition(" ")[0]),
        epilog=f"example:\n  {example}".replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _overview() -> argparse.ArgumentParser:
    lines = [f"  {name:<11}{text}" for name, text in available().items()]
    parser = argparse.ArgumentParser(
        prog="seqloom",
        description="Sequence models, from the plain RNN to the LLM.",
        epilog="\n".join(
            ["commands:", *lines, "", "`seqloom COMMAND --help` tells more.", "", EXAMPLE]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"seqloom {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(available()), help="see below")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    held, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        # What follows the command belongs to it, its --help included.
        parsed = _overview().parse_args(words[:1])
        command = importlib.import_module(f"seqloom.commands.{parsed.command}")
        status = int(command.main(words[1:]))
        sys.stdout.flush()
        return status
    except SystemExit as error:  # argparse: 0 after --help, 2 after bad options
        return error.code if isinstance(error.code, int) else 1
    except CommandError as error:
        return _trouble(str(error))
    except BrokenPipeError:
        # The reader of a pipe has seen enough: not an error, and nothing more may be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _trouble(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    finally:
        warnings.formatwarning = held


def _warning(message: Any, *where: Any, **more: Any) -> str:
    """One line for people who didn't write the line of code that warns."""
    return "seqloom: " + " ".join(str(message).split()) + "\n"


def _trouble(message: str) -> int:
    print("seqloom: " + " ".join(message.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
