"""Errors that end a verb: messages and exit codes."""

from __future__ import annotations

import sys
from typing import Final

from cvqd.errors import ConfigError, CvqdError, leaves, most_specific

EX_SOFTWARE: Final = 70
EX_OSERR: Final = 71


class OutputError(CvqdError):
    """A file that a verb was asked to write cannot be written."""

    exit_code = 73

    def __init__(self, file: object, error: OSError) -> None:
        super().__init__(f"{file}: {error.strerror}")


class InputError(CvqdError):
    """A file that a verb was given holds nothing that it can use."""

    exit_code = 65

    def __init__(self, file: object, reason: str) -> None:
        super().__init__(f"{file}: {reason}")


class MissingLibraryError(CvqdError):
    """A verb needs a library that is an optional extra of the package."""

    exit_code = 69

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(f"{what} needs {library}: pip install 'cvqd[{extra}]'")


class MissingInputError(CvqdError):
    """A file that a verb was given cannot be opened or read."""

    exit_code = 66

    def __init__(self, file: object, error: OSError) -> None:
        super().__init__(f"{file}: {error.strerror or error}")


def exit_code(blamed: BaseException) -> int:
    """Code of sysexits.h for an error that ends the process."""
    if isinstance(blamed, CvqdError):
        return blamed.exit_code
    return EX_OSERR if isinstance(blamed, OSError) else EX_SOFTWARE


def report(error: BaseException) -> int:
    """Print what went wrong, with a traceback for an unexpected error; returns the exit code."""
    blamed = most_specific(error)
    if not all(isinstance(leaf, CvqdError) for leaf in leaves(error)):
        import traceback

        traceback.print_exception(error)
    elif isinstance(blamed, ConfigError):
        print(blamed, file=sys.stderr)  # its lines begin with the file
    else:
        print(f"cvqd: {blamed}", file=sys.stderr)
    return exit_code(blamed)
