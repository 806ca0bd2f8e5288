"""The golden cases of an image as its file holds them; the front replays them, and a start measures with them."""

from __future__ import annotations

import json
import os
from typing import Any

MAX_GOLDEN_BYTES = 64 << 20
GOLDEN_FORMAT = 1


class GoldenError(ValueError):
    """The file of golden cases cannot be used; the image is damaged."""


def read_cases(path: str) -> list[dict[str, Any]]:
    """The cases in a file, none when there is no file.

    Raises:
        GoldenError: too large, not JSON, or of another format.
    """
    try:
        if os.path.getsize(path) > MAX_GOLDEN_BYTES:
            raise GoldenError("the golden cases are too large")
        with open(path, "rb") as file:
            document = json.loads(file.read())
        if document["format"] != GOLDEN_FORMAT:
            raise GoldenError("the golden cases have another format than this server reads")
        return [
            dict(case, request=dict(case["request"]), response=dict(case["response"])) for case in document["cases"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, GoldenError):
            raise
        raise GoldenError(f"the golden cases cannot be read: {error}") from error
