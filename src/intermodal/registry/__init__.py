"""Registries: the one client for OCI distribution 1.1, and the local store as a registry of its own.

Takes a `Host` and a reference as typed; hands on verified bytes, or puts ours there. From the outside inwards:

    client      what a repository can do: manifests, tags, blobs, referrers, deletes
    upload, download      one blob, to its end, over broken connections
    transport   one request: credentials, redirects, retries, and what an answer means
    auth, credentials, challenge      who we are, to whom, and where that is kept
    wire        connections: proxies, certificates, time limits
    documents   what a stranger's manifest must be before anything believes it

Docker's v2 manifests are read, too, and never written. The other side, which answers pulls from the local store, is
`loopback` (sockets), `answers` and `catalog`. Sockets are opened in `wire` and `loopback` alone. Nothing here writes
into the store, and nothing prints.
"""
