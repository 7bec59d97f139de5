"""Checks of arguments, before long work begins. Nothing but numpy is imported here."""

import numpy as np

from .errors import NumericsError


def whole(name, value, least=0):
    """A whole number that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise NumericsError(f"{name} is {value!r}: expected a whole number of {least} or more")
    return int(value)


def _is_number(value):
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def number(name, value):
    """A finite number that is not negative."""
    if not _is_number(value) or not 0 <= value < float("inf"):
        raise NumericsError(f"{name} is {value!r}: expected a number of 0 or more")
    return float(value)


def positive(name, value):
    """A finite number above 0."""
    if not _is_number(value) or not 0 < value < float("inf"):
        raise NumericsError(f"{name} is {value!r}: expected a positive number")
    return float(value)


def texts(name, values):
    """A list of texts."""
    found = None if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__iter__") else list(values)
    if found is None or not all(isinstance(one, str) for one in found):
        raise NumericsError(f"{name}: expected a list of texts, not {values!r:.60}")
    return found


def of_kind(name, value, kind, what):
    """A value of a kind."""
    if not isinstance(value, kind):
        raise NumericsError(f"{name} is {value!r:.60}: expected {what}")
    return value


def function(name, value):
    """A function, or none."""
    if value is not None and not callable(value):
        raise NumericsError(f"{name} is {value!r:.60}: expected a function")
    return value
