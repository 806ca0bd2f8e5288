"""The imports that a Python source would make, read from its syntax tree and never executed.

Takes source bytes; hands on `Import` values.

Rules, in order: absolute and relative imports anywhere in the file count, inside functions too; those below
`if TYPE_CHECKING:` do not, because they never run; those in a `try` whose handler catches the failure are
optional; `importlib.import_module("name")` and `__import__("name")` count when the name is a literal.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec import Struct

from intermodal.errors import ProjectError

_CATCHING = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))


class Import(Struct, frozen=True):
    """One imported module; `names` are what `from … import` takes out of it, which may be modules too."""

    module: str  # "" in `from . import x`
    names: tuple[str, ...] = ()
    level: int = 0  # dots before a relative import
    optional: bool = False
    line: int = 0


def imports_of(source: bytes, title: str) -> tuple[Import, ...]:
    """Every import in `source`, in its order.

    Raises:
        ProjectError: it is no Python that this interpreter can parse.
    """
    try:
        tree = ast.parse(source, filename=title)
        return tuple(_walk(tree.body, optional=False))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise ProjectError(
            f"cannot read the imports of {title}", found=line or type(error).__name__, next="repair the file"
        ) from error


def _walk(nodes: list[ast.stmt] | list[ast.AST], *, optional: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), 0, optional, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            yield Import(
                node.module or "", tuple(alias.name for alias in node.names), node.level, optional, node.lineno
            )
        elif isinstance(node, ast.Try):
            caught = optional or any(_catches(handler) for handler in node.handlers)
            yield from _walk(node.body, optional=caught)
            for handler in node.handlers:
                yield from _walk(handler.body, optional=optional)
            yield from _walk(node.orelse + node.finalbody, optional=optional)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _walk(node.orelse, optional=optional)
        else:
            if isinstance(node, ast.Call) and (name := _literal_import(node)) is not None:
                module = name.lstrip(".")
                yield Import(module, (), len(name) - len(module), optional, node.lineno)
            yield from _walk(list(ast.iter_child_nodes(node)), optional=optional)


def _catches(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in _CATCHING) for kind in kinds)


def _is_type_checking(test: ast.expr) -> bool:
    if isinstance(test, ast.Attribute):
        return test.attr == "TYPE_CHECKING"
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _literal_import(call: ast.Call) -> str | None:
    function = call.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    if name not in ("import_module", "__import__") or not call.args:
        return None
    first = call.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
