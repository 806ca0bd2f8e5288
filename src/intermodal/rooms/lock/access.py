"""Indexes that refuse access are found before uv is asked.

Takes the machine's indexes; hands on nothing, or the error. uv passes over an index that answers 401 when it merges
several: a private index with a wrong password would be replaced by the public one, silently, and a stranger's package
of the same name would be locked.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from intermodal.errors import DownloadError, IndexUnreachableError
from intermodal.fetch.transfer import NotThereError, Transfers, shown
from intermodal.host import Host
from intermodal.host.pip import PUBLIC_INDEX


def check_access(host: Host, name: str) -> None:
    """Ask every private index for one distribution; that it does not know it is fine.

    Only where indexes are merged: a single index's refusal is told by uv itself.

    Raises:
        IndexUnreachableError: an index wants other credentials, or does not answer.
    """
    config = host.indexes
    private = [index for index in config.indexes if index.startswith("http") and index != PUBLIC_INDEX]
    if config.uv_environment().get("UV_INDEX_STRATEGY") != "unsafe-best-match":
        return
    with Transfers(host) as transfers:
        for index in private:
            try:
                with transfers.open(f"{index}/{name}/"):
                    pass
            except NotThereError:
                continue
            except DownloadError as error:
                if " answered 401" not in "".join(error.found):
                    continue  # some indexes answer 403 for names they do not have
                raise IndexUnreachableError(
                    f"{urlsplit(shown(index)).netloc} refuses access",
                    found=error.found,
                    next=error.next,
                ) from error
