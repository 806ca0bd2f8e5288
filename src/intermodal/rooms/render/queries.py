"""Questions to Prometheus about a model: what alerts and dashboard ask, in one place.

Takes a matcher of labels and a range, hands on PromQL. Every series has the labels `model` and `revision`, which the
scrape file gives; copies and golden cases are other `traffic` and no user's.
"""

from __future__ import annotations

LIVE = 'traffic="live"'
BY = "model, revision"


def requests(labels: str, span: str, *, more: str = "") -> str:
    """Users' requests a second, by revision."""
    return f"sum by ({BY}) (rate(intermodal_requests_total{{{_all(labels, LIVE, more)}}}[{span}]))"


def errors(labels: str, span: str) -> str:
    """The share of users' requests that the server failed, by revision; 0 where there are none of them."""
    bad, every = requests(labels, span, more='code=~"5.."'), requests(labels, span)
    return f"({bad} or 0 * {every}) / {every}"


def quantile(labels: str, span: str, share: float, metric: str = "intermodal_request_duration_seconds") -> str:
    """A quantile of the seconds that users waited, by revision."""
    rate = f"sum by (le, {BY}) (rate({metric}_bucket{{{_all(labels, LIVE)}}}[{span}]))"
    return f"histogram_quantile({share}, {rate})"


def weight(labels: str, span: str) -> str:
    """The share of users' requests that each revision got."""
    every = f"sum by (model) (rate(intermodal_requests_total{{{_all(labels, LIVE)}}}[{span}]))"
    return f"{requests(labels, span)} / on (model) group_left () {every}"


def classes(labels: str, span: str, *, offset: str = "") -> str:
    """The share of each predicted class, by revision and output."""
    series = f"intermodal_predictions_total{{{_all(labels, LIVE)}}}[{span}]{f' offset {offset}' if offset else ''}"
    return (
        f"sum by ({BY}, output, class) (rate({series})) "
        f"/ on ({BY}, output) group_left () sum by ({BY}, output) (rate({series}))"
    )


def moved(labels: str, span: str, offset: str) -> str:
    """How much of the predictions has moved to other classes since `offset` ago: 0 is nothing, 1 all."""
    now, then = classes(labels, span), classes(labels, span, offset=offset)
    gone = f"({then}) unless ({now})"
    come = f"(({now}) unless ({then})) and on ({BY}, output) ({then})"  # of a revision that was there then
    both = f"abs(({now}) - ({then}))"
    return f"sum by ({BY}, output) (({both}) or ({gone}) or ({come})) / 2"


def asked(labels: str, span: str) -> str:
    """How many requests of users there were, by revision."""
    return f"sum by ({BY}) (increase(intermodal_requests_total{{{_all(labels, LIVE)}}}[{span}]))"


def _all(*matchers: str) -> str:
    return ", ".join(one for one in matchers if one)
