"""One call of the model, whatever it does: outputs, or a failure that says nothing the client must not read.

Takes a backend and inputs, hands on tensors or a `Failure`; used by worker processes and by the front when it runs the
model itself. The log gets the traceback under the request's id, unless several requests were in the call: each is then
tried again by itself and has its own line.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from intermodal_server.log import Log, in_words
from intermodal_server.tensors import Tensor, TensorError
from intermodal_server.worker.backends.interface import Backend


@dataclass(frozen=True)
class Failure:
    """Why there are no outputs: `kind` is "input" (`message` is for the client), "model", "gone" or "hung"."""

    kind: str
    message: str = ""


Answer = Union["list[Tensor]", Failure]


def call(model: Backend, inputs: Sequence[Tensor], ids: Sequence[str], log: Log) -> Answer:
    """What the model makes of `inputs`.

    Args:
        model: loaded.
        inputs: of one request or of several together.
        ids: of those requests.
        log: of this process.
    """
    try:
        return model.predict(inputs)
    except TensorError as error:  # worded by us for the client
        return Failure("input", str(error))
    except BaseException as error:  # a model may raise anything, SystemExit too
        if len(ids) == 1:
            log.error(
                "the model failed on a request",
                request=ids[0],
                reason=in_words(error),
                traceback=traceback.format_exc(),
            )
        return Failure("model")
