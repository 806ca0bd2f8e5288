"""Look over a large body of JSON before dictionaries are made of it: a million different keys hold everybody up.

Takes a body, refuses one with more different keys than any request has. The decoder cannot be interrupted, and makes a
string and a place in a table for every new key: a million take 0.4 s, in which nobody else is answered. Equal keys cost
little, so tables of records may be as long as they like.

Rules, in order: a body with at most `MAX_NAMES` colons is let through, because every key has one, and so is one too
short for more; else its strings are
walked, and those before a colon are the keys; what is walked gives way to others every `STRIDE` strings. Escapes stay
as they were written, so a key written in two ways counts twice. What is no JSON is not found out here.

Spec: RFC 8259, "Objects", "Strings".
"""

from __future__ import annotations

import asyncio

from intermodal_server.front.limits import Body, Refusal

MAX_NAMES = 1 << 17
STRIDE = 4096
SMALL_BYTES = 3 * MAX_NAMES  # a key has two quotation marks and a colon
_AHEAD = 64  # as much white space between a key and its colon as is looked through; beyond it counts as a key
_SPACE = b" \t\r\n"


async def check_names(body: Body, end: int | None = None) -> None:
    """Return when the JSON in `body`, up to `end`, has few different keys.

    Raises:
        Refusal: 413.
    """
    if len(body) <= SMALL_BYTES or body.count(b":", 0, end) <= MAX_NAMES:
        return
    text = bytes(body if end is None else body[:end])
    await asyncio.sleep(0)
    if b"\\" in text:  # so that every quotation mark left ends or begins a string; a raw control character is no JSON
        text = text.replace(b"\\\\", b"\1\1").replace(b'\\"', b"\1\2")
        await asyncio.sleep(0)
    names: set[bytes] = set()
    place = strings = 0
    while (start := text.find(b'"', place)) >= 0 and (stop := text.find(b'"', start + 1)) >= 0:
        place = stop + 1
        following = text[place : place + 1]
        if following in _SPACE:
            following = text[place : place + _AHEAD].lstrip(_SPACE)[:1]
        if following in (b":", b""):
            names.add(text[start + 1 : stop])
            if len(names) > MAX_NAMES:
                raise Refusal(413, f"the JSON has more than {MAX_NAMES} different keys")
        strings += 1
        if strings % STRIDE == 0:
            await asyncio.sleep(0)
