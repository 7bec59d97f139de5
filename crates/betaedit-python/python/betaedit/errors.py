"""Exceptions: one class for each task, under `Error`."""


class Error(Exception):
    """Everything that can go wrong in betaedit. A message says what was found, what is allowed, and what to do."""


class NumericsError(Error, ValueError):
    """Matrices, settings, the engine, editors."""


class FileError(Error):
    """Files."""


class FactsError(Error):
    """Facts."""


class SessionError(Error):
    """Sessions."""


class ModelError(Error):
    """Models, and adapters to them."""
