"""Metrics of updates: leakage, expected loss, what is written, stability, room, interference; running totals and retention."""

from ._core import (
    Retention,
    RunningTotal,
    expected_loss,
    interference,
    leakage,
    room,
    stability,
    write_errors,
    written,
)

__all__ = [
    "Retention",
    "RunningTotal",
    "expected_loss",
    "interference",
    "leakage",
    "room",
    "stability",
    "write_errors",
    "written",
]
