"""Messages between the supervisor and its children: one JSON object a packet, now and then with a descriptor.

Sequenced packets keep a message and its descriptor together and need no framing. Kinds, by direction:

front -> supervisor    started (it takes connections), beat(reason: why it is not ready), ready, unfit(reason),
                       kill(pid, reason: a worker, or itself), left(pid: a worker that has finished),
                       mode(mode: the front has decided where the model runs), measured(measured)
supervisor -> front    worker(worker, pid) with a connection, gone(worker, pid, reason), leave(worker, pid: let that one
                       finish), leave (finish and go), adopt with a client's connection, circuit(reason, retry_s),
                       failed(reason), drain
supervisor -> front    twin(pid) with one end of a socket, release(pid: let that twin finish)
supervisor -> twin     front with the other end
twin -> supervisor     beat, ready, unfit(reason)
worker -> supervisor   loaded, failed(reason)
supervisor -> worker   connection with a connection
"""

from __future__ import annotations

import json
import socket
from typing import Any

MAX_BYTES = 64 << 10
MAX_TEXT = 8 << 10


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends for control messages."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, kind: str, *, fd: int | None = None, **fields: Any) -> bool:
    """Send one message; False when the other side is gone or does not read."""
    cut = {key: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in fields.items()}
    data = json.dumps({"kind": kind, **cut}).encode()
    try:
        if fd is None:
            end.send(data)
        else:
            socket.send_fds(end, [data], [fd])
    except OSError:
        return False
    return True


def receive(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message with its descriptors, or None when the other side has closed.

    Raises:
        BlockingIOError: nothing is there yet, on a non-blocking end.
    """
    try:
        data, fds, _, _ = socket.recv_fds(end, MAX_BYTES, 1)
    except ConnectionError:
        return None
    if not data:
        return None
    message = json.loads(data)
    return message, list(fds)
