"""Problems for the tests: keys whose covariance has a null space, as those of a language model have."""

import numpy as np
import pytest

import betaedit


@pytest.fixture
def rng():
    return np.random.default_rng(7)


class Problem:
    """Statistics of keys that use half of their directions, and edits."""

    def __init__(self, rng, d_in=24, d_out=10, edits=6):
        scales = np.where(np.arange(d_in) < d_in // 2, 3.0, 0.03)
        basis = np.linalg.qr(rng.standard_normal((d_in, d_in)))[0]
        self.text = basis @ (scales[:, None] * rng.standard_normal((d_in, 4000)))
        self.C = self.text @ self.text.T / self.text.shape[1]
        self.moment = betaedit.SecondMoment(d_in)
        self.moment.observe(self.text)
        self.spectrum = betaedit.Spectrum(self.moment)
        self.keys = rng.standard_normal((d_in, edits))
        self.residuals = rng.standard_normal((d_out, edits))
        self.d_in, self.d_out = d_in, d_out

    def projector(self, threshold=0.02):
        """The dense projector, by numpy."""
        values, vectors = np.linalg.eigh(self.C)
        kept = vectors[:, values < threshold]
        return kept @ kept.T


@pytest.fixture
def problem(rng):
    return Problem(rng)
