"""Batches are counted although only requests are seen; only requests that asked the model count."""

from __future__ import annotations

import time

import pytest

from intermodal_server.front import statistics
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.statistics import Statistics


def _asked(rows: int, batch_rows: int, compute_s: float = 0.004, queue_s: float = 0.001) -> Exchange:
    exchange = Exchange.own("live")
    exchange.protocol = "v2"
    exchange.rows, exchange.batch_rows = rows, batch_rows
    exchange.compute_s, exchange.queue_s = compute_s, queue_s
    return exchange


def test_requests_that_went_together_are_one_batch() -> None:
    counted = Statistics()
    for rows in (1, 1, 2):
        counted.observe(_asked(rows, 4), 200)
    counted.observe(_asked(1, 1), 200)
    counted.observe(_asked(3, 0), 200)  # alone, with an executor that notes no batch
    (model,) = counted.as_json("m", "1")["model_stats"]
    assert (model["inference_count"], model["execution_count"]) == (8, 3)
    sizes = {batch["batch_size"]: batch["compute_infer"] for batch in model["batch_stats"]}
    assert sizes == {size: {"count": 1, "ns": 4_000_000} for size in (1, 3, 4)}
    stats = model["inference_stats"]
    assert stats["compute_infer"] == {"count": 5, "ns": 20_000_000}
    assert stats["queue"] == {"count": 5, "ns": 5_000_000}
    assert abs(model["last_inference"] - time.time() * 1000) < 60_000


def test_failures_have_no_rows_and_probes_do_not_count() -> None:
    counted = Statistics()
    counted.observe(_asked(7, 7), 500)
    counted.observe(_asked(7, 7), 499)
    counted.observe(Exchange.own("live"), 200)
    (model,) = counted.as_json("m", "1")["model_stats"]
    assert (model["inference_count"], model["last_inference"], model["batch_stats"]) == (0, 0, [])
    stats = model["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (0, 2)


def test_odd_sizes_without_end_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_SIZES", 3)
    counted = Statistics()
    for rows in range(1, 11):
        counted.observe(_asked(rows, rows), 200)
    (model,) = counted.as_json("m", "1")["model_stats"]
    assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in model["batch_stats"]] == [
        (0, 7),
        (1, 1),
        (2, 1),
        (3, 1),
    ]
