"""Editors against dense solves of the published form, in numpy."""

import pickle

import numpy as np
import pytest

import betaedit
from betaedit import AlphaEdit, BetaEdit, Editor, Emmet, Memit, NumericsError, Update, metrics


def same(a, b, bound=1e-9):
    assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)


def published(P, K, R, H, C, weight, ridge):
    """`(P (K Kᵀ + H + weight C) + ridge I) X = P K Rᵀ`, as the programs solve it; the update is `Xᵀ`."""
    A = P @ (K @ K.T + H + weight * C) + ridge * np.eye(len(P))
    return np.linalg.solve(A, P @ K @ R.T).T


def test_memit_is_its_dense_solve(problem):
    K, R = problem.keys, problem.residuals
    update = Memit(lambda_=2.0).editor(problem.spectrum).edit(K, R)
    same(update.to_dense(), R @ K.T @ np.linalg.inv(2.0 * problem.C + K @ K.T))
    same(update.left @ update.right, update.to_dense())
    assert (update.rank, update.shape, update.edits) == (K.shape[1], (10, 24), 6)


def test_alphaedit_with_history_is_its_dense_solve(problem):
    editor = AlphaEdit(lambda2=0.7, history="absorbed").editor(problem.spectrum)
    P, H = problem.projector(), np.zeros_like(problem.C)
    for batch in (slice(0, 2), slice(2, 3), slice(3, 6)):
        K, R = problem.keys[:, batch], problem.residuals[:, batch]
        same(editor.edit(K, R).to_dense(), published(P, K, R, H, problem.C, 0.0, 0.7))
        H = H + K @ K.T
    assert editor.state["edits"] == 6


def test_betaedit_is_its_dense_solve(problem):
    editor = BetaEdit(lambda1=5.0, lambda2=0.3, refresh="never").editor(problem.spectrum)
    P, H = problem.projector(), np.zeros_like(problem.C)
    for j in range(6):
        K, R = problem.keys[:, j : j + 1], problem.residuals[:, j : j + 1]
        same(editor.edit(K, R).to_dense(), published(P, K, R, H, problem.C, 5.0, 0.3))
        H = H + K @ K.T


def test_hyperparameters_out_of_range_are_refused():
    for wrong, says in (
        (lambda: BetaEdit(threshold=-1.0), "threshold"),
        (lambda: AlphaEdit(threshold={"kept-energy": 2.0}), "threshold"),
        (lambda: betaedit.NullSpace("memit", threshold={"directions": 0}), "threshold"),
        (lambda: betaedit.NullSpace(Memit()), "name of a method"),
        (lambda: betaedit.SimIe(Memit()), "name of a method"),
        (lambda: BetaEdit(lambda1=float("nan")), "lambda1 is nan"),
        (lambda: Memit(lambda_=float("inf")), "lambda is inf"),
    ):
        with pytest.raises(NumericsError, match=says):
            wrong()


def test_a_sum_of_edits_is_an_update_of_its_rank(rng):
    left, right = rng.standard_normal((50, 7)), rng.standard_normal((7, 80))
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-6)):
        whole = (left @ right).astype(dtype)
        for layout in (whole, np.asfortranarray(whole)):
            update, error = Update.from_dense(layout)
            assert (update.rank, update.shape, update.left.dtype) == (7, (50, 80), dtype)
            assert np.linalg.norm(update.to_dense() - whole) <= max(error, bound * np.linalg.norm(whole))
    singular = np.linalg.svd(left @ right, compute_uv=False)
    update, error = Update.from_dense(left @ right, tolerance=0.5)
    missing = np.linalg.norm(singular[update.rank :])
    assert missing <= 0.5 * np.linalg.norm(singular) < np.linalg.norm(singular[update.rank - 1 :]) * 1.2
    assert abs(np.linalg.norm(update.to_dense() - left @ right) - missing) < 1e-9
    with pytest.raises(NumericsError, match="tolerance"):
        Update.from_dense(left @ right, tolerance=1e-9)


def test_emmet_meets_its_residuals(problem):
    K, R = problem.keys, problem.residuals
    update = Emmet(lambda_=1.0, slack=(0.0, 0.0)).editor(problem.spectrum).edit(K, R)
    same(update.to_dense() @ K, R)


def test_single_precision_is_as_exact_as_it_can_be(problem):
    K, R = problem.keys.astype(np.float32), problem.residuals.astype(np.float32)
    editor = Memit(lambda_=2.0).editor(problem.spectrum, dtype=np.float32)
    update = editor.edit(K, R)
    assert update.left.dtype == np.float32
    K64, R64 = K.astype(np.float64), R.astype(np.float64)
    same(update.to_dense(), R64 @ K64.T @ np.linalg.inv(2.0 * problem.C + K64 @ K64.T), 1e-5)
    # Other numbers are converted.
    same(Memit(lambda_=2.0).editor(problem.spectrum, dtype="float32").edit(problem.keys, R).to_dense(), update.to_dense(), 1e-5)


