"""Check that the model's files are those that were locked, byte by byte, before any of them is opened.

Takes the list in `model.json` and the folder, hands on nothing; reads in chunks, so a model of any size needs 1 MiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from intermodal_server.contract import ModelFile

CHUNK_BYTES = 1 << 20


class VerifyError(ValueError):
    """A file of the model is missing, lies elsewhere, or has other bytes than the lock says."""


def verify_files(files: Sequence[ModelFile], folder: str, artifact: str) -> None:
    """Refuse a model whose files are not exactly those of the lock.

    Raises:
        VerifyError: names the file and what is wrong with it.
    """
    if artifact and not any(f.path == artifact or f.path.startswith(artifact + "/") for f in files):
        raise VerifyError(f"{artifact} is not among the locked files of the model")
    root = os.path.realpath(folder)
    for file in files:
        path = os.path.join(folder, file.path)
        if not os.path.realpath(path).startswith(root + os.sep):
            raise VerifyError(f"{file.path} lies outside the model's folder")
        digest, size = hashlib.sha256(), 0
        try:
            with open(path, "rb") as stream:
                chunk = stream.read(CHUNK_BYTES)
                while chunk:
                    digest.update(chunk)
                    size += len(chunk)
                    chunk = stream.read(CHUNK_BYTES)
        except OSError as error:
            raise VerifyError(f"{file.path} cannot be read: {error.strerror}") from error
        if size != file.size_bytes:
            raise VerifyError(f"{file.path} has {size} bytes, the lock says {file.size_bytes}")
        if digest.hexdigest() != file.sha256:
            raise VerifyError(f"{file.path} is not the file that was locked: its sha256 is {digest.hexdigest()}")
