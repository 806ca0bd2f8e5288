"""The committed form of a lock: no addresses, yet every byte pinned, and the same image as with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.debian_archive import use
from support.locks import World, world
from support.loopback import serving

from intermodal.errors import DriftError, HostError
from intermodal.fetch import fetch_all
from intermodal.oci.layout import Store
from intermodal.project.value import Project
from intermodal.rooms.build import Image, build
from intermodal.rooms.lock import Lock, lock
from intermodal.rooms.lock.debian.sources import deb_addresses
from intermodal.rooms.lock.lockfile import lock_digest, read_lock, write_lock
from intermodal.rooms.lock.obtain import obtain
from intermodal.rooms.lock.requests import requests

PLATFORM = "linux/amd64"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def locked(here: World, project: Project, *, no_urls: bool, keep: bool = False) -> Lock:
    """The project's lock, written and read back; made anew unless an earlier one is to be kept."""
    if not keep:
        project.lock_path.unlink(missing_ok=True)
    write_lock(lock(here.card(), project, host=here.host, keyring=here.keyring, no_urls=no_urls), project.lock_path)
    return read_lock(project.lock_path)


def built(here: World, project: Project, store: str) -> Image:
    """The image of the lock that lies in the project, from empty caches."""
    shutil.rmtree(here.host.cache_dir, ignore_errors=True)
    found, _ = obtain(here.card(), project, host=here.host, keyring=here.keyring)
    return build(found, here.card(), project, store=Store(here.folder / store).open_or_create(), host=here.host)


def hashes(found: Lock) -> list[tuple[str, int, str]]:
    """Name, size and hash of every file that a lock pins."""
    wheels = [wheel for row in (*found.packages, *found.server.packages) for wheel in row.wheels]
    return sorted((row.filename, row.size_bytes, row.digest.hex) for row in (*found.base.packages, *wheels))


def test_every_file_by_name_version_size_and_hash(here: World) -> None:
    project = here.project("scikit-learn")
    whole = locked(here, project, no_urls=False)
    bare = locked(here, project, no_urls=True)
    text = project.lock_path.read_text()
    assert "127.0.0.1" not in text and "://" not in text and str(here.folder) not in text
    assert 'path = "numpy-2.4.6-py3-none-any.whl"' in text
    assert hashes(bare) == hashes(whole)
    assert len(bare.base.packages) > 8 and all(size for _, size, _ in hashes(bare))
    assert [(row.name, row.version) for row in bare.base.packages] == [
        (row.name, row.version) for row in whole.base.packages
    ]
    assert (lock_digest(bare), bare.environment_digest) == (lock_digest(whole), whole.environment_digest)
    assert fetch_all(requests(bare, PLATFORM, host=here.host), host=here.host)


def test_the_same_image_with_and_without_and_from_other_mirrors(here: World) -> None:
    project = here.project("scikit-learn", bytecode="none")
    locked(here, project, no_urls=False)
    with_urls = built(here, project, "one")
    text = locked_text(here, project)
    bare = built(here, project, "two")
    assert (bare.digest, bare.lock_digest) == (with_urls.digest, with_urls.lock_digest)
    assert [layer.digest for layer in bare.layers] == [layer.digest for layer in with_urls.layers]
    assert not any(layer.reused for layer in bare.layers)
    shutil.move(here.folder / "debian", here.folder / "elsewhere")
    shutil.move(here.folder / "index", here.folder / "mirrored")
    with pytest.raises(HostError):
        built(here, project, "three")
    with serving(here.folder / "elsewhere") as mirror:
        use(here.folder / "etc" / "apt", mirror.url)
        here.host = replace(
            here.host,
            environment={**here.host.environment, "PIP_INDEX_URL": (here.folder / "mirrored" / "simple").as_uri()},
        )
        moved = built(here, project, "four")
    assert moved.digest == with_urls.digest
    assert project.lock_path.read_text() == text, "building must not write addresses into a committed lock"


