"""The command reference, made from the commands themselves.

    python -m intermodal.cli.reference > docs/reference/commands.md

Takes the click tree, hands on Markdown. A test compares it with the page that is kept, so the page cannot drift.
"""

from __future__ import annotations

import sys

import click

from intermodal.cli.app import SECTIONS, root

_WIDTH = 96


def render() -> str:
    """The whole page."""
    context = click.Context(
        root,
        info_name="intermodal",
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=root.context_settings["help_option_names"],
    )
    lines = [
        "# Commands",
        "",
        "Made by `python -m intermodal.cli.reference`; a test keeps it true.",
        "",
        "Results go to standard output, progress and messages to standard error. Every command knows `--json` (one",
        "document on standard output, also for an error), `--quiet` and `--debug`.",
        "",
        "| exit | means |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | the answer is no: unsafe model, drift, check failed, rolled back |",
        "| 2 | wrong usage or bad input |",
        "| 3 | environment: engine, network, disk, port |",
        "| 130 | interrupted (Ctrl-C or SIGTERM) |",
        "",
    ]
    for section, commands in SECTIONS.items():
        lines += [f"## {section}", ""]
        for name in commands:
            command = root.get_command(context, name)
            assert command is not None
            inner = click.Context(
                command, info_name=name, parent=context, terminal_width=_WIDTH, max_content_width=_WIDTH
            )
            text = command.get_help(inner).replace("Usage: ", "", 1)
            lines += [f"### {name}", "", "```", *(line.rstrip() for line in text.splitlines()), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(render())
