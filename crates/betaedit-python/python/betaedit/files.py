"""Files: statistics, updates, LoRA adapters, spectra, projectors."""

from ._core import (
    LoraAdapter,
    Statistics,
    read_delta,
    read_projector,
    read_spectrum,
    write_delta,
    write_lora,
    write_spectrum,
)

__all__ = [
    "LoraAdapter",
    "Statistics",
    "read_delta",
    "read_projector",
    "read_spectrum",
    "write_delta",
    "write_lora",
    "write_spectrum",
]
