"""What files are rendered from, and what comes of it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct


class Place(Enum):
    """Where replicas run, as Prometheus finds them."""

    DOCKER = "docker"  # containers of the targets `local` and `ssh://HOST`, on the machine of Prometheus
    COMPOSE = "compose"  # services of the compose file, in the network of Prometheus


class About(Struct, frozen=True):
    """What is known of a model."""

    model: str
    place: Place
    version: str = ""  # of the image, where it is not deployed
    target: str = ""
    max_error_rate: float = 0.05
    max_p99_s: float = 1.0
    wants_keys: bool = False  # the server asks everybody for an API key


class Rendered(Struct, frozen=True):
    """Files by name, and what to do with them."""

    files: Mapping[str, bytes]
    next: tuple[str, ...] = ()
