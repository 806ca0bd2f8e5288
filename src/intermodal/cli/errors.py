"""Errors as people and machines see them, and the exit status each ends in.

    error: what was tried, and why it did not work
      found   the evidence
      next    what to do now

Rules, in order:
1. The text goes to standard error; with `--json` one document goes to standard output instead.
2. A traceback is shown with `--debug` only; an error we did not foresee says how to see it, and ends in 3.
3. Ctrl-C and SIGTERM end in 130, and say so.
"""

from __future__ import annotations

import errno
import json
import sys

import click

from intermodal import host
from intermodal.errors import HostError, InputError, IntermodalError, Interrupted, StoreError

INTERNAL_EXIT_CODE = 3


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Tell `error` to the user; the status to exit with."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(error.ctx.get_help() + "\n" if error.ctx else "")
        return 2
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    known = _as_known(error)
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if as_json:
        sys.stdout.write(json.dumps(known.as_json(), indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        sys.stderr.write(render(known, color=wants_color()) + "\n")
    return known.exit_code


def render(error: IntermodalError, *, color: bool = False) -> str:
    """The error in the form that all messages have."""
    head = "interrupted" if isinstance(error, Interrupted) else "error"
    lines = str(error).split("\n")
    lines[0] = f"{click.style(f'{head}:', fg='red', bold=True) if color else f'{head}:'} {lines[0]}"
    return "\n".join(lines)


def wants_color() -> bool:
    """Whether standard error is a terminal that shows colours and whose owner wants them."""
    environment = host.read().environment
    return sys.stderr.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _as_known(error: BaseException) -> IntermodalError:
    if isinstance(error, IntermodalError):
        return error
    if isinstance(error, KeyboardInterrupt | click.exceptions.Abort):
        return Interrupted("stopped before it was done", next="run it again: what was finished is kept")
    if isinstance(error, click.UsageError):
        usage = error.ctx.get_usage() if error.ctx else ""
        command = error.ctx.command_path if error.ctx else "intermodal"
        return InputError(_as_message(error.format_message()), found=_as_message(usage), next=f"{command} --help")
    if isinstance(error, click.ClickException):
        return InputError(_as_message(error.format_message()))
    if isinstance(error, OSError) and error.errno in _FULL:
        return StoreError("the disk is full", found=str(error), next="intermodal prune frees what no image needs")
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return HostError(
            f"this machine refused what was needed: {error.strerror}",
            found=str(error.filename or error),
            next="look after that (disk, permissions, limits: ulimit -a), and run it again; --debug shows where it was",
        )
    internal = HostError(
        f"internal error: {type(error).__name__}: {error}",
        found="this is a fault of intermodal, not of your project",
        next="run it again with --debug and report what it prints",
    )
    internal.exit_code = INTERNAL_EXIT_CODE
    return internal


_FULL = (errno.ENOSPC, errno.EDQUOT)
_MACHINE = (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.ENOMEM, errno.EAGAIN, errno.EFBIG)


def _as_message(text: str) -> str:
    """A message of click in our form: lower case, no full stop."""
    text = text.strip().removesuffix(".").replace(". (Did you mean", "; did you mean (")
    return " ".join((text[:1].lower() + text[1:]).split())