def test_a_sequence_is_as_if_edits_came_one_by_one(problem):
    one = AlphaEdit(history="absorbed").editor(problem.spectrum)
    other = AlphaEdit(history="absorbed").editor(problem.spectrum)
    together = one.edit(problem.keys, problem.residuals, order="in-sequence").to_dense()
    alone = [other.edit(problem.keys[:, j], problem.residuals[:, j]).to_dense() for j in range(6)]
    same(together, sum(alone))


def test_a_proposal_leaves_no_trace_until_it_is_committed(problem):
    editor = AlphaEdit(history="absorbed").editor(problem.spectrum)
    K, R = problem.keys[:, :1], problem.residuals[:, :1]
    first, again = editor.propose(K, R), editor.propose(K, R)
    dense = again.update.to_dense()
    same(first.update.to_dense(), dense, 1e-15)
    assert 0 < first.gains[0]
    editor.commit(first)
    with pytest.raises(NumericsError, match="state|again"):
        editor.commit(again)
    with pytest.raises(NumericsError, match="committed already"):
        editor.commit(first)
    same(first.update.to_dense(), dense, 1e-15)
    half = editor.propose(K, R)
    full = half.update.frobenius_norm
    assert abs(half.scaled(0.5).update.frobenius_norm - 0.5 * full) < 1e-12
    with pytest.raises(NumericsError, match="used up"):
        editor.commit(half)
    single, double = (AlphaEdit().editor(problem.spectrum, dtype=dtype) for dtype in ("float32", "float64"))
    other = double.propose(K, R)
    with pytest.raises(NumericsError, match="another number type"):
        single.commit(other)
    with pytest.raises(NumericsError, match="factor is NaN"):
        other.scaled(float("nan"))
    double.commit(other)
    with pytest.raises(NumericsError, match="`keys` is 6 x 24, expected 24 x n"):
        editor.propose(problem.keys.T, problem.residuals.T)
    assert editor.state["edits"] == 1


def test_a_release_is_an_exact_undo(problem):
    editor = AlphaEdit(history="absorbed").editor(problem.spectrum)
    before = editor.product(problem.keys)
    editor.edit(problem.keys[:, :3], problem.residuals[:, :3])
    editor.release(problem.keys[:, :3])
    same(editor.product(problem.keys), before)
    assert editor.state["edits"] == 0


def test_protected_keys_keep_their_outputs(problem):
    editor = Memit(lambda_=1.0).editor(problem.spectrum)
    free = editor.propose(problem.keys[:, :1], problem.residuals[:, :1]).update.product(problem.keys[:, 1:2])
    editor.protect(1e3 * problem.keys[:, 1:2])
    kept = editor.propose(problem.keys[:, :1], problem.residuals[:, :1]).update.product(problem.keys[:, 1:2])
    assert np.linalg.norm(kept) < 1e-3 * np.linalg.norm(free)


def test_a_refresh_is_due_and_made(problem):
    refresh = {"every": {"edits": 3, "rule": {"nested": {"weight": 1.0}}}}
    editor = BetaEdit(lambda1=5.0, refresh=refresh).editor(problem.spectrum)
    editor.edit(problem.keys[:, :3], problem.residuals[:, :3])
    with pytest.raises(NumericsError, match="refresh"):
        editor.propose(problem.keys[:, 3:], problem.residuals[:, 3:])
    report = editor.refresh_if_due()
    assert report["kept_after"] == report["kept_before"] - 3
    assert editor.refresh_if_due() is None
    editor.propose(problem.keys[:, 3:], problem.residuals[:, 3:])


def test_stability_is_the_quadratic_form(problem):
    editor = Memit(lambda_=2.0).editor(problem.spectrum)
    expected = np.einsum("ij,ij->j", problem.keys, np.linalg.solve(2.0 * problem.C, problem.keys))
    same(editor.stability(problem.keys), expected)
    same(metrics.stability(editor.projector, 2.0, 0.0, problem.keys), expected)


def test_every_method_of_the_table_edits(problem):
    for name, summary in betaedit.methods_table():
        assert summary
        editor = betaedit.method(name).editor(problem.spectrum)
        update = editor.edit(problem.keys[:, :2], problem.residuals[:, :2])
        assert np.isfinite(update.to_dense()).all(), name
    for name in ("encore-ns", "simie-memit-h", "simie-pmet-ns"):
        assert betaedit.method(name).name == name


