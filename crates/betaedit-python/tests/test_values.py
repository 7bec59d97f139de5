"""Second moments, spectra, projectors: against numpy."""

import pickle
import signal
import threading
import time

import numpy as np
import pytest

import betaedit
from betaedit import NumericsError, Projector, SecondMoment, Spectrum


def same(a, b, bound=1e-12):
    assert np.linalg.norm(a - b) <= bound * max(np.linalg.norm(b), 1e-300)


def test_a_moment_is_the_mean_of_outer_products(problem):
    same(problem.moment.mean(), problem.C)
    assert problem.moment.tokens == 4000
    assert abs(problem.moment.trace - np.trace(problem.C)) < 1e-9
    same(problem.moment.product(problem.keys), problem.C @ problem.keys)


def test_parts_of_a_text_add_up(problem):
    one, other = SecondMoment(problem.d_in), SecondMoment(problem.d_in)
    one.observe(problem.text[:, :1500].copy())
    other.observe(problem.text[:, 1500:])
    one.merge(other)
    same(one.sum(), problem.text @ problem.text.T)
    one.forget(problem.text[:, 1500:])
    assert one.tokens == 1500
    same(one.sum(), problem.text[:, :1500] @ problem.text[:, :1500].T, 1e-10)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_any_layout_and_number_type_is_read(rng, order, dtype):
    keys = np.asarray(rng.integers(-8, 8, (5, 40)), dtype=dtype, order=order)
    moment = SecondMoment(5)
    for given in (keys, keys[:, ::2], keys[::-1], np.ascontiguousarray(keys.T).T):
        moment.observe(given)
    whole = np.concatenate([keys, keys[:, ::2], keys[::-1], keys], axis=1).astype(np.float64)
    same(moment.sum(), whole @ whole.T)


def test_big_endian_lists_and_single_columns_are_read():
    moment = SecondMoment(3)
    moment.observe([[1.0], [2.0], [3.0]])
    moment.observe(np.array([1.0, 2.0, 3.0]))
    moment.observe(np.array([[1.0], [2.0], [3.0]], dtype=">f8"))
    k = np.array([1.0, 2.0, 3.0])
    same(moment.sum(), 3 * np.outer(k, k))


