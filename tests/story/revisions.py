"""The seven revisions of the story, as sources of a predictor of a few lines."""

from __future__ import annotations

from support.served_image import golden, predictor, served_image

from intermodal.golden.cases import GoldenFile
from intermodal.oci.layout import Store
from intermodal_server.contract import ServeSettings

MODEL = "parity"
PAUSE_S = 0.025  # what a prediction takes; twice as much stands out from the noise of a crowded machine
WORKERS = 10  # of each replica, so that 200 requests a second leave it idle for most of the time


def _source(*, start: str = "", extra: str = "", odd: str = "int(value) % 2", pause_s: float = PAUSE_S) -> str:
    work = f"time.sleep({pause_s}); {extra or 'pass'}"
    return predictor(start=start, extra=work, answer=f'"odd" if {odd} else "even"')


SOURCES = {
    1: _source(),
    2: _source(odd="int(value) % 2 or int(value) % 100 == 0"),  # an honest retrain: 1.4 % of the answers are others
    3: _source(start="import random", extra="assert x[0] < 100 or random.random() > 0.05, 'one of twenty'"),
    4: _source(pause_s=2 * PAUSE_S),
    5: _source(odd="(int(value) + (value >= 100)) % 2"),  # the two classes swapped, but not for the golden cases
    6: _source(odd="not int(value) % 2"),
    7: _source(start="raise RuntimeError('no weights here')"),
}
GOLDEN = golden({2.0: "even", 3.0: "odd"})


def make(store: Store, number: int, *, cases: GoldenFile | None = GOLDEN, source: str = "") -> str:
    """The name of a revision's image, which is made."""
    name = f"{MODEL}:{number}"
    # the sixth would be refused by its own server; here the rollout has to see it
    check = "off" if number == 6 else "fail"
    serve = ServeSettings(mode="workers", workers=WORKERS, max_batch_rows=1, drain_s=0.8, start_check=check)
    served_image(store, name, source or SOURCES[number], model=MODEL, cases=cases, serve=serve)
    return name
