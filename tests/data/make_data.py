"""Make the recordings of this folder and their golden results.

    python3 tests/data/make_data.py                      # small.*
    python3 tests/data/make_data.py --recording PATH     # small.* and smollm2-layer10-slice.*

Needs Python 3.10, numpy and safetensors. The golden results are the definitions written out: one dense
f64 solve a step, one dense eigendecomposition a projector, the history summed as a full matrix. Nothing
here is fast, and nothing here shares algebra with the crate. See README.md for the schema.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
MIN_GAP = 1e-9  # no eigenvalue may be nearer to the threshold: rounding must not decide what is kept


@dataclass(frozen=True)
class Method:
    penalty: str | None  # the hyperparameter that multiplies C in the solve
    history: bool = False  # H joins the solve
    projected: bool = True  # P from the eigenvectors of C, and lambda2 in the solve
    refresh: str | None = None  # "mean" or "sum"
    batch: int = 1


METHODS = {
    "memit": Method("lambda", projected=False),
    "memit-h": Method("lambda", projected=False, history=True),
    "alphaedit": Method(None),
    "alphaedit-h": Method(None, history=True),
    "betaedit": Method("lambda1", history=True, refresh="mean"),
    "betaedit-sum": Method("lambda1", history=True, refresh="sum"),
    "betaedit-batch10": Method("lambda1", history=True, refresh="mean", batch=10),
    "betaedit-no-refresh": Method("lambda1", history=True),
    "betaedit-no-penalty-sum": Method(None, history=True, refresh="sum"),
}

# Only `small`: the other refresh rule without the penalty, and batches up to more edits than d_in.
SMALL_METHODS = METHODS | {"betaedit-no-penalty-mean": Method(None, history=True, refresh="mean")}
for name in ("memit", "memit-h", "alphaedit", "alphaedit-h", "betaedit", "betaedit-sum"):
    for n in (1, 7, 64):
        SMALL_METHODS[f"{name}.batch{n}"] = replace(METHODS[name], batch=n)

SLICE_SETTINGS = {"lambda1": 300.0, "lambda2": 10.0, "lambda": 1500.0, "threshold": 0.02, "refresh_every": 50}
SMALL_SETTINGS = {"lambda1": 20.0, "lambda2": 0.5, "lambda": 30.0, "threshold": 0.02, "refresh_every": 25}


def projector(M, threshold):
    """P on the eigenvectors of M below the threshold, its rank, and how near the nearest eigenvalue comes."""
    values, vectors = np.linalg.eigh(M)
    gap = np.abs(values - threshold).min()
    assert gap >= MIN_GAP, f"an eigenvalue is {gap:.1e} from the threshold"
    V = vectors[:, values < threshold]
    return V @ V.T, V.shape[1], gap


def run(recording, method, h, edits=None):
    """All edits of a recording (or the first `edits`) by one method.

    Returns the cumulative update D, [edits done, rank of P] of each projector, its gap to the threshold,
    and the curves: one value a step.
    """
    C = recording["second_moment"].astype(np.float64)
    keys = recording["keys"].astype(np.float64).T[:, :edits]  # d_in x N
    residuals = recording["residuals"].astype(np.float64).T[:, :edits]  # d_out x N
    (d, N), I = keys.shape, np.eye(len(C))
    penalty = h[method.penalty] if method.penalty else 0.0
    ridge = h["lambda2"] if method.projected else 0.0
    P, kept, gaps = I, [[-1, -1]], []
    if method.projected:
        P, rank, gap = projector(C, h["threshold"])
        kept, gaps = [[0, rank]], [gap]

    # s = k^T A0^+ k of every edit, A0 the matrix that the method starts from.
    A0 = penalty * P @ C @ P + ridge * P
    s = np.sum(keys * (np.linalg.pinv(A0, rcond=1e-10, hermitian=True) @ keys), axis=0)

    D, H, last = np.zeros((len(residuals), d)), np.zeros((d, d)), 0
    curves = {"leakage": [], "drift": [], "s": [], "write_error": []}
    for t in range(0, N, method.batch):  # t edits are done
        K, R = keys[:, t : t + method.batch], residuals[:, t : t + method.batch]
        if method.refresh and t - last >= h["refresh_every"]:
            mean = (H / t + h["lambda1"] * C) / (h["lambda1"] + 1)
            P, rank, gap = projector(mean if method.refresh == "mean" else C + H, h["threshold"])
            kept.append([t, rank])
            gaps.append(gap)
            last = t

        A = penalty * C + K @ K.T + (H if method.history else 0.0)
        X = np.linalg.solve(P @ A + ridge * I, P @ K)
        delta = R @ X.T
        D += delta
        H += K @ K.T

        curves["leakage"].append(np.trace(D @ C @ D.T))
        curves["drift"].append(np.linalg.norm(D))
        curves["s"].append(s[t : t + method.batch].max())
        curves["write_error"].append(np.linalg.norm(delta @ K - R))
    return D, kept, gaps, {name: np.array(values) for name, values in curves.items()}


def golden(name, setting, methods, h, probe=None):
    """Write NAME.golden.safetensors for the recording NAME.safetensors, as stored."""
    recording = load_file(HERE / f"{name}.safetensors")
    eigenvalues = np.linalg.eigvalsh(recording["second_moment"].astype(np.float64))
    out = {"eigenvalues": eigenvalues}
    if probe is not None:
        out["probe"] = probe
    print(f"{name}: {np.mean(eigenvalues < h['threshold']):.1%} of the eigenvalues below the threshold")
    for m, method in methods.items():
        D, kept, gaps, results = run(recording, method, h)
        results["kept_directions"] = np.array(kept, dtype=np.int64)
        if probe is None:
            results["delta"] = D
        else:
            results["delta_times_probe"] = D @ probe
        out |= {f"{setting}.{m}.{what}": values for what, values in results.items()}
        print(f"  {m:25} gap {min(gaps, default=np.inf):.1e}  kept {[r for _, r in kept]}", flush=True)
    save(f"{name}.golden", out, {"hyperparameters": json.dumps({setting: h | {"history": "mean"}})})


def save(name, tensors, metadata):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, HERE / f"{name}.safetensors", metadata)


def make_slice(path):
    """Every second intermediate neuron and the first 200 edits of the recording of SmolLM2's layer 10."""
    with safe_open(path, "np") as full:
        source = {name: full.get_tensor(name) for name in full.keys()}
        metadata = full.metadata()
    save("smollm2-layer10-slice", {
        "second_moment": source["second_moment"][::2, ::2],
        "weight": source["weight"][:, ::2],
        "keys": source["keys"][:200, ::2],
        "residuals": source["residuals"][:200],
    }, {
        "model": metadata["model"],
        "tokens": metadata["tokens"],
        "layer": "10",
        "slice": "even-numbered intermediate neurons (768 of 1536), edits 0..199 of 300",
        "licence": "Apache-2.0 (model)",
    })
    probe = np.random.default_rng(10).standard_normal((768, 8))
    golden("smollm2-layer10-slice", "scaled", METHODS, SLICE_SETTINGS, probe)


