"""What every command has: the host, where progress goes, and the options that all commands share.

`command` turns a function `(session, …) -> Output` into a click command with `--json`, `--quiet` and `--debug`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
from msgspec import Struct
from msgspec.structs import replace

from intermodal import host as hosts
from intermodal.cli.output import Output, write
from intermodal.cli.progress import Terminal
from intermodal.engine import NAMES
from intermodal.host import Host


class Session(Struct, frozen=True):
    """One call of one command."""

    host: Host
    events: Terminal
    as_json: bool = False

    def output(self, document: Mapping[str, object], text: str, exit_code: int = 0) -> Output:
        """The result, together with what was noticed on the way."""
        return Output(document, text, exit_code, tuple(self.events.told))

    def tell(self, output: Output) -> Output:
        """Write `output` now, because the command goes on; what it finally returns."""
        write(output, as_json=self.as_json)
        sys.stdout.flush()
        return replace(output, told=True)


def command(name: str, *, example: Sequence[str]) -> Callable[[Callable[..., Output]], click.Command]:
    """A decorator: the function as the command `name`; its docstring and `example` are the help page."""
    lines = "\n".join(f"  {line}" for line in example)

    def decorate(function: Callable[..., Output]) -> click.Command:
        def call(*, quiet: bool, **options: object) -> Output:
            options.pop("debug")  # read by `app.main`, as is --json, because errors in parsing must honour both
            as_json = bool(options.pop("as_json"))
            host = hosts.read()
            events = Terminal(host.environment, quiet=quiet)
            try:
                return function(Session(host, events, as_json), **options)
            finally:
                events.close()

        call.__doc__ = function.__doc__
        made = click.command(name, epilog=f"\b\nExample:\n{lines}")(call)
        made.params = [*reversed(getattr(function, "__click_params__", [])), *_shared()]
        return made

    return decorate


def engine_option(what: str) -> Callable[[Callable[..., Output]], Callable[..., Output]]:
    """`--engine`, with every engine there is."""
    return click.option("--engine", type=click.Choice(NAMES), default=NAMES[0], show_default=True, help=what)


def lock_option(function: Callable[..., Output]) -> Callable[..., Output]:
    """`--lock FILE`, for a lock kept elsewhere."""
    option = click.option(
        "--lock",
        "lock_file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Where the lock is kept; default: beside the project file, or in the local store for a bare model.",
    )
    return option(function)


def plain_http_option(function: Callable[..., Output]) -> Callable[..., Output]:
    """`--plain-http`, for registries without TLS that are not this machine."""
    return click.option(
        "--plain-http", is_flag=True, help="Speak to the registry without TLS; loopback needs no such permission."
    )(function)


def _shared() -> list[click.Parameter]:
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document and nothing else."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress and no notices."),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]
