"""Writes tests/data/ridge.json: a stream of fits and forgets, with the weights of scikit-learn after each step.

Needs numpy and scikit-learn. Each weight is that of `Ridge(fit_intercept=False)` on the samples that are left.
"""

import json
import pathlib

import numpy
from sklearn.linear_model import Ridge

rng = numpy.random.default_rng(20)
d, classes, gamma = 7, 4, 0.3
X = rng.normal(size=(60, d)).round(3)
X[41] = X[40]
labels = rng.integers(0, classes, 60)
labels[:20] %= 2  # the other classes appear later
labels[41] = labels[40]
Y = numpy.eye(classes)[labels]

stream = [
    ("fit", range(0, 3)),
    ("fit", range(3, 20)),
    ("forget", [4, 17, 0]),
    ("add outputs", 1),
    ("fit", range(20, 45)),
    ("forget", [41]),
    ("forget", range(20, 36)),
    ("add outputs", 1),
    ("fit", range(45, 60)),
    ("forget", [59, 40, 1]),
]
held, outputs, steps = [], 2, []
labels[20:45] %= 3
Y = numpy.eye(classes)[labels]
for event, which in stream:
    if event == "fit":
        held += which
    elif event == "forget":
        held = [sample for sample in held if sample not in which]
    else:
        outputs += which
    ridge = Ridge(alpha=gamma, fit_intercept=False, solver="cholesky").fit(X[held], Y[held][:, :outputs])
    weight = ridge.coef_.reshape(outputs, d)
    normal = Y[held][:, :outputs].T @ X[held] @ numpy.linalg.inv(X[held].T @ X[held] + gamma * numpy.eye(d))
    assert numpy.abs(weight - normal).max() < 1e-13
    samples = list(which) if event != "add outputs" else []
    steps.append({"event": event, "samples": samples, "outputs": outputs, "weight": weight.tolist()})

golden = {"gamma": gamma, "X": X.tolist(), "Y": Y.tolist(), "steps": steps}
path = pathlib.Path(__file__).parent.parent / "data" / "ridge.json"
path.write_text(json.dumps(golden) + "\n")
