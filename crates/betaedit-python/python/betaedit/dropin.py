"""The solving line of the AlphaEdit and EasyEdit programs: projector, history, solve.

    upd_matrix = torch.linalg.solve(
        P[i] @ (layer_ks @ layer_ks.T + cache_c[i]) + hparams.L2 * torch.eye(layer_ks.shape[0]),
        P[i] @ layer_ks @ resid.T)

becomes `upd_matrix = solver[i].solve(layer_ks, resid)`, and `cache_c[i] += layer_ks @ layer_ks.T` becomes
`solver[i].remember(layer_ks)`: `docs/python.md` has all lines to replace. The results agree to 1e-5, and a solve costs `O(d²)`.
"""

import numpy as np

from ._arrays import as_array
from ._core import Projector, SecondMoment, Spectrum
from .errors import NumericsError
from .methods import AlphaEdit

__all__ = ["Solver"]


class Solver:
    """Solves one layer's edits in the null space of its statistics, past keys protected, as AlphaEdit does.

    Make it by `from_statistics` or `from_projector`. Keys and residuals have a column an edit, as in those programs.
    """

    def __init__(self, projector, l2=10.0, *, dtype="float64", threads=0):
        if not isinstance(projector, Projector):
            raise NumericsError("`Solver` takes a `Projector`: make it from matrices by `Solver.from_statistics` or `Solver.from_projector`")
        threshold = projector.threshold if np.isfinite(projector.threshold) else {"directions": projector.kept}
        self.editor = AlphaEdit(lambda2=l2, threshold=threshold).editor(projector.spectrum, dtype=dtype, threads=threads)
        if self.editor.projector.kept != projector.kept:
            raise NumericsError("the projector is not one that its threshold cuts: make it with `Projector(spectrum, threshold)`")
        self.projector = self.editor.projector

    @classmethod
    def from_statistics(cls, covariance, threshold=0.02, l2=10.0, *, dtype="float64", threads=0, progress=None):
        """From a layer's covariance, d_in x d_in, the mean `E[k kᵀ]` that `get_cov` returns, or a `SecondMoment`, or a `Spectrum`.

        Replaces `get_project` and its singular value decomposition. threshold: `nullspace_threshold`. l2: `L2`. A `Spectrum` is taken as
        it is.
        """
        if isinstance(covariance, Spectrum):
            spectrum = covariance
        elif isinstance(covariance, SecondMoment):
            spectrum = Spectrum(covariance, threads=threads, progress=progress)
        else:
            spectrum = Spectrum.from_matrix(covariance, threads=threads, progress=progress)
        return cls(Projector(spectrum, threshold), l2, dtype=dtype, threads=threads)

    @classmethod
    def from_projector(cls, P, l2=10.0, *, dtype="float64", threads=0):
        """From a dense projector, d_in x d_in, such as a layer of `null_space_project.pt`."""
        P = np.asarray(as_array(P), dtype=np.float64)
        if P.ndim != 2 or len(P) != P.shape[1]:
            raise NumericsError(f"the projector is {_shape(P)}, expected d_in x d_in")
        if not np.linalg.norm(P - P.T) <= 1e-3 * np.linalg.norm(P):
            raise NumericsError("the matrix is no orthogonal projector: it is not symmetric, or has numbers that are not finite")
        P = 0.5 * (P + P.T)
        no_projector = "the matrix is no orthogonal projector: its eigenvalues are not 0 and 1"
        # Directions that are kept have the eigenvalue 0 of I - P, the others 1.
        try:
            spectrum = Spectrum.from_matrix(np.eye(len(P)) - P, threads=threads)
        except NumericsError as error:
            raise NumericsError(f"{no_projector} ({error})") from error
        values = spectrum.values
        if np.abs(values - np.round(values)).max() > 1e-3:
            raise NumericsError(no_projector)
        if values[0] > 0.5:
            raise NumericsError("the projector is zero: no direction may be edited")
        return cls(Projector(spectrum, 0.5), l2, dtype=dtype, threads=threads)

    def solve(self, keys, residuals):
        """The update, d_in x d_out as those programs have it: `upd_matrix`. Changes nothing.

        keys: d_in x n, `layer_ks`. residuals: d_out x n, `resid`. Of torch tensors, the result is one on the same device, in the same type.
        """
        update = self.propose(keys, residuals)
        if not hasattr(residuals, "detach"):
            return update.right.T @ update.left.T
        # The product is made where the weight is: two thin factors travel, and not a matrix. Whole numbers become those of the solver.
        residuals = residuals if residuals.is_floating_point() else residuals.float()
        left, right = residuals.new_tensor(update.left), residuals.new_tensor(update.right)
        return right.T @ left.T

    def propose(self, keys, residuals):
        """The update as an `Update` of rank n, d_out x d_in."""
        d_in = self.editor.d_in
        keys, residuals = (one if hasattr(one, "shape") else as_array(one) for one in (keys, residuals))
        if len(keys.shape) != 2 or keys.shape[0] != d_in:
            raise NumericsError(f"`layer_ks` is {_shape(keys)}, expected {d_in} x n: a column an edit")
        if len(residuals.shape) != 2 or residuals.shape[1] != keys.shape[1]:
            raise NumericsError(f"`resid` is {_shape(residuals)}, expected d_out x {keys.shape[1]}: a column an edit")
        return self.editor.propose(keys, residuals).update

    def remember(self, keys):
        """Protects keys from now on: `cache_c += layer_ks @ layer_ks.T`. keys: d_in x n."""
        self.editor.protect(keys)


def _shape(matrix):
    return " x ".join(map(str, matrix.shape))
