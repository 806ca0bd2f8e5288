"""`intermodal inspect PATH`: the model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session, plain_http_option
from intermodal.cli.session import command as make
from intermodal_server import contract

if TYPE_CHECKING:
    from intermodal.rooms.inspect.card import ModelCard
    from intermodal.rooms.inspect.stored import ImageCard
    from intermodal_server.contract import TensorSpec


@make(
    "inspect",
    example=[
        "intermodal inspect model.joblib",
        "intermodal inspect examples/digits --json",
        "intermodal inspect ghcr.io/team/digits:1.0.0",
    ],
)
@click.argument("target", metavar="PATH|IMAGE|REF")
@plain_http_option
def command(session: Session, target: str, plain_http: bool) -> Output:
    """Show what a model is and needs, without opening it.

    Reads format, versions, signature, size and risks from the bytes alone; nothing in the file is run. Exits with 1
    when opening the model would run code outside the allow-list.

    PATH is a project folder, an intermodal.toml, or a bare model file or folder; it wins when it exists. An IMAGE of
    the local store, or a REF that names its registry, is read from its labels: no layer is fetched.
    """
    from intermodal import pipeline

    path = Path(target)
    if not path.exists() and _is_image(target, session):
        from intermodal.beside import inspect_image

        image = inspect_image(target, host=session.host, events=session.events, plain_http=plain_http)
        return session.output(image.as_json(), image_text(image))
    card = pipeline.inspect(path, host=session.host, events=session.events)
    return session.output(card.as_json(), card_text(card, path), 0 if card.safe else 1)


def _is_image(target: str, session: Session) -> bool:
    """Whether what is no path can be an image: it names its registry, or the store knows it."""
    from intermodal import pipeline
    from intermodal.errors import InputError
    from intermodal.registry.reference import names_registry

    if names_registry(target):
        return not Path(target).parent.exists() or ":" in target
    try:
        pipeline.open_store(session.host).resolve(target)
    except InputError:
        return False
    return True


def image_text(image: ImageCard) -> str:
    """The card of an image as a person reads it."""
    document = image.as_json()
    signature = contract.Signature.from_json(image.signature())
    rows = [
        ("image", f"{image.reference}  ({image.where})"),
        ("digest", str(image.digest)),
        ("model", f"{document['format'] or 'unknown'}, {image.labels.get(contract.LABEL_FRAMEWORK) or 'plain Python'}"),
        ("for", f"{', '.join(image.platforms)}{f', Python {image.python}' if image.python else ''}"),
        ("size", f"{size(image.size_bytes)} in {image.layers} layers"),
    ]
    rows += _block("inputs", [_tensor(t) for t in signature.inputs] or ["not stated"])
    rows += _block("outputs", [_tensor(t) for t in signature.outputs] or ["not stated"])
    rows.append(("lock", image.labels.get(contract.LABEL_LOCK_DIGEST) or "not stated"))
    rows.append(("note", "labels are what the builder says; intermodal check proves the predictions"))
    return table(rows)


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
