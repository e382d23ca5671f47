"""Metrics, access log, tracing, health."""
