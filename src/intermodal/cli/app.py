"""The command line as a whole: which commands there are, and from arguments to an exit status.

Takes the arguments, hands back the status; everything that is printed or drawn goes through here, `errors.py` and
`progress.py`.

Rules, in order:
1. Standard output carries the result and nothing else; with `--json` it is exactly one document, also for an error.
2. Status: 0 done, 1 the answer is no, 2 wrong usage or input, 3 environment, 130 interrupted (Ctrl-C or SIGTERM).
3. The list of commands is a table of words here, so that `--help` imports none of them; a test keeps it true.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence

import click

import intermodal

SECTIONS = {
    "The corridor": {
        "ship": "Walk the whole corridor: inspect, lock, build, check, and push where [push] says so.",
        "inspect": "Show what a model is and needs, without opening it.",
        "lock": "Write down everything the image will hold, by hash.",
        "build": "Build the image into the local store and print its digest.",
        "check": "Start an image under least privilege and replay its golden cases.",
        "push": "Put an image into a registry, sending only what it lacks.",
        "run": "Serve an image or project on this host, in the foreground.",
    },
    "Deployed models": {
        "deploy": "Roll an image out, judged all the way, and back when it is worse.",
        "status": "Show what is deployed, who gets which traffic, and the last verdict.",
        "watch": "Go on with a rollout that nobody watches any more.",
        "promote": "Let a rollout that is paused or held go on.",
        "abort": "End a rollout; the stable revision keeps the traffic.",
        "rollback": "Go back to the revision before, or to an earlier one.",
        "feedback": "Say what answers should have been; wrong ones count in the verdict.",
        "drift": "Compare live predictions with those at promotion; a warning, never an action.",
        "history": "List a model's revisions, and check the deployment log.",
        "logs": "Show what a revision's containers wrote.",
        "render": "Write files for Prometheus, Grafana or compose.",
        "down": "Take a model away from where it is deployed.",
    },
    "A project": {
        "init": "Write a commented intermodal.toml for a model.",
        "record": "Run the model on inputs and write golden cases.",
        "dockerfile": "Write the same image as a multi-stage Dockerfile, with all it copies.",
        "apikey": "Make an API key and the line by which a server knows it.",
    },
    "The local store": {
        "images": "List the images of the local store, or recompute everything it claims.",
        "diff": "Show what is different between two images, predictions included.",
        "pull": "Take an image from a registry into the local store, verified.",
        "load": "Load an image into an engine of this machine, moving only the layers it lacks.",
        "serve-store": "Offer the local store to engines as a read-only registry.",
        "prune": "Delete what no image of the local store needs.",
    },
}
COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}


class LazyGroup(click.Group):
    """A group that imports a command's file only when that command is called or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command from `intermodal.cli.NAME`, which calls it `command`."""
        if cmd_name not in COMMANDS:
            return None
        import importlib

        found: click.Command = importlib.import_module(f"intermodal.cli.{cmd_name.replace('-', '_')}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"no command is called {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, from the table above."""
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()), col_max=12)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  intermodal ship model.joblib\n  intermodal run model",
)
@click.version_option(intermodal.__version__, prog_name="intermodal", message="%(prog)s %(version)s")
def root() -> None:
    """From a trained model to a container that behaves the same everywhere."""


def main(arguments: Sequence[str]) -> int:
    """The exit status of `intermodal ARGUMENTS`."""
    gc.set_threshold(100_000)  # a command that takes a tenth of a second makes little rubbish and much that stays
    as_json, debug = _has_flag(arguments, "--json"), _has_flag(arguments, "--debug")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        outcome = root.main(args=list(arguments), prog_name="intermodal", standalone_mode=False)
        return _finish(outcome, as_json=as_json)
    except BrokenPipeError:
        # the reader of our output has gone (`intermodal images | head`): not an error, and nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        from intermodal.cli import errors

        return errors.report(error, as_json=as_json, debug=debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _finish(outcome: object, *, as_json: bool) -> int:
    if outcome is None or isinstance(outcome, int):
        return outcome or 0  # a help page
    from intermodal.cli.output import Output, write

    assert isinstance(outcome, Output)
    if not outcome.told:
        write(outcome, as_json=as_json)
        sys.stdout.flush()
    return outcome.exit_code


def _has_flag(arguments: Sequence[str], flag: str) -> bool:
    """Whether `flag` is given; read before parsing, because an error in parsing must already honour it."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return flag in own


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
