"""Downloads, for the rooms: files by digest into a cache, and small documents.

The only place beside `engine` and `registry` that opens sockets. Takes `Request`s or an address and a `Host`; hands
on paths or bytes.
"""

from intermodal.fetch.download import Request, fetch_all
from intermodal.fetch.transfer import NotThereError, fetch_bytes

__all__ = ["NotThereError", "Request", "fetch_all", "fetch_bytes"]
