"""Answer requests over a connection, one at a time, until the other side closes it.

Takes the control socket, over which the supervisor hands one connection after another (a new one when the front was
replaced), hands back frames: `outputs` as tensors, or `error` with a kind that the front turns into a status.

Rule: whatever the model does, the front gets a structured answer without any text of the exception, because that may
hold paths and values; the log gets the traceback under the request's id.
"""

from __future__ import annotations

import socket
import traceback
from typing import Any

from intermodal_server.control import receive as receive_control
from intermodal_server.frames import FrameError, receive, send
from intermodal_server.log import Log, in_words
from intermodal_server.tensors import TensorError
from intermodal_server.worker.backends.interface import Backend


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
    while True:
        try:
            frame = receive(connection)
        except FrameError as error:
            log.error("the front broke the frame format", reason=str(error))
            return
        if frame is None:
            return
        header, tensors = frame
        answer: dict[str, Any] = {"id": header.get("id")}
        try:
            outputs = model.predict(tensors)
        except TensorError as error:  # worded by us for the client
            send(connection, {**answer, "error": {"kind": "input", "message": str(error)}})
        except BaseException as error:  # a model may raise anything, SystemExit too
            log.error(
                "the model failed on a request",
                request=header.get("id"),
                reason=in_words(error),
                traceback=traceback.format_exc(),
            )
            send(connection, {**answer, "error": {"kind": "model"}})
        else:
            send(connection, answer, outputs)
