"""Answer requests over a connection, one at a time, until the other side closes it.

Takes the control socket, over which the supervisor hands one connection after another (a new one when the front was
replaced), hands back frames: `outputs` as tensors, or `error` with a kind that the front turns into a status.

Rule: whatever the model does, the front gets a structured answer without any text of the exception, because that may
hold paths and values; the log gets the traceback under the request's id.
"""

from __future__ import annotations

import socket

from intermodal_server.control import receive as receive_control
from intermodal_server.frames import FrameError
from intermodal_server.log import Log
from intermodal_server.slab import SlabError
from intermodal_server.worker.backends.interface import Backend
from intermodal_server.worker.call import Failure, call
from intermodal_server.worker.channel import Channel


def serve_connections(control: socket.socket, model: Backend, log: Log) -> None:
    """Serve each connection that arrives over `control`, until that is closed."""
    while True:
        try:
            received = receive_control(control)
        except OSError:
            return
        if received is None:
            return
        for descriptor in received[1]:
            with socket.socket(fileno=descriptor) as connection:
                try:
                    serve(connection, model, log)
                except OSError:  # the front went away in the middle of an answer; a new connection will come
                    continue


def serve(connection: socket.socket, model: Backend, log: Log) -> None:
    """Answer the requests of one connection until the front closes it or breaks the format."""
    channel = Channel(connection)
    try:
        while _answer_one(channel, model, log):
            pass
    except FrameError as error:
        log.error("the front broke the frame format", reason=str(error))
    finally:
        channel.close()


def _answer_one(channel: Channel, model: Backend, log: Log) -> bool:
    frame = channel.receive()
    if frame is None:
        return False
    header, inputs = frame
    ids = [str(one) for one in header.get("ids", ())] or ["?"]
    answer = call(model, inputs, ids, log)
    inputs.clear()
    try:
        if isinstance(answer, Failure):
            released = channel.send({"error": {"kind": answer.kind, "message": answer.message}}, [])
        else:
            released = channel.send({}, answer)
    except (SlabError, FrameError, MemoryError) as problem:
        log.error("the outputs are too large to hand on", request=ids[0], reason=str(problem))
        released = channel.send({"error": {"kind": "model", "message": ""}}, [])
    if not released:
        log.warning("the model keeps its inputs: it gets copies from now on", request=ids[0])
    return True
