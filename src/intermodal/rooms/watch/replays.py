"""Golden cases replayed aside: one thread, one replay at a time, so that judging never waits for a slow model.

Takes a target and the images' own metadata, offers `loop.Replays`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from intermodal.errors import IntermodalError
from intermodal.rooms.check.metadata import Metadata
from intermodal.rooms.deploy.live import Replayed, replay
from intermodal.rooms.deploy.revision import Exposure, Revision
from intermodal.rooms.deploy.target import Target


class LiveReplays:
    """Replays on a target.

    Args:
        target: where the revisions run.
        exposure: where the gateway offers the model.
        metadata: what the image of a revision says of itself.
        key: the API key that the server wants, read each time.
    """

    def __init__(
        self,
        target: Target,
        exposure: Exposure,
        metadata: Callable[[Revision], Metadata],
        key: Callable[[], str] = lambda: "",
    ) -> None:
        self._target, self._exposure, self._metadata, self._key = target, exposure, metadata, key
        self._thread: threading.Thread | None = None
        self._result: Replayed | None = None

    def begin(self, revision: Revision) -> None:
        """Replay a revision's cases, unless something is under way."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(revision,), name="golden", daemon=True)
            self._thread.start()

    def result(self) -> Replayed | None:
        """What came out, once."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        result, self._result = self._result, None
        return result

    def _run(self, revision: Revision) -> None:
        self._result = Replayed(revision.number, None, problems=("the replay broke off",))
        try:
            self._result = replay(self._target, revision.number, self._exposure, self._metadata(revision), self._key())
        except IntermodalError as error:
            self._result = Replayed(revision.number, None, problems=(str(error),))
