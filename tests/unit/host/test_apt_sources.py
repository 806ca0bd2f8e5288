from __future__ import annotations

from pathlib import Path

from support.hosts import empty_host

from intermodal.host.apt import AptSource, parse_deb822, parse_lines

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/
  https://second.example/debian
Suites: bookworm bookworm-updates
# in between
Components: main contrib
Signed-By: /usr/share/keyrings/whatever.gpg

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: mirror+file:/etc/apt/mirrors cdrom:[Debian]/ file:/srv/mirror
Suites: trixie
Components: main
"""

LINES = """\
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # trailing
deb [arch=amd64 trusted=yes signed-by=/k.gpg] https://third.example/apt stable main
deb-src http://mirror.example/debian bookworm main
  deb  http://spaced.example/debian/   trixie   main
deb http://flat.example/repo ./
"""


def test_deb822() -> None:
    assert list(parse_deb822(DEB822)) == [
        AptSource("http://mirror.example/debian", ("bookworm", "bookworm-updates"), ("main", "contrib")),
        AptSource("https://second.example/debian", ("bookworm", "bookworm-updates"), ("main", "contrib")),
        AptSource("file:///srv/mirror", ("trixie",), ("main",)),
    ]


def test_one_line_style() -> None:
    assert list(parse_lines(LINES)) == [
        AptSource("http://mirror.example/debian", ("bookworm",), ("main", "contrib")),
        AptSource("https://third.example/apt", ("stable",), ("main",)),
        AptSource("http://spaced.example/debian", ("trixie",), ("main",)),
        AptSource("http://flat.example/repo", ("./",), ()),
    ]


def test_the_folder_is_read_in_order_and_twice_the_same_counts_once(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    parts = tmp_path / "etc" / "apt" / "sources.list.d"
    parts.mkdir()
    (tmp_path / "etc" / "apt" / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (parts / "b.sources").write_text("Types: deb\nURIs: http://b.example/debian\nSuites: trixie\nComponents: main\n")
    (parts / "a.list").write_text("deb http://a.example/debian bookworm main\n")
    (parts / "b.sources.save").write_text("Types: deb\nURIs: http://no.example/\nSuites: x\nComponents: main\n")
    assert [source.uri for source in host.apt_sources] == ["http://a.example/debian", "http://b.example/debian"]


def test_off_debian_there_is_nothing(tmp_path: Path) -> None:
    assert empty_host(tmp_path).apt_sources == ()