def make_small():
    """A synthetic layer, 40 to 12, with 130 edits: more edits than directions."""
    d_in, d_out, N = 40, 12, 130
    rng = np.random.default_rng(2024)
    U = np.linalg.qr(rng.standard_normal((d_in, d_in)))[0]
    spectrum = np.logspace(0, -4, d_in)
    C = (U * spectrum) @ U.T
    # Keys: mostly where C has energy (a little steeper than C), and a part in six directions of their own.
    own = np.linalg.qr(rng.standard_normal((d_in, 6)))[0]
    keys = rng.standard_normal((N, d_in)) * spectrum**0.6 @ U.T + 0.6 * rng.standard_normal((N, 6)) @ own.T
    keys *= rng.uniform(1.0, 3.0, (N, 1)) / np.linalg.norm(keys, axis=1, keepdims=True)
    save("small", {
        "second_moment": ((C + C.T) / 2).astype(np.float32),
        "weight": (rng.standard_normal((d_out, d_in)) / np.sqrt(d_in)).astype(np.float32),
        "keys": keys.astype(np.float32),
        "residuals": rng.standard_normal((N, d_out)).astype(np.float32),
    }, {"model": "synthetic"})
    golden("small", "small", SMALL_METHODS, SMALL_SETTINGS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", type=Path, help="full recording of SmolLM2's layer 10; without it: small.* only")
    arguments = parser.parse_args()
    make_small()
    if arguments.recording:
        make_slice(arguments.recording)
