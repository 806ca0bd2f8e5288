"""Interpreters for the gRPC tests: one with the front's packages and grpcio, one with everybody's clients."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intermodal.rooms.lock.resolve import GRPC_REQUIREMENTS, SERVER_REQUIREMENTS
from support.envs import training_python
from support.serving import Served, serve


def front_site() -> Path:
    """Site-packages as an image with gRPC has them for its front."""
    python = training_python(*SERVER_REQUIREMENTS, *GRPC_REQUIREMENTS)
    (site,) = python.parents[1].glob("lib/python3*/site-packages")
    return site


def clients_python() -> Path:
    """Unmodified clients: tritonclient, kserve, MLflow, the health client; and the compiler for .proto files."""
    mlflow = ("mlflow-skinny==3.17.2", "pandas", "scipy")  # its client looks for scipy, and fails without
    return training_python("kserve==0.21.0", "tritonclient[grpc,http]==2.73.0", "grpcio-health-checking", *mlflow)


@dataclass
class GrpcServed:
    """A running server, and where it serves gRPC."""

    served: Served
    target: str  # as grpcio names it


@contextmanager
def grpc_serve(root: Path, **variables: Any) -> Iterator[GrpcServed]:
    """The server over `root`, whose settings ask for gRPC, with gRPC on a Unix socket; see `support.serving.serve`."""
    folder = tempfile.mkdtemp(prefix="im-")
    try:
        with serve(root, front_site=front_site(), grpc_socket=f"{folder}/g", **variables) as served:
            yield GrpcServed(served, f"unix:{folder}/g")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def import_grpc() -> Any:
    """grpcio in this process, for clients that send what no polite client would."""
    site = str(front_site())
    if site not in sys.path:
        sys.path.append(site)
    import grpc

    return grpc