CLASSES = {
    "memit": Memit(),
    "memit-h": Memit(history="absorbed"),
    "memit-r": Memit(history="random", seed=3),
    "memit-merge": Memit(alike=0.9),
    "alphaedit": AlphaEdit(),
    "alphaedit-h": AlphaEdit(history="absorbed"),
    "betaedit": BetaEdit(),
    "emmet": Emmet(),
    "emmet-h": Emmet(history="absorbed"),
    "pmet": betaedit.Pmet(),
    "pmet-h": betaedit.Pmet(history="absorbed"),
    "encore": betaedit.Encore(lambda_=10.0, lambda2=1.0),
    "rlsedit": betaedit.RlsEdit(anchors=(1.0, 0.0)),
    "simie": betaedit.SimIe(),
    "memit-ns": betaedit.NullSpace("memit", threshold=0.02),
    "pmet-ns": betaedit.NullSpace("pmet"),
    "emmet-ns": betaedit.NullSpace("emmet"),
}


def test_every_method_of_the_table_has_a_class():
    assert {name for name, _ in betaedit.methods_table()} == set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_is_the_method_of_its_name(name):
    method = CLASSES[name]
    assert method.name == name
    assert isinstance(method, betaedit.Method)
    again = pickle.loads(pickle.dumps(method))
    assert (again, again.recipe(), hash(again)) == (method, method.recipe(), hash(method))


def test_hyperparameters_are_checked(problem):
    assert betaedit.method("memit", lambda_=3.0).hyperparameters == {"lambda": 3.0}
    assert AlphaEdit(threshold={"kept-energy": 0.1}).hyperparameters["threshold"] == {"kept-energy": 0.1}
    for wrong in (
        lambda: betaedit.method("memit", lambda2=1.0),
        lambda: betaedit.method("memit", lamda=1.0),
        lambda: betaedit.method("memit", lambda_="much"),
        lambda: betaedit.method("memo"),
        lambda: Memit(lambda_=-1.0),
        lambda: Memit(history="some"),
        lambda: BetaEdit(refresh={"every": {"edits": 3}}),
    ):
        with pytest.raises(NumericsError):
            wrong()
    with pytest.raises(NumericsError, match="threshold"):
        AlphaEdit(threshold=-1.0).editor(problem.spectrum)


