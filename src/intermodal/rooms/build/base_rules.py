"""Which files of Debian packages stay out of an image: a versioned list.

`RULES_VERSION` belongs to the identity of every layer made with these rules: change the list, raise the
number.

Rules, in words, in this order:
1. Copyright files, the links to folders that hold them, and the common licences always stay.
2. Documentation, translations of messages, character set converters (glibc's gconv), right/ and posix/ copies
   of the time zones, and whatever serves only a desktop, a debugger, an init system or dpkg's helpers go.
3. Single CA certificates go, because all of them stand in one bundle.
4. Of Python's standard library go the parts that serve tests, IDLE, Tk, 2to3, pip's bootstrap and `help()`.
5. A package named in `prune = { keep = […] }` keeps everything.
"""

from __future__ import annotations

import re
from functools import cache

RULES_VERSION = 1

_KEPT = re.compile(r"usr/share/doc/[^/]+(?:/copyright)?|usr/share/common-licenses/.*")

_PRUNED_FOLDERS = (
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/man",
    "usr/share/info",
    "usr/share/help",
    "usr/share/locale",
    "usr/share/i18n",
    "usr/share/lintian",
    "usr/share/linda",
    "usr/share/bug",
    "usr/share/apport",
    "usr/share/menu",
    "usr/share/applications",
    "usr/share/pixmaps",
    "usr/share/icons",
    "usr/share/bash-completion",
    "usr/share/zsh",
    "usr/share/fish",
    "usr/share/gdb",
    "usr/share/gcc",
    "usr/share/binfmts",
    "usr/share/base-files",
    "usr/share/debconf",
    "usr/share/python3",
    "usr/share/readline",
    "usr/share/zoneinfo/right",
    "usr/share/zoneinfo/posix",
    "usr/share/ca-certificates",
    "usr/lib/valgrind",
    "usr/lib/binfmt.d",
    "usr/lib/systemd",
    "usr/lib/tmpfiles.d",
    "usr/lib/sysusers.d",
    "usr/lib/udev",
    "etc/init.d",
    "etc/update-motd.d",
    "etc/profile.d",
)

_PRUNED_PATTERNS = (
    r"usr/lib/(?:[^/]+-linux-gnu[^/]*/)?gconv(?:/.*)?",
    r"usr/bin/(?:py3clean|py3compile|py3versions|pydoc3[^/]*|pygettext3[^/]*|pdb3[^/]*|2to3[^/]*)",
    r"usr/sbin/update-ca-certificates",
    r"etc/issue(?:\.net)?",
    r"usr/lib/[^/]+-linux-gnu[^/]*/(?:libmemusage|libpcprofile|libc_malloc_debug)\.so[^/]*",
    r"usr/lib/[^/]+\.a|usr/lib/[^/]+-linux-gnu[^/]*/[^/]+\.l?a",
    r"usr/lib/python3\.\d+/"
    r"(?:test|idlelib|ensurepip|lib2to3|pydoc_data|tkinter|turtledemo|distutils/tests|unittest/test|ctypes/test|"
    r"sqlite3/test|__phello__)(?:/.*)?",
    r"usr/lib/python3\.\d+/(?:turtle|__hello__|this|antigravity)\.py",
    r"usr/lib/python3\.\d+/lib-dynload/(?:_test\w*|_ctypes_test|_xxtestfuzz|xxlimited\w*|xxsubtype)\.[^/]+",
    r".*/__pycache__(?:/.*)?",
)


@cache
def _pruned() -> re.Pattern[str]:
    folders = "|".join(re.escape(folder) for folder in _PRUNED_FOLDERS)
    return re.compile("|".join((rf"(?:{folders})(?:/.*)?", *_PRUNED_PATTERNS)))


def is_pruned(path: str) -> bool:
    """Whether `path` (merged into /usr, relative to the root) stays out of the image.

    >>> is_pruned("usr/share/man/man1/python3.1.gz"), is_pruned("usr/share/doc/libc6/copyright")
    (True, False)
    """
    return _pruned().fullmatch(path) is not None and _KEPT.fullmatch(path) is None
