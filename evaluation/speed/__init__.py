"""Latency and memory."""
