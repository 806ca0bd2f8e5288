"""TOML files that somebody else may have written, read within bounds.

Takes a path, hands on the text and its document. A file that is too large, nested beyond measure, or holds a number
that no machine reads is an error like any other fault of the file, never one of the parser.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from intermodal.errors import ProjectError

MAX_BYTES = 32 << 20  # of a uv.lock with thousands of packages; a project file has a few thousand bytes


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ProjectError: unreadable, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ProjectError(
                f"{path.name} is too large", found=f"more than {MAX_BYTES} bytes", next=f"shorten {path}"
            )
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ProjectError(f"cannot read {path.name}", found=str(error), next=f"correct {path}") from error


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a file, and what it says.

    Raises:
        ProjectError: as `read_text` says, or it is no TOML, or nested too deep.
    """
    text = read_text(path)
    try:
        return text, tomllib.loads(text)
    except RecursionError as error:
        raise ProjectError(f"cannot read {path.name}", found="it is nested too deep", next=f"correct {path}") from error
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise ProjectError(f"cannot read {path.name}", found=str(error), next=f"correct {path}") from error
