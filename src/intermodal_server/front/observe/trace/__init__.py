"""Traces: W3C trace context in, spans out by OTLP over HTTP. Imported only when the `OTEL_…` variables ask for it.

Takes exchanges at their begin and end, hands on spans to a collector, from a thread of its own.
"""
