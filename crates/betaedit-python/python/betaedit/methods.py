"""The methods as classes. Each is a `Method`, with the hyperparameters of its paper as keywords.

A threshold is a number (an absolute eigenvalue), or `{"relative-to-largest": x}`, `{"kept-energy": x}`, `{"directions": n}`. A refresh is
"never", `{"every": {"edits": 100, "rule": {"nested": {"weight": 1.0}}}}`, or `{"continuous": {"weight": 1e-4}}`; rules are `maximal`,
`nested` and `{"full": {"sum": {"weight": 1.0}}}`.
"""

from math import isfinite

from ._core import Method
from .errors import NumericsError

__all__ = ["AlphaEdit", "BetaEdit", "Emmet", "Encore", "Memit", "NullSpace", "Pmet", "RlsEdit", "SimIe", "method"]


def _plain(name, value):
    """A hyperparameter in the form that files have."""
    if isinstance(value, float) and not isfinite(value):
        raise NumericsError(f"{name} is {value}: expected a finite number")
    if name == "threshold" and isinstance(value, (int, float)):
        return {"absolute": float(value)}
    pairs = {"slack": ("single", "batch"), "anchors": ("mu", "nu")}
    if name in pairs and isinstance(value, (tuple, list)):
        return dict(zip(pairs[name], value, strict=True))
    return value


def _given(**hyperparameters):
    """Those that were given, under their own names: `lambda` is a word of Python."""
    named = {name.rstrip("_"): value for name, value in hyperparameters.items()}
    return {name: _plain(name, value) for name, value in named.items() if value is not None}


def _name(name):
    if not isinstance(name, str):
        raise NumericsError(f"{name!r:.60}: expected the name of a method, as `memit`, and its hyperparameters beside it")
    return name


def _with_history(name, history):
    suffixes = {"ignored": "", "absorbed": "-h"}
    if history not in suffixes:
        raise NumericsError(f"history `{history}`: expected one of {', '.join(suffixes)}")
    return name + suffixes[history]


def method(name, **hyperparameters):
    """The method with this name in the table of methods: `method("memit-h", lambda_=1500.0)`.

    `betaedit.methods_table()` lists the names. NAME-ns and simie-NAME wrap another method.
    """
    return Method(name, _given(**hyperparameters))


class Memit(Method):
    """MEMIT: `(lambda C)⁻¹`, no null space.

    history: "ignored", "absorbed" (memit-h) or "random" (memit-r, with `seed`). alike: the cosine from which edits of a batch are merged
    (memit-merge).
    """

    def __new__(cls, *, lambda_=None, history="ignored", alike=None, seed=None):
        name = "memit-r" if history == "random" else _with_history("memit", history)
        if alike is not None:
            if history != "ignored":
                raise NumericsError("memit-merge has no history: give either `alike` or `history`")
            name = "memit-merge"
        return super().__new__(cls, name, _given(lambda_=lambda_, alike=alike, seed=seed))


class AlphaEdit(Method):
    """AlphaEdit: the null space of `C`, with the ridge `lambda2`. history: "ignored" or "absorbed". threshold: see `betaedit.methods`."""

    def __new__(cls, *, lambda2=None, threshold=None, history="ignored"):
        return super().__new__(cls, _with_history("alphaedit", history), _given(lambda2=lambda2, threshold=threshold))


class BetaEdit(Method):
    """BetaEdit: the null space refreshed over past keys, leakage penalised. penalty: "kept" or "dropped".

    threshold, refresh: see `betaedit.methods`.
    """

    def __new__(cls, *, lambda1=None, lambda2=None, threshold=None, refresh=None, penalty=None):
        given = _given(lambda1=lambda1, lambda2=lambda2, threshold=threshold, refresh=refresh, penalty=penalty)
        return super().__new__(cls, "betaedit", given)


class Emmet(Method):
    """EMMET: residuals met exactly or nearly. slack: (for single edits, for batches). history: "ignored" or "absorbed"."""

    def __new__(cls, *, lambda_=None, slack=None, history="ignored"):
        return super().__new__(cls, _with_history("emmet", history), _given(lambda_=lambda_, slack=slack))


class Pmet(Method):
    """PMET: MEMIT with the square root of the share of a residual. history: "ignored" or "absorbed"."""

    def __new__(cls, *, lambda_=None, history="ignored"):
        return super().__new__(cls, _with_history("pmet", history), _given(lambda_=lambda_))


class Encore(Method):
    """ENCORE: MEMIT with history and the ridge `lambda2`."""

    def __new__(cls, *, lambda_=None, lambda2=None):
        return super().__new__(cls, "encore", _given(lambda_=lambda_, lambda2=lambda2))


class RlsEdit(Method):
    """RLSEdit: recursive least squares, anchored to the first weight. anchors: (mu, nu)."""

    def __new__(cls, *, lambda_=None, anchors=None):
        return super().__new__(cls, "rlsedit", _given(lambda_=lambda_, anchors=anchors))


class NullSpace(Method):
    """A method with history through the null space: `NullSpace("memit")` is memit-ns. Hyperparameters are those of both."""

    def __new__(cls, name, **hyperparameters):
        return super().__new__(cls, f"{_name(name)}-ns", _given(**hyperparameters))


class SimIe(Method):
    """SimIE: an ideal editor that learns from a method: `SimIe("memit-h")`. Without a name, from EMMET."""

    def __new__(cls, name=None, **hyperparameters):
        return super().__new__(cls, f"simie-{_name(name)}" if name else "simie", _given(**hyperparameters))
