"""Bases from a registry: resolved to a digest, their Python found by reading, and every way in which there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.bases import SMALL, layer, put_base, put_index
from support.locks import World, world
from support.other_registry import Registry, running

from intermodal.errors import (
    DownloadError,
    ImageRefusedError,
    InputError,
    RegistryUnreachableError,
    RequirementError,
    StoreError,
)
from intermodal.oci.layout import Store
from intermodal.rooms.lock import lock
from intermodal.rooms.lock.drift import drift, outdated
from intermodal.rooms.lock.lockfile import lock_digest, lock_text, parse_lock
from intermodal.rooms.lock.registry_base.images import fetch_layers, resolve_image
from intermodal.rooms.lock.rows import Lock
from intermodal_server.contract import VENV_DIR


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as made:
        yield made


def locked(place: World, registry: Registry, name: str = "team/python:3.12", **environment: object) -> Lock:
    project = place.project(base=f"{registry.address}/{name}", **environment)
    if "platforms" in environment:
        project = replace(project, platforms=environment["platforms"])  # type: ignore[arg-type]
    return lock(place.card(), project, host=place.host, keyring=place.keyring)


def test_a_tag_becomes_digests(place: World, registry: Registry) -> None:
    digest = put_base(registry, "team/python:3.12", [layer(SMALL)], variables=["A=b c", "PYTHONPATH=/evil"])
    found = locked(place, registry)
    base = found.base
    assert str(base.digest) == str(base.images[0].manifest) == digest
    assert (base.python, base.python_version, base.glibc) == ("3.12", "3.12.4", (2, 36))
    assert (base.interpreter, base.images[0].library) == ("/usr/local/bin/python3.12", "usr/local/lib/python3.12")
    assert base.images[0].environment == ("A=b c", "PATH=/usr/local/bin:/usr/bin:/bin")
    assert Store(place.host.data_dir / "store").has(base.images[0].layers[0].digest)
    assert base.images[0].layers[0].tar_bytes > 1024
    again = parse_lock(lock_text(found).encode())
    assert (again.base, lock_digest(again)) == (base, lock_digest(found))
    assert outdated(found) == ()


def test_a_base_that_moved_is_drift_and_stays_locked(place: World, registry: Registry) -> None:
    old = put_base(registry, "team/python:3.12", [layer(SMALL)])
    project = place.project(base=f"{registry.address}/team/python:3.12")
    first = lock(place.card(), project, host=place.host, keyring=place.keyring)
    project.lock_path.write_text(lock_text(first))
    assert drift(first, place.card(), project, host=place.host) == ()
    new = put_base(registry, "team/python:3.12", [layer(SMALL | {"etc/new": b"x"})])
    said = drift(first, place.card(), project, host=place.host)
    assert len(said) == 1
    assert f"base {project.environment.base} has moved: locked is {old[7:19]}, now it is {new[7:19]}; " in said[0]
    assert f"--upgrade {project.environment.base} " in said[0]
    kept = lock(place.card(), project, host=place.host, keyring=place.keyring)
    assert str(kept.base.digest) == old
    for upgrade in ((), (project.environment.base,)):
        moved = lock(place.card(), project, host=place.host, keyring=place.keyring, upgrade=upgrade)
        assert str(moved.base.digest) == new
    registry.state.tags["team/python"].clear()
    assert "is gone from its registry" in drift(first, place.card(), project, host=place.host)[0]
    project.lock_path.unlink()


def test_a_registry_that_is_gone_is_not_a_base_that_stayed(place: World) -> None:
    with running() as registry:
        put_base(registry, "team/python:3.12", [layer(SMALL)])
        found = locked(place, registry)
        project = place.project(base=found.base.reference)
    with pytest.raises(RegistryUnreachableError):
        drift(found, place.card(), project, host=place.host)


def test_by_digest_nothing_can_move(place: World, registry: Registry) -> None:
    digest = put_base(registry, "team/python:3.12", [layer(SMALL)])
    found = locked(place, registry, f"team/python@{digest}")
    registry.state.manifests.clear()
    project = place.project(base=found.base.reference)
    assert drift(found, place.card(), project, host=place.host) == ()


def small(architecture: str, version: str = "3.12.4") -> Mapping[str, bytes | str]:
    program = b"\x7fELF\0/lib/ld-linux-aarch64.so.1\0\0" + version.encode() + b"\0" + architecture.encode()
    return SMALL | {"usr/local/bin/python3.12": program}


def test_two_platforms_and_the_one_that_only_compiles(place: World, registry: Registry) -> None:
    digests = {
        arch: put_base(registry, "team/python", [layer(small(arch))], architecture=arch) for arch in ("amd64", "arm64")
    }
    top = put_index(registry, "team/python:3.12", digests)
    both = locked(place, registry, platforms=("linux/amd64", "linux/arm64"))
    assert str(both.base.digest) == top
    assert {row.platform: str(row.manifest) for row in both.base.images} == {
        f"linux/{arch}": digest for arch, digest in digests.items()
    }
    foreign = next(p for p in ("linux/amd64", "linux/arm64") if p != place.host.platform)
    one = locked(place, registry, platforms=(foreign,))
    assert [row.platform for row in one.base.images] == [foreign, place.host.platform]
    none = locked(place, registry, platforms=(foreign,), bytecode="none")
    assert [row.platform for row in none.base.images] == [foreign]
    # what only compiles is no part of what is locked
    same = replace(none, policy=one.policy)
    assert lock_digest(same) == lock_digest(one)


def test_platforms_must_have_one_python(place: World, registry: Registry) -> None:
    digests = {
        arch: put_base(registry, "team/python", [layer(small(arch, version))], architecture=arch)
        for arch, version in (("amd64", "3.12.4"), ("arm64", "3.12.5"))
    }
    put_index(registry, "team/python:3.12", digests)
    with pytest.raises(RequirementError, match="different Pythons") as caught:
        locked(place, registry, platforms=("linux/amd64", "linux/arm64"))
    assert "linux/arm64: /usr/local/bin/python3.12, 3.12.5" in str(caught.value)
    put_index(registry, "team/python:3.12", {"s390x": digests["amd64"]})
    with pytest.raises(RequirementError, match="has nothing for linux/amd64"):
        locked(place, registry)


def test_links_whiteouts_and_hard_links_are_followed_as_in_a_container(place: World, registry: Registry) -> None:
    moved = {name: content for name, content in SMALL.items() if not name.startswith("usr/bin")}
    later = {"usr/local/lib/.wh.python3.12": b"", "usr/lib/python3.12/os.py": b"", "usr/local/bin/.wh.python3": b""}
    put_base(registry, "team/python:3.12", [layer(moved), layer(later)])
    with pytest.raises(RequirementError, match="no standard library"):
        locked(place, registry)
    later |= {"usr/local/lib/python3.12": "-> /usr/lib/python3.12"}
    del later["usr/local/lib/.wh.python3.12"]
    put_base(registry, "team/python:deleted", [layer(SMALL), layer({"usr/local/bin/.wh.python3.12": b""})])
    with pytest.raises(RequirementError, match="no Python that can be used"):
        locked(place, registry, "team/python:deleted")
    opaque = {"usr/local/lib/python3.12/.wh..wh..opq": b"", "usr/local/lib/python3.12/abc.py": b""}
    put_base(registry, "team/python:3.12", [layer(moved), layer(later)])
    assert locked(place, registry).base.images[0].library == "usr/lib/python3.12"
    put_base(registry, "team/python:opaque", [layer(SMALL), layer(opaque)])
    with pytest.raises(RequirementError, match="no standard library"):
        locked(place, registry, "team/python:opaque")


REFUSED = {
    "no python": ({"bin/sh": b""}, "has no Python that can be used", "no python3 on its PATH"),
    "old": (
        {**SMALL, "usr/local/bin/python3": "-> python3.8", "usr/local/bin/python3.8": b"", "usr/bin/python3": b"",
         "usr/local/bin/python3.12": "-> python3.8"},
        "has no Python that can be used", "is Python 3.8",
    ),
    "another implementation": (
        {"usr/bin/python3": "-> pypy3.10", "usr/bin/pypy3.10": b"x"}, "has no Python", "/usr/bin/pypy3.10",
    ),
    "a link to itself": ({"usr/bin/python3": "-> python3"}, "has no Python", "no python3 on its PATH"),
    "musl": (
        SMALL | {"usr/local/bin/python3.12": b"\x7fELF\0/lib/ld-musl-x86_64.so.1\0\0003.12.4\0"},
        "another C library", "ld-musl",
    ),
    "no version": (
        SMALL | {"usr/local/bin/python3.12": b"\x7fELF\0/lib64/ld-linux-x86-64.so.2\0"},
        "does not tell", "full version",
    ),
    "two versions": (
        SMALL | {"usr/local/bin/python3.12": b"\x7fELF\0/lib64/ld-linux-x86-64.so.2\0\0003.12.4\0 \0003.12.5\0"},
        "does not tell", "full version",
    ),
    "no libc": ({k: v for k, v in SMALL.items() if "libc" not in k}, "does not tell", "C library"),
    "our places": (SMALL | {f"{VENV_DIR[1:]}/lib/evil.py": b""}, "has something where", "/opt/venv/lib"),
    "a link there": (SMALL | {"opt": "-> usr"}, "has something where", "/opt is a symlink"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_base_without_a_usable_python(name: str, place: World, registry: Registry) -> None:
    files, message, detail = REFUSED[name]
    put_base(registry, "team/base:1", [layer(files)])
    with pytest.raises(RequirementError, match=message) as caught:
        locked(place, registry, "team/base:1")
    assert detail in str(caught.value)
    assert caught.value.exit_code == 2 and caught.value.next


def test_a_path_with_several_pythons(place: World, registry: Registry) -> None:
    older = {
        "usr/bin/python3.11": b"\x7fELF\0/lib64/ld-linux-x86-64.so.2\0\0003.11.9\0",
        "usr/lib/python3.11/os.py": b"",
    }
    put_base(registry, "team/base:1", [layer({**SMALL, **older})])
    assert locked(place, registry, "team/base:1").base.python_version == "3.12.4"
    assert locked(place, registry, "team/base:1", python="3.11").base.interpreter == "/usr/bin/python3.11"
    with pytest.raises(RequirementError, match="no Python that can be used") as caught:
        locked(place, registry, "team/base:1", python="3.13")
    assert "asked for is 3.13" in str(caught.value)


def test_debian_packages_need_a_debian_base(place: World, registry: Registry) -> None:
    put_base(registry, "team/python:3.12", [layer(SMALL)])
    with pytest.raises(RequirementError, match="cannot be added to a base from a registry"):
        locked(place, registry, system=("libgomp1",))


def test_a_layer_that_lies_is_not_kept(place: World, registry: Registry) -> None:
    hostile = layer({**SMALL, "../../etc/passwd": b"root"})
    put_base(registry, "team/python:3.12", [hostile])
    with pytest.raises(ImageRefusedError, match="the base is refused"):
        locked(place, registry)
    from intermodal.oci.digest import Digest

    assert not Store(place.host.data_dir / "store").has(Digest.of(hostile))


def test_a_lost_layer_is_fetched_again_and_verified(place: World, registry: Registry) -> None:
    put_base(registry, "team/python:3.12", [layer(SMALL), layer({"etc/x": b"y"})])
    base = locked(place, registry).base
    store = Store(place.host.data_dir / "store")
    lost = base.images[0].layers[1]
    store.path(lost.digest).unlink()
    fetch_layers(base, place.host.platform, store=store, host=place.host)
    assert store.has(lost.digest)
    store.path(lost.digest).unlink()
    registry.state.blobs[str(lost.digest)] = b"x" * lost.size_bytes
    with pytest.raises(DownloadError, match="something else than blob"):
        fetch_layers(base, place.host.platform, store=store, host=place.host)
    assert not store.has(lost.digest)


def test_a_damaged_layer_of_the_store_is_not_believed(place: World, registry: Registry) -> None:
    put_base(registry, "team/python:3.12", [layer(SMALL | {"etc/other": b"z"})])
    row = locked(place, registry).base.images[0].layers[0]
    path = Store(place.host.data_dir / "store").path(row.digest)
    data = layer(SMALL | {"etc/Other": b"z"})
    assert len(data) == row.size_bytes
    path.write_bytes(data)
    with pytest.raises(StoreError, match="has another digest"):
        locked(place, registry)
    path.unlink()


def test_variables_that_no_lock_can_hold_are_left_out(place: World, registry: Registry) -> None:
    variables = ["FINE=1", "TWO WORDS=1", "LINE=a\nb", "=x", "EMPTY=", "no equals sign", "LD_PRELOAD=/evil.so"]
    put_base(registry, "team/python:3.12", [layer(SMALL)], variables=variables)
    found = locked(place, registry)
    assert found.base.images[0].environment == ("EMPTY=", "FINE=1", "PATH=/usr/local/bin:/usr/bin:/bin")
    assert parse_lock(lock_text(found).encode()).base == found.base


def test_an_interpreter_in_a_place_that_no_lock_can_hold(place: World, registry: Registry) -> None:
    odd = {name.replace("usr/local", "my python"): content for name, content in SMALL.items() if "usr/bin" not in name}
    put_base(registry, "team/python:3.12", [layer(odd)], path="/my python/bin")
    with pytest.raises(RequirementError, match="no Python that can be used"):
        locked(place, registry)


@pytest.mark.parametrize("reference", ["", "https://example.com/x", "UPPER CASE", "example.com/"])
def test_not_a_base(reference: str, place: World) -> None:
    with pytest.raises(InputError, match="not a base"):
        resolve_image(reference, ("linux/amd64",), host=place.host)


def test_a_lock_from_somebody_else(place: World, registry: Registry, tmp_path: Path) -> None:
    put_base(registry, "team/python:3.12", [layer(SMALL)])
    text = lock_text(locked(place, registry))
    for old, new in (
        ('interpreter = "/usr/local/bin/python3.12"', 'interpreter = "/usr/local/bin/sh"'),
        ('library = "usr/local', 'library = "../usr/local'),
        ("tar+gzip", "tar+lzip"),
        ('platform = "linux/amd64"', 'platform = "windows/amd64"'),
        ('"PATH=', '"=PATH'),
    ):
        assert old in text
        with pytest.raises(InputError, match="not a lock we can use"):
            parse_lock(text.replace(old, new).encode())
