"""Closed-form knowledge editing: MEMIT, AlphaEdit and BetaEdit on one exact O(d²) engine.

Matrices are numpy arrays, or torch tensors on any device, which are read by `__array__` or DLPack. Keys are d_in x n and residuals
d_out x n, a column an edit: of torch's `n x d_in`, the transpose. float32 and float64 in C or Fortran order are read without a copy;
results are new arrays.

    moment = betaedit.SecondMoment(d_in)
    moment.observe(keys)                                  # of some text, d_in x tokens
    spectrum = betaedit.Spectrum(moment)
    editor = betaedit.BetaEdit(lambda1=600.0).editor(spectrum)
    update = editor.edit(keys, residuals)                 # Delta = update.left @ update.right

| module | holds |
|---|---|
| `betaedit.hf` | models of `transformers`, edited in place (needs torch and transformers) |
| `betaedit.dropin` | the solving line of the AlphaEdit and EasyEdit programs |
| `betaedit.ray` | statistics and targets on many machines (needs ray) |
| `betaedit.metrics`, `betaedit.files` | metrics of updates; files |

`threads` is the number of threads of a call, 0 for all cores. Equal threads give equal bits.
"""

from . import errors, files, metrics
from ._core import (
    Editor,
    KeyStatistics,
    LoraAdapter,
    Method,
    Projector,
    Proposal,
    SecondMoment,
    Session,
    Spectrum,
    Statistics,
    Update,
    __version__,
    check_adapter,
)
from ._core import methods as methods_table
from .adapter import Adapter
from .errors import Error, FactsError, FileError, ModelError, NumericsError, SessionError
from .methods import AlphaEdit, BetaEdit, Emmet, Encore, Memit, NullSpace, Pmet, RlsEdit, SimIe, method

__all__ = [
    "Adapter",
    "AlphaEdit",
    "BetaEdit",
    "Editor",
    "Emmet",
    "Encore",
    "Error",
    "FactsError",
    "FileError",
    "KeyStatistics",
    "LoraAdapter",
    "Memit",
    "Method",
    "ModelError",
    "NullSpace",
    "NumericsError",
    "Pmet",
    "Projector",
    "Proposal",
    "RlsEdit",
    "SecondMoment",
    "Session",
    "SessionError",
    "SimIe",
    "Spectrum",
    "Statistics",
    "Update",
    "__version__",
    "check_adapter",
    "errors",
    "files",
    "method",
    "methods_table",
    "metrics",
]
