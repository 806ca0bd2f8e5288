"""Interpreters for the gRPC tests: one with the front's packages and grpcio, one with everybody's clients."""

from __future__ import annotations

from pathlib import Path

from intermodal.rooms.lock.resolve import GRPC_REQUIREMENTS, SERVER_REQUIREMENTS
from support.envs import training_python


def front_site() -> Path:
    """Site-packages as an image with gRPC has them for its front."""
    python = training_python(*SERVER_REQUIREMENTS, *GRPC_REQUIREMENTS)
    (site,) = python.parents[1].glob("lib/python3*/site-packages")
    return site


def clients_python() -> Path:
    """Unmodified clients (tritonclient, kserve), the standard health client, and the compiler for .proto files."""
    return training_python("kserve", "tritonclient[grpc]", "grpcio-health-checking")
