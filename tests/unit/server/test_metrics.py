"""Counters of requests, by hand: times, rows and batches as an executor notes them."""

from __future__ import annotations

from itertools import pairwise

from support.exposed import read_metrics

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe.exposition import render
from intermodal_server.front.observe.metrics import FINE_EDGES_S, Metrics, triton_families


def asked(rows: int, batch_rows: int, queue_s: float, compute_s: float, protocol: str = "v2") -> Exchange:
    exchange = Exchange.own("live")
    exchange.protocol, exchange.started_s = protocol, 0.0
    exchange.rows, exchange.batch_rows, exchange.queue_s, exchange.compute_s = rows, batch_rows, queue_s, compute_s
    return exchange


def test_waiting_computing_and_batches_are_counted() -> None:
    now = [0.5]
    metrics = Metrics(clock=lambda: now[0], now=lambda: 0.0)
    three = [asked(1, 4, 0.002, 0.01), asked(3, 4, 0.0, 0.01), asked(2, 2, 0.0, 0.02)]
    for exchange in three:
        metrics.began(exchange)
        metrics.ended(exchange, 200)
    metrics.began(three[0])
    metrics.ended(asked(5, 5, 0.1, 0.3), 500)  # it reached the model, and failed
    metrics.began(three[0])
    metrics.ended(asked(0, 0, 0.0, 0.0), 429)  # it did not
    metrics.began(three[0])  # and one is under way
    for openmetrics in (False, True):
        families = [*metrics.families(), *triton_families(metrics, {"model": "m", "version": "1"}, 7)]
        page = read_metrics("".join(render(families, openmetrics=openmetrics)), openmetrics=openmetrics)
        assert page.value("intermodal_rows_total", traffic="live") == 6
        assert page.value("intermodal_batch_rows_bucket", traffic="live", le="2.0") == 1
        assert page.value("intermodal_batch_rows_bucket", traffic="live", le="4.0") == 3
        assert page.value("intermodal_batch_rows_count", traffic="live") == 4
        assert page.value("intermodal_compute_duration_seconds_count", traffic="live") == 4
        assert round(page.value("intermodal_compute_duration_seconds_sum", traffic="live"), 9) == 0.34
        assert round(page.value("intermodal_queue_duration_seconds_sum", traffic="live"), 9) == 0.102
        assert page.value("intermodal_request_duration_seconds_count", traffic="live") == 5
        assert page.value("intermodal_request_duration_seconds_bucket", traffic="live", le="0.5") == 5
        assert page.value("intermodal_request_duration_seconds_bucket", traffic="live", le="0.45") == 0
        assert page.value("intermodal_inflight_requests") == 1
        assert page.value("nv_inference_exec_count", model="m") == 3  # two requests shared one, one failed
        assert page.value("nv_inference_count", version="1") == 6
        assert page.value("nv_inference_queue_duration_us") == 102_000
        assert page.value("nv_inference_pending_request_count") == 7


def test_edges_are_fine_enough_for_a_judge() -> None:
    assert FINE_EDGES_S[0] == 0.0001
    assert FINE_EDGES_S[-1] == 63.0
    steps = [high / low for low, high in pairwise(FINE_EDGES_S)]
    assert 1.09 < min(steps) <= max(steps) < 1.15
