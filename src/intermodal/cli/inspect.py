"""`intermodal inspect PATH`: the model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make

if TYPE_CHECKING:
    from intermodal.rooms.inspect.card import ModelCard
    from intermodal_server.contract import TensorSpec


@make("inspect", example=["intermodal inspect model.joblib", "intermodal inspect examples/digits --json"])
@click.argument("path", type=click.Path(path_type=Path))
def command(session: Session, path: Path) -> Output:
    """Show what a model is and needs, without opening it.

    Reads format, versions, signature, size and risks from the bytes alone; nothing in the file is run. Exits with 1
    when opening the model would run code outside the allow-list.

    PATH is a project folder, an intermodal.toml, or a bare model file or folder.
    """
    from intermodal import pipeline

    card = pipeline.inspect(path, host=session.host, events=session.events)
    return session.output(card.as_json(), card_text(card, path), 0 if card.safe else 1)


def card_text(card: ModelCard, path: Path) -> str:
    """The card as a person reads it."""
    python = f", Python {card.python}" if card.python else ""
    stated = card.versions.get(card.framework)
    framework = f"{card.framework} {stated.version if stated else ''}".strip()
    kind = ", ".join(word for word in (card.format, framework) if word) + python
    rows = [("model", f"{card.path.name}  {kind}  {size(card.size_bytes)}"), ("digest", str(card.digest))]
    rows += _block("inputs", [_tensor(t) for t in card.signature.inputs] or ["known after the first golden case"])
    rows += _block("outputs", [_tensor(t) for t in card.signature.outputs] or ["known after the first answer"])
    rows += _block("needs", _needs(card))
    rows.append(("safe", "yes" if card.safe else "NO: opening it would run code that is not on the allow-list"))
    for finding in card.findings:
        where = f"  ({finding.where})" if finding.where else ""
        rows.append((finding.severity, f"{finding.message}{where}"))
        if finding.next:
            rows.append(("", f"-> {finding.next}"))
    if card.containerize:
        rows.append(("containerize", card.containerize))
    rows.append(("next", f"intermodal ship {path}" if card.safe else "name what you trust: trust = [...] in [model]"))
    return table(rows)


def _block(name: str, lines: list[str]) -> list[tuple[str, str]]:
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]


def _tensor(tensor: TensorSpec) -> str:
    shape = ", ".join("any" if n == -1 else str(n) for n in tensor.shape)
    return f"{tensor.name}  {tensor.datatype} [{shape}]{'  (assumed)' if tensor.assumed else ''}"


def _needs(card: ModelCard) -> list[str]:
    lines = [
        f"{name} {evidence.version}{'' if evidence.exact else ' or compatible'}  ({evidence.where})"
        for name, evidence in sorted(card.versions.items())
    ]
    lines += [name for name in card.requires if name not in card.versions]
    return lines or ["nothing beyond Python"]