class Tensor:
    """What a tensor of another library shows of itself: no `__array__`, but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_tensors_are_read_by_dlpack(rng):
    keys = rng.standard_normal((4, 9))
    moment = SecondMoment(4)
    moment.observe(Tensor(keys))
    same(moment.sum(), keys @ keys.T)


def test_a_sum_is_not_taken_for_a_mean(problem):
    total, witness = problem.text @ problem.text.T, problem.text[:, :5]
    same(SecondMoment.from_sum(total, 4000, witness).mean(), problem.C)
    same(SecondMoment.from_mean(problem.C, 4000, witness).sum(), total)
    assert SecondMoment.from_mean(problem.C, None, witness).tokens is None
    with pytest.raises(NumericsError, match="sum"):
        SecondMoment.from_mean(total, 4000, witness)
    with pytest.raises(NumericsError, match="mean"):
        SecondMoment.from_sum(problem.C, 4000, witness)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (np.zeros((4, 2)), "`keys` is 4 x 2"),
        (np.zeros((3, 0)), "keys"),
        (np.array([[np.nan], [0.0], [0.0]]), "NaN"),
        (np.array([[np.inf], [0.0], [0.0]]), "inf"),
        (np.array([[1j], [0], [0]]), "complex"),
        (np.zeros((3, 1, 1)), "dimensions"),
        (np.array(["a", "b", "c"]), "real numbers"),
    ],
)
def test_what_is_no_matrix_of_keys_is_refused(keys, says):
    moment = SecondMoment(3)
    with pytest.raises(NumericsError, match=says):
        moment.observe(keys)
    assert moment.tokens == 0


def test_a_spectrum_is_that_of_numpy(problem):
    values = np.linalg.eigvalsh(problem.C)
    same(problem.spectrum.values, values, 1e-10)
    U = problem.spectrum.vectors
    same(U.T @ U, np.eye(problem.d_in))
    same(problem.spectrum.to_matrix(), problem.C, 1e-11)
    assert problem.spectrum.count_below(0.02) == (values < 0.02).sum()
    assert problem.spectrum.residual < 1e-12


def test_a_spectrum_from_parts_is_checked(problem):
    parts = problem.spectrum.values, problem.spectrum.vectors
    same(Spectrum.from_parts(*parts).values, parts[0])
    with pytest.raises(NumericsError, match="orthonormal"):
        Spectrum.from_parts(parts[0], 2 * parts[1])
    with pytest.raises(NumericsError):
        Spectrum.from_matrix(-np.eye(3))
    with pytest.raises(NumericsError, match="key"):
        Spectrum(SecondMoment(3))


def test_a_projector_is_that_of_numpy(problem):
    P = Projector(problem.spectrum, 0.02)
    expected = problem.projector()
    same(P.to_dense(), expected, 1e-11)
    same(P.apply(problem.keys), expected @ problem.keys, 1e-11)
    same(P.basis @ P.basis.T, expected, 1e-11)
    assert (P.kept, P.dim) == (problem.d_in // 2, problem.d_in)
    assert P.gap["largest_kept"] < 0.02 < P.gap["smallest_protected"]
    assert Projector.identity(problem.spectrum).kept == problem.d_in
    assert P.distance_squared(P) < 1e-9


def test_thresholds_have_four_forms(problem):
    values = np.linalg.eigvalsh(problem.C)
    assert Projector(problem.spectrum, {"directions": 5}).kept == 5
    assert Projector(problem.spectrum, {"relative-to-largest": 0.01}).kept == (values < 0.01 * values[-1]).sum()
    energy = Projector(problem.spectrum, {"kept-energy": 1e-4}).kept
    assert energy == (np.cumsum(values) <= 1e-4 * values.sum()).sum()
    with pytest.raises(NumericsError, match="threshold"):
        Projector(problem.spectrum, {"nonsense": 1.0})
    with pytest.raises(NumericsError, match="eigenvalue|keeps"):
        Projector(problem.spectrum, 1e-12)


def test_past_keys_leave_the_projector(problem):
    history = SecondMoment(problem.d_in)
    history.observe(problem.keys)
    P = Projector(problem.spectrum, 0.02, history=history, weighting={"sum": {"weight": 1.0}})
    values, vectors = np.linalg.eigh(problem.C + problem.keys @ problem.keys.T)
    kept = vectors[:, values < 0.02]
    same(P.to_dense(), kept @ kept.T, 1e-9)


@pytest.mark.parametrize("name", ["moment", "spectrum"])
def test_values_are_pickled_bit_for_bit(problem, name):
    value = getattr(problem, name)
    again = pickle.loads(pickle.dumps(value))
    if name == "moment":
        assert np.array_equal(again.sum(), value.sum())
        assert again.tokens == value.tokens
    else:
        assert np.array_equal(again.vectors, value.vectors)
        assert np.array_equal(again.values, value.values)


def test_odd_values_are_pickled_too(problem):
    for moment in (SecondMoment(3), SecondMoment.from_mean(problem.C, None, problem.text[:, :3])):
        again = pickle.loads(pickle.dumps(moment))
        assert again.tokens == moment.tokens
        assert np.array_equal(again.sum(), moment.sum())
    for P in (Projector(problem.spectrum, 0.02), Projector(problem.spectrum, {"directions": 5}), Projector.identity(problem.spectrum)):
        again = pickle.loads(pickle.dumps(P))
        assert (again.kept, again.threshold) == (P.kept, P.threshold)
    known = betaedit.KeyStatistics(problem.moment, problem.spectrum)
    assert pickle.loads(pickle.dumps(known)).d_in == problem.d_in


def test_statistics_at_rest_have_the_same_bits(problem, tmp_path):
    known = betaedit.KeyStatistics(problem.moment, problem.spectrum)
    for rested in (known.at_rest(), known.at_rest(tmp_path)):
        assert rested.d_in == problem.d_in
        assert np.array_equal(rested.moment.sum(), problem.moment.sum())
        assert np.array_equal(rested.spectrum.vectors, problem.spectrum.vectors)
    # The files have no names.
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NumericsError, match="nowhere"):
        known.at_rest(tmp_path / "nowhere")


def test_a_foreign_spectrum_is_refused(problem):
    with pytest.raises(NumericsError, match="spectrum"):
        betaedit.KeyStatistics(problem.moment, Spectrum.from_matrix(np.eye(problem.d_in)))


def large(d=700):
    moment = SecondMoment(d)
    moment.observe(np.random.default_rng(1).standard_normal((d, 2 * d)))
    return moment


def test_a_decomposition_shows_its_progress():
    seen = []
    Spectrum(large(300), progress=lambda stage, done: seen.append((stage, done)), threads=1)
    stages = [stage for stage, _ in seen]
    assert stages[0] == "reduction"
    assert "verification" in stages
    assert [done for _, done in seen] == sorted(done for _, done in seen)


def test_what_a_progress_raises_ends_the_decomposition():
    def refuse(_stage, _done):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        Spectrum(large(300), progress=refuse)


def test_ctrl_c_ends_a_decomposition_and_other_threads_run_meanwhile():
    moment, ticks, over = large(1600), [], threading.Event()

    def tick():
        while not over.wait(0.005):
            ticks.append(time.perf_counter())

    clock = threading.Thread(target=tick)
    clock.start()
    # A shell that starts programs in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    started = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            Spectrum(moment, threads=1)
        took = time.perf_counter() - started
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, before)
        over.set()
        clock.join()
    assert took < 5
    assert len(ticks) >= 3
