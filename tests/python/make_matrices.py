"""Writes tests/data/concept.json and tests/data/regmean.json: the published formulas, written out densely. Needs numpy.

Matrices are lists of rows. Keys, values and inputs are in the rows, as usual in Python; weights are `d_out x d_in`.
"""

import json
import pathlib

import numpy

data = pathlib.Path(__file__).parent.parent / "data"
rng = numpy.random.default_rng(16)


def matrix(rows, columns):
    return rng.normal(size=(rows, columns)).round(3)


def write(name, golden):
    plain = {key: value.tolist() if isinstance(value, numpy.ndarray) else value for key, value in golden.items()}
    (data / name).write_text(json.dumps(plain) + "\n")


def uce(W, keys, values, preserved, l, e, p):
    """Gandikota et al., WACV 2024, as its program has it: two sums over the concepts, one inverse."""
    numerator, denominator = l * W, l * numpy.eye(W.shape[1])
    for c, v in zip(keys, values):
        numerator = numerator + e * numpy.outer(v, c)
        denominator = denominator + e * numpy.outer(c, c)
    for c in preserved:
        numerator = numerator + p * numpy.outer(W @ c, c)
        denominator = denominator + p * numpy.outer(c, c)
    return numerator @ numpy.linalg.inv(denominator)


def speed(W, keys, anchors, preserved, invariant, threshold, r, l):
    """Li et al., ICLR 2026: projector by an SVD, and the bracket with two inverses."""
    d = W.shape[1]
    S_tt, S_at = keys.T @ keys / len(keys), anchors.T @ keys / len(keys)
    U, S, _ = numpy.linalg.svd(preserved.T @ preserved / len(preserved))
    P = U[:, S < threshold] @ U[:, S < threshold].T
    M = numpy.linalg.inv(S_tt @ P + r * numpy.eye(d))
    K2 = invariant.T
    inner = numpy.linalg.inv(K2.T @ P @ M @ K2 + l * numpy.eye(K2.shape[1]))
    return W + W @ (S_at - S_tt) @ P @ (numpy.eye(d) - M @ K2 @ inner @ K2.T @ P) @ M


W, keys, anchors, preserved = matrix(5, 9), matrix(3, 9), matrix(3, 9), matrix(6, 9)
preserved[4:] *= 0.05
invariant, values = matrix(2, 9), matrix(3, 5)
write(
    "concept.json",
    {
        "W": W,
        "keys": keys,
        "anchors": anchors,
        "values": values,
        "preserved": preserved,
        "invariant": invariant,
        "uce to values": uce(W, keys, values, preserved, 0.5, 1.0, 1.0),
        "uce to anchors": uce(W, keys, anchors @ W.T, preserved, 0.1, 2.0, 0.3),
        "speed": speed(W, keys, anchors, preserved, invariant, 0.1, 1.0, 0.0),
        "speed with slack": speed(W, keys, anchors, preserved, invariant, 0.1, 0.7, 0.3),
    },
)


def regmean(weights, grams, a):
    """Jin et al., ICLR 2023, for weights that are `d_in x d_out`, as in the paper."""
    reduced = [a * G + (1 - a) * numpy.diag(numpy.diag(G)) for G in grams]
    return numpy.linalg.inv(sum(reduced)) @ sum(G @ W for G, W in zip(reduced, weights))


weights = [matrix(4, 7) for _ in range(3)]
inputs = [matrix(n, 7) @ numpy.diag(1 + rng.random(7).round(3)) for n in (40, 25, 90)]
sums = [X.T @ X for X in inputs]
means = [G / len(X) for G, X in zip(sums, inputs)]
columns = [W.T for W in weights]
golden = {f"W{i}": W for i, W in enumerate(weights)} | {f"X{i}": X for i, X in enumerate(inputs)}
golden |= {
    "published": regmean(columns, means, 0.9).T,
    "tokens": regmean(columns, sums, 0.9).T,
    "full": regmean(columns, means, 1.0).T,
    "diagonal": regmean(columns, means, 0.0).T,
}
write("regmean.json", golden)
