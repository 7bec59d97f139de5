"""The drop-in against a transcription of the programs' own lines, in numpy."""

import numpy as np
import pytest

import betaedit
from betaedit.dropin import Solver


class Transcribed:
    """`get_project`, `cache_c` and the solving line of the AlphaEdit program, transcribed."""

    def __init__(self, cov, threshold, L2):
        U, S, _ = np.linalg.svd(cov, full_matrices=False)
        small = (S < threshold).nonzero()[0]
        self.P = U[:, small] @ U[:, small].T
        self.cache_c, self.L2 = np.zeros_like(cov), L2

    def solve(self, layer_ks, resid):
        A = self.P @ (layer_ks @ layer_ks.T + self.cache_c) + self.L2 * np.eye(layer_ks.shape[0])
        return np.linalg.solve(A, self.P @ layer_ks @ resid.T)

    def remember(self, layer_ks):
        self.cache_c += layer_ks @ layer_ks.T


@pytest.mark.parametrize("kind", ["covariance", "moment", "projector", "projector32"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_updates_are_those_of_the_program(problem, kind, dtype):
    theirs = Transcribed(problem.C, 0.02, 0.5)
    if kind == "covariance":
        ours = Solver.from_statistics(problem.C, 0.02, 0.5, dtype=dtype)
    elif kind == "moment":
        ours = Solver.from_statistics(problem.moment, 0.02, 0.5, dtype=dtype)
    else:
        P = theirs.P.astype(np.float32) if kind.endswith("32") else theirs.P
        ours = Solver.from_projector(P, 0.5, dtype=dtype)
    for batch in (slice(0, 1), slice(1, 4), slice(4, 6)):
        K, R = problem.keys[:, batch], problem.residuals[:, batch]
        expected, found = theirs.solve(K, R), ours.solve(K, R)
        assert found.shape == expected.shape == (problem.d_in, problem.d_out)
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
        assert ours.propose(K, R).rank == K.shape[1]
        theirs.remember(K)
        ours.remember(K)


def test_what_is_no_projector_is_refused(problem):
    with pytest.raises(betaedit.NumericsError, match="eigenvalues"):
        Solver.from_projector(0.5 * np.eye(4))
    with pytest.raises(betaedit.NumericsError, match="eigenvalues"):
        Solver.from_projector(problem.C)
    with pytest.raises(betaedit.NumericsError, match="no direction"):
        Solver.from_projector(np.zeros((4, 4)))
    with pytest.raises(betaedit.NumericsError, match="from_projector"):
        Solver(np.eye(4))
    with pytest.raises(betaedit.NumericsError, match="not symmetric"):
        Solver.from_projector(np.triu(np.ones((4, 4))))
    with pytest.raises(betaedit.NumericsError, match="not symmetric"):
        Solver.from_projector(np.full((4, 4), np.nan))
    with pytest.raises(betaedit.NumericsError, match="expected d_in x d_in"):
        Solver.from_projector(np.ones((4, 3)))
    solver = Solver.from_projector(np.eye(problem.d_in))
    with pytest.raises(betaedit.NumericsError, match=f"expected {problem.d_in} x n"):
        solver.solve(problem.keys.T, problem.residuals)
    with pytest.raises(betaedit.NumericsError, match=f"expected d_out x {problem.keys.shape[1]}"):
        solver.solve(problem.keys, problem.residuals.T)
