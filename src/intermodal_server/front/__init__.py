"""The protocol side of the server: HTTP with its own packages, no numpy, no framework.

`main` starts it, `app` routes, `v2` and `predict` speak the dialects, `dispatch` hands requests to workers over `link`,
`health` holds what the probes say, `protocol` and `limits` keep bad clients away.
"""
