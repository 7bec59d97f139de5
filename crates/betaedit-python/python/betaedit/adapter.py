"""What a session needs from a model."""

import numpy as np


class Adapter:
    """The connection of a session to a model: derive from it, or write an object with these methods.

    Requests are any Python objects. Layers are edited in ascending order: keys and residuals of a layer are asked for after the layers
    below have been changed. All matrices have a column a request.

    Optional methods, which are used where an adapter has them:

    * `companions(layer, requests)`: `None`, or (keys, of): further keys, d_in x m, and for each the index of its request and the multiple
      of its residual, 0 where the output must stay
    * `subject(request)`: its subject, for conflicts; `None` if it has none
    * `encode(request)`, `decode(bytes)`: a request as bytes, for `Session.consolidate`
    * `find_targets(requests)`, `hold_targets(requests, targets)`, `release_targets()`: what residuals aim at, for `Session.consolidate`
    * `apply(layer, update)`: adds an `Update` to a weight in place; the default reads, adds and writes
    """

    #: The layers that can be edited, ascending.
    layers: "list[int]" = []

    def weight_shape(self, layer: int) -> "tuple[int, int]":
        """(d_out, d_in) of a layer's edited weight."""
        raise NotImplementedError

    def keys(self, layer: int, requests: list) -> np.ndarray:
        """The keys of the requests on the model as it is now, d_in x n."""
        raise NotImplementedError

    def residuals(self, layer: int, requests: list) -> np.ndarray:
        """The whole change of the layer's output that the requests still need, d_out x n."""
        raise NotImplementedError

    def read_weight(self, layer: int) -> np.ndarray:
        """The weight as it is now, d_out x d_in however the model stores it."""
        raise NotImplementedError

    def write_weight(self, layer: int, weight: np.ndarray) -> None:
        """Replaces the weight by one that `read_weight` returned, bit for bit."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Identifies the model as it was before any edit."""
        raise NotImplementedError
