"""The real Debian archive, through this machine's own mirrors and the keyring that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from intermodal import host as hosts
from intermodal.fetch import fetch_all
from intermodal.rooms.lock.debian.base import resolve_base
from intermodal.rooms.lock.debian.closure import EXCLUDED
from intermodal.rooms.lock.debian.versions import version_key

pytestmark = pytest.mark.network


def real(tmp_path: Path) -> hosts.Host:
    """This machine with an empty cache."""
    host = hosts.read()
    return replace(host, environment={**host.environment, "XDG_CACHE_HOME": str(tmp_path)})


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "python"), [("bookworm", "3.11."), ("trixie", "3.13.")])
def test_a_base_for_both_architectures(tmp_path: Path, suite: str, python: str) -> None:
    host = real(tmp_path)
    found = resolve_base(f"deb:{suite}", ("linux/amd64", "linux/arm64"), ("libgomp1",), host=host)
    assert found.python_version.startswith(python)
    names = {row.name for row in found.packages}
    assert {"libc6", "libstdc++6", "ca-certificates", "libssl3" if suite == "bookworm" else "libssl3t64"} <= names
    assert not names & EXCLUDED
    assert {row.architecture for row in found.packages} == {"amd64", "arm64", "all"}
    amd64 = [row for row in found.packages if row.architecture != "arm64"]
    assert 25 <= len(amd64) <= 45
    assert sum(row.size_bytes for row in amd64) < 17_500_000
    assert [row.name for row in amd64 if row.layer == "system"] == ["libgomp1"]
    assert version_key(next(row.version for row in amd64 if row.name == "libc6")) > version_key("2.36-1")
    small = min(found.packages, key=lambda row: row.size_bytes)
    from intermodal.fetch import Request

    fetch_all([Request(small.digest, small.size_bytes, Path(small.filename).name, (small.url,))], host=host)