@pytest.mark.parametrize("name", ["betaedit", "memit-h", "memit-r", "alphaedit", "simie", "emmet-ns"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_editor_is_pickled_bit_for_bit(problem, name, dtype):
    editor = betaedit.method(name).editor(problem.spectrum, dtype=dtype, threads=1)
    editor.edit(problem.keys[:, :3], problem.residuals[:, :3])
    again = pickle.loads(pickle.dumps(editor))
    assert again.state == editor.state
    K, R = problem.keys[:, 3:], problem.residuals[:, 3:]
    assert np.array_equal(again.edit(K, R).to_dense(threads=1), editor.edit(K, R).to_dense(threads=1))


@pytest.mark.parametrize(
    ("keys", "residuals", "says"),
    [
        (np.zeros((24, 2)), np.zeros((10, 3)), "residuals"),
        (np.zeros((23, 2)), np.zeros((10, 2)), "keys"),
        (np.zeros((24, 0)), np.zeros((10, 0)), "keys"),
        (np.full((24, 1), np.nan), np.zeros((10, 1)), "NaN"),
        (np.full((24, 1), 1e200), np.ones((10, 1)), "."),
    ],
)
def test_a_batch_that_is_none_is_refused(problem, keys, residuals, says):
    editor = Memit(lambda_=1.0).editor(problem.spectrum)
    with pytest.raises(NumericsError, match=says):
        editor.edit(keys, residuals)
    assert editor.state["edits"] == 0


def test_an_edit_of_nothing_changes_nothing(problem):
    update = Memit(lambda_=1.0).editor(problem.spectrum).edit(problem.keys, np.zeros((10, 6)))
    assert update.frobenius_norm == 0


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_weight_is_changed_in_place(problem, order, dtype):
    update = Memit(lambda_=1.0).editor(problem.spectrum).edit(problem.keys, problem.residuals)
    W = np.asarray(np.random.default_rng(0).standard_normal((10, 24)), dtype=dtype, order=order)
    first = W.copy()
    update.apply_to(W)
    same(W, first + update.to_dense(), 1e-6)
    update.subtract_from(W)
    same(W, first, 1e-6)
    stored = np.ascontiguousarray(first.T)
    update.apply_to(stored, "inputs-by-outputs")
    same(stored.T, first + update.to_dense(), 1e-6)
    for wrong in (W[:, ::2], np.zeros((10, 23)), np.zeros((10, 24), dtype=np.int64), [[0.0] * 24] * 10):
        with pytest.raises(NumericsError):
            update.apply_to(wrong)
    W.flags.writeable = False
    with pytest.raises(NumericsError, match="read-only"):
        update.apply_to(W)


def test_an_update_is_a_value(rng):
    A, B = rng.standard_normal((6, 3)), rng.standard_normal((3, 8))
    D, update = A @ B, Update(A, B)
    same(update.to_dense(), D)
    assert abs(update.frobenius_norm - np.linalg.norm(D)) < 1e-12
    assert abs(update.spectral_norm - np.linalg.norm(D, 2)) < 1e-12
    assert abs(update.inner(Update(B.T[:6], A.T @ np.eye(6, 8))) - np.sum(D * (B.T[:6] @ A.T @ np.eye(6, 8)))) < 1e-10
    both = Update.stacked([update, update.scaled(-0.5)])
    same(both.to_dense(), 0.5 * D)
    assert both.rank == 6
    smaller, lost = both.compressed(tolerance=1e-9)
    assert smaller.rank == 3
    assert lost < 1e-9 * np.linalg.norm(D)
    one, lost = update.compressed(rank=1)
    assert abs(lost - np.linalg.norm(np.linalg.svd(D)[1][1:])) < 1e-10
    same(one.to_dense() @ one.to_dense().T @ np.linalg.svd(D)[0][:, 0], np.linalg.svd(D)[1][0] ** 2 * np.linalg.svd(D)[0][:, 0])
    assert Update(A.astype(np.float32), B.astype(np.float32)).dtype == "float32"
    assert Update(A.astype(np.float32), B).dtype == "float64"
    again = pickle.loads(pickle.dumps(update))
    assert np.array_equal(again.left, update.left)
    assert np.array_equal(again.right, update.right)
    for wrong in ((A, B[:2]), (A, np.full((3, 8), np.nan))):
        with pytest.raises(NumericsError):
            Update(*wrong)
    with pytest.raises(NumericsError, match="either"):
        update.compressed(rank=1, tolerance=0.1)


def test_restraints_are_those_of_their_papers(rng):
    W = rng.standard_normal((6, 8))
    D = 0.1 * rng.standard_normal((6, 8))
    update = Update(D, np.eye(8))
    kept = update.rect(W, 0.25).to_dense()
    chosen = np.argsort(np.abs(D / W).ravel())[::-1][: round(0.25 * D.size)]
    expected = np.zeros(D.size)
    expected[chosen] = D.ravel()[chosen]
    same(kept, expected.reshape(D.shape), 1e-12)
    U, S, V = np.linalg.svd(D, full_matrices=False)
    damped = np.where(S > S[2], 0.5 * (S + S[2]), S)
    same(update.prune(S[2], "linear").to_dense(), U * damped @ V)
    log = np.where(10 * S > 5, np.log(np.maximum(10 * S, 5) / 5) + 5, 10 * S)
    same(update.scaled(10.0).prune(5.0).to_dense(), U * np.minimum(log, 10 * S) @ V)


def test_metrics_are_those_of_numpy(problem, rng):
    K, R = problem.keys, problem.residuals
    update = Memit(lambda_=1.0).editor(problem.spectrum).edit(K, R)
    D = update.to_dense()
    assert abs(metrics.leakage(update, problem.moment) - np.trace(D @ problem.C @ D.T)) < 1e-9
    g = rng.standard_normal((10, 50))
    gradients = betaedit.SecondMoment(10)
    gradients.observe(g)
    expected = 0.5 * np.trace(g @ g.T / 50 @ D @ problem.C @ D.T)
    assert abs(metrics.expected_loss(update, problem.moment, gradients) - expected) < 1e-9 * expected
    errors = np.linalg.norm(D @ K - R, axis=0)
    same(metrics.write_errors(update, K, R), errors)
    written = metrics.written(update, K, R)
    assert abs(written["all"]["share"] - np.sum(D @ K * R) / np.sum(R * R)) < 1e-12
    updates = [update, update.scaled(-1.0)]
    same(metrics.interference(updates), np.array([[1, -1], [-1, 1]]) * np.sum(D * D))
    assert metrics.room([1.0], [3.0]) == 0.5 / 0.75

    total = metrics.RunningTotal(problem.moment, 10, gradients=gradients)
    measured = total.record(update)
    assert abs(measured["drift"] - np.linalg.norm(D)) < 1e-12
    assert abs(measured["leakage"] - np.trace(D @ problem.C @ D.T)) < 1e-9
    same(total.total(), D)

    retention = metrics.Retention(24, 10)
    retention.record(K, R, np.zeros((10, 24)))
    assert len(retention) == 6
    same(retention.errors(D), errors)


def test_an_editor_of_two_threads_does_not_block_python(problem):
    assert "Editor('memit'" in repr(Editor(Memit(), problem.spectrum, threads=2))