def locked_text(here: World, project: Project) -> str:
    locked(here, project, no_urls=True)
    return project.lock_path.read_text()


def test_another_package_under_the_same_name_is_refused(here: World) -> None:
    project = here.project("numpy", bytecode="none")
    found = locked(here, project, no_urls=True)
    shutil.rmtree(here.host.cache_dir)
    here.archive.key = "Somebody Else"
    (row,) = [row for row in found.base.packages if row.name == "netbase"]
    (here.folder / "debian" / row.filename).write_bytes(b"x" * row.size_bytes)
    with pytest.raises(HostError, match="netbase") as caught:
        built(here, project, "one")
    assert "sha256" in str(caught.value)


def test_an_index_that_states_no_sizes(here: World) -> None:
    project = here.project("numpy")
    for page in (here.folder / "index").rglob("index.html"):
        assert "size" not in page.read_text()
    here.host = replace(
        here.host, environment={**here.host.environment, "PIP_INDEX_URL": f"{here.site.url}/index/simple"}
    )
    (here.folder / "served" / "index").symlink_to(here.folder / "index")
    whole = locked(here, project, no_urls=False)
    assert not any(wheel.size_bytes for row in whole.packages for wheel in row.wheels), "nothing to look up"
    bare = locked(here, project, no_urls=True)
    for row in (*bare.packages, *bare.server.packages):
        for wheel in row.wheels:
            assert wheel.size_bytes == (here.folder / "wheels" / wheel.filename).stat().st_size


def test_an_address_that_the_project_names_stays(here: World) -> None:
    wheel = next((here.folder / "wheels").glob("joblib-*.whl"))
    (here.folder / "served" / wheel.name).write_bytes(wheel.read_bytes())
    url = f"{here.site.url}/{wheel.name}"
    project = here.project(f"joblib @ {url}", "numpy")
    bare = locked(here, project, no_urls=True)
    assert {row.name: row.wheels[0].url for row in bare.packages} == {"joblib": url, "numpy": ""}
    assert fetch_all(requests(bare, PLATFORM, host=here.host), host=here.host)


def test_a_later_lock_keeps_the_pinned_base(here: World) -> None:
    project = here.project("numpy")
    bare = locked(here, project, no_urls=True)
    again = locked(here, project, no_urls=True, keep=True)
    assert again == bare
    assert locked(here, project, no_urls=False, keep=True).base.packages == bare.base.packages


def test_a_lock_without_debian_packages_says_nothing_about_its_base(here: World) -> None:
    project = here.project("numpy")
    found = locked(here, project, no_urls=True)
    write_lock(replace(found, base=replace(found.base, packages=())), project.lock_path)
    with pytest.raises(DriftError, match="no longer describes") as caught:
        obtain(here.card(), project, host=here.host, keyring=here.keyring)
    assert "no Debian packages" in caught.value.found[0]


def test_where_a_package_may_lie(here: World) -> None:
    date = "Sat, 11 Jul 2026 10:16:37 UTC"
    use(here.folder / "etc" / "apt", "http://one.example/debian")
    sources = here.folder / "etc" / "apt" / "sources.list"
    lines = [line for line in sources.read_text().splitlines() if "-security" not in line]
    sources.write_text("\n".join([*lines, "deb http://two.example/debian-security bookworm-security main"]))
    security = "pool/updates/main/o/openssl/libssl3_3.0.22_amd64.deb"
    snapshot = "https://snapshot.debian.org/archive"
    assert deb_addresses(here.host, "", security, "bookworm", date)[:3] == (
        f"http://two.example/debian-security/{security}",
        f"http://one.example/debian/{security}",
        f"{snapshot}/debian-security/20260712T101637Z/{security}",
    )
    main = "pool/main/n/netbase/netbase_6.4_all.deb"
    assert deb_addresses(here.host, "", main, "bookworm", date)[:3] == (
        f"http://one.example/debian/{main}",
        f"http://two.example/debian-security/{main}",
        f"{snapshot}/debian/20260712T101637Z/{main}",
    )
