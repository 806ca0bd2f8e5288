"""`intermodal diff A B`: what is different between two images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from intermodal.cli.output import Output, size, table
from intermodal.cli.session import Session
from intermodal.cli.session import command as make

if TYPE_CHECKING:
    from intermodal.diff.predictions import Predictions
    from intermodal.diff.report import Change, FileChange, ImageDiff, LayerChange, Report

_LINES = 8  # of one subject, before it says how many more there are
_WIDTH = 60


@make(
    "diff",
    example=[
        "intermodal diff digits:1.0.0 digits:1.1.0",
        "intermodal diff digits:1.0.0 examples/digits      # what would a build change?",
        "intermodal diff digits:1.0.0 oci:elsewhere:latest --json",
    ],
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--all", "every", is_flag=True, help="Every difference, by layer, entry and field.")
def command(session: Session, before: str, after: str, every: bool) -> Output:
    """Show what is different between two images, predictions included.

    Packages, layers, sizes, settings and files; and where both carry golden cases for the same requests, their
    answers side by side with the largest deviation. Nothing is run or unpacked, and layers that both have are not
    read. Exits with 0 when they are the same, with 1 when anything differs.

    A and B are NAME[:TAG], a digest, oci:DIR[:TAG], or a project's path (built when needed; an existing path wins
    over a name).
    """
    from intermodal import beside

    report = beside.diff(before, after, host=session.host, events=session.events)
    return session.output(report.as_json(), text_of(report, every=every), 0 if report.same else 1)


def text_of(report: Report, *, every: bool = False) -> str:
    """The report as a person reads it, on one screen unless `every` difference is asked for."""
    head = f"{report.before} {_short(report.before_digest)}  ->  {report.after} {_short(report.after_digest)}"
    if report.same:
        return f"{head}\nthe same image, to the last bit" if report.images else f"{head}\nno image in either"
    lines = [head]
    for words, platforms in (("only in A", report.only_before), ("only in B", report.only_after)):
        lines += [f"{words:<10} {platform}" for platform in platforms]
    for image in report.images:
        if len(report.images) > 1:
            lines += ["", f"{image.platform}{': the same' if image.same else ''}"]
        if not image.same:
            lines += ["", *_image(image, every)]
    return "\n".join(lines)


def _image(image: ImageDiff, every: bool) -> list[str]:
    own = [change for change in image.files if not change.packaged]
    parts = [
        ("packages", _cut([_package(each) for each in image.packages], every) or ["the same"]),
        ("layers", _layers(image, every)),
        ("size", [_sizes(image)]),
        ("settings", _cut([_change(each) for each in image.settings], every) or ["the same"]),
        ("files", _files(own, len(image.files) - len(own), every)),
        ("golden", _golden(image)),
    ]
    if image.notes:
        parts.append(("note", list(image.notes)))
    if every:
        parts.append(("all", [_clip(str(each), 200) for each in image.differences]))
    return [f"{word if not number else '':<10} {line}" for word, lines in parts for number, line in enumerate(lines)]


def _package(change: Change) -> str:
    where = "" if change.owner == "model" else f"  ({change.owner})"
    if change.before is None:
        return f"+ {change.name} {change.after}{where}"
    if change.after is None:
        return f"- {change.name} {change.before}{where}"
    return f"  {change.name} {change.before} -> {change.after}{where}"


def _layers(image: ImageDiff, every: bool) -> list[str]:
    lines = [f"{image.equal_layers} equal ({size(image.equal_bytes)}), {len(image.layers)} not"]
    return lines + _cut([_layer(each) for each in image.layers], every)


def _layer(change: LayerChange) -> str:
    title = _clip(change.title or "(no title)")
    if change.before_bytes is None:
        return f"+ {title}  {size(change.after_bytes or 0)}"
    if change.after_bytes is None:
        return f"- {title}  {size(change.before_bytes)}"
    return f"  {title}  {size(change.before_bytes)} -> {size(change.after_bytes)}"


def _sizes(image: ImageDiff) -> str:
    grown = image.after_bytes - image.before_bytes
    return (
        f"{size(image.before_bytes)} -> {size(image.after_bytes)} "
        f"({'-' if grown < 0 else '+'}{size(abs(grown))}); an update moves {size(image.new_bytes)}"
    )


def _change(change: Change) -> str:
    return f"  {change.name}  {_value(change.before)} -> {_value(change.after)}"


def _value(value: object) -> str:
    return "(none)" if value is None else _clip(value if isinstance(value, str) and value else repr(value))


def _files(own: Sequence[FileChange], packaged: int, every: bool) -> list[str]:
    lines = _cut([_file(each) for each in own], every)
    if packaged:
        lines.append(f"  {packaged} of the base, of packages and of the server")
    return lines or ["the same"]


def _file(change: FileChange) -> str:
    path = _clip(change.path)
    if change.before_bytes is None:
        return f"+ {path}  {size(change.after_bytes or 0)}"
    if change.after_bytes is None:
        return f"- {path}  {size(change.before_bytes)}"
    return f"  {path}  {', '.join(change.fields)}, {size(change.before_bytes)} -> {size(change.after_bytes)}"


def _golden(image: ImageDiff) -> list[str]:
    found = image.golden
    if image.same_golden and (found is None or found.equal == found.cases_before == found.cases_after):
        return ["the same" if found is None else f"the same: {_cases(found.cases_before)}, equal to the last bit"]
    if found is None:
        return ["none in either"]
    lines = [f"{_cases(found.cases_before)} -> {_cases(found.cases_after)}; {found.compared} ask the same"]
    lines += _deviations(found)
    for words, names in (
        ("only in A", found.only_before),
        ("only in B", found.only_after),
        ("ask something else now", found.other_requests),
    ):
        if names:
            lines.append(f"{words}: {_clip(', '.join(names))}")
    return lines


def _cases(count: int) -> str:
    return f"{count} case{'s' * (count != 1)}"


def _deviations(found: Predictions) -> list[str]:
    if not found.compared:
        return ["no answers to compare: record both with the same inputs"]
    if found.equal == found.compared:
        return ["every answer is equal to the last bit"]
    rows = [("OUTPUT", "VALUES", "DIFFER", "BEYOND TOLERANCE", "LARGEST", "RELATIVE")]
    rows += [
        (
            each.output or "(no answer)",
            str(each.values),
            str(each.differing),
            str(each.beyond),
            _number(each.max_absolute),
            _number(each.max_relative),
        )
        for each in found.outputs
    ]
    lines = table(rows, right=range(1, 6)).splitlines()
    pairs = [("CASE", "OUTPUT", "A", "B", "")]
    pairs += [
        (
            _clip(each.case, 24),
            f"{each.output}{list(each.place) if each.place else ''}",
            *_values(each.before, each.after),
            "" if each.within else "beyond",
        )
        for each in found.worst
    ]
    return [*lines, *table(pairs, right=[2, 3]).splitlines()]


def _values(before: object, after: object) -> tuple[str, str]:
    """Two values, as short as still shows them to be different."""
    if isinstance(before, float) and isinstance(after, float):
        short = f"{before:.6g}", f"{after:.6g}"
        return short if short[0] != short[1] else (repr(before), repr(after))
    return _clip(repr(before), 24), _clip(repr(after), 24)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _cut(lines: Iterable[str], every: bool) -> list[str]:
    lines = list(lines)
    if every or len(lines) <= _LINES:
        return lines
    return [*lines[:_LINES], f"  and {len(lines) - _LINES} more (--all)"]


def _clip(text: str, width: int = _WIDTH) -> str:
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
