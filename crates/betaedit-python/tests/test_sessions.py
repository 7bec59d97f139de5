"""Sessions on adapters that are Python objects."""

import numpy as np
import pytest

import betaedit
from betaedit import Adapter, ModelError, NumericsError, Session


class Linear(Adapter):
    """Two layers of a linear model `y = W1 W0 x`: requests are (x, y)."""

    def __init__(self, rng, moments=None, d=8):
        self.layers = [0, 1]
        self.weights = [rng.standard_normal((d, d)) for _ in range(2)]
        self.moments = {}
        x = rng.standard_normal((d, 500))
        for layer in self.layers:
            self.moments[layer] = betaedit.SecondMoment(d)
            self.moments[layer].observe(x)
            x = self.weights[layer] @ x

    def weight_shape(self, layer):
        return self.weights[layer].shape

    def keys(self, layer, requests):
        x = np.stack([request[0] for request in requests], axis=1)
        return x if layer == 0 else self.weights[0] @ x

    def residuals(self, layer, requests):
        x = np.stack([request[0] for request in requests], axis=1)
        y = np.stack([request[1] for request in requests], axis=1)
        missing = y - self.weights[1] @ self.weights[0] @ x
        return missing if layer == 1 else np.linalg.pinv(self.weights[1]) @ missing

    def read_weight(self, layer):
        return self.weights[layer]

    def write_weight(self, layer, weight):
        self.weights[layer] = np.array(weight)

    def fingerprint(self):
        return "a linear model"


def requests(rng, n, d=8):
    return [(rng.standard_normal(d), rng.standard_normal(d)) for _ in range(n)]


def opened(adapter, **keywords):
    method = keywords.pop("method", betaedit.Memit(lambda_=1e-3, history="absorbed"))
    return Session(adapter, method, adapter.moments, dtype="float64", **keywords)


def test_an_adapter_is_checked(rng):
    adapter = Linear(rng)
    betaedit.check_adapter(adapter, requests(rng, 2), dtype="float64")

    class Forgetful(Linear):
        def write_weight(self, layer, weight):
            pass

    with pytest.raises(ModelError, match="layer 0"):
        betaedit.check_adapter(Forgetful(rng), requests(rng, 2), dtype="float64")
    with pytest.raises(ModelError, match="`list` is no adapter: it has no `layers`, `weight_shape`"):
        betaedit.check_adapter([], [])


def test_a_method_is_named_and_an_edit_numbered(rng):
    adapter = Linear(rng)
    session = opened(adapter, method="memit-h")
    session.edit(requests(rng, 2))
    for wrong in ("0", -1, 1.0, None, True):
        with pytest.raises(betaedit.SessionError, match="names no edit"):
            session.undo(wrong)
    session.undo(0)
    assert session.replace(1, requests(rng, 1))["applied"]
    assert (session.applied, session.holds(2)) == (1, True)
    with pytest.raises(NumericsError, match="memit-h"):
        opened(adapter, method="memit-g")
    with pytest.raises(TypeError):
        opened(adapter, method=3)
    with pytest.raises(NumericsError, match="`KeyStatistics` or a `SecondMoment`, not a `ndarray`"):
        Session(adapter, "memit", dict.fromkeys(adapter.layers, np.eye(8)))


def test_batches_are_written_and_undone(rng):
    adapter = Linear(rng)
    first = [weight.copy() for weight in adapter.weights]
    seen = []
    session = opened(adapter, observer=lambda outcome, progress: seen.append((outcome["applied"], progress["processed"])))
    facts = requests(rng, 2)
    outcome = session.edit(facts)
    assert outcome["applied"]
    assert outcome["ids"] == [0, 1]
    assert [layer["layer"] for layer in outcome["layers"]] == [0, 1]
    y = np.stack([one[1] for one in facts], axis=1)
    assert np.linalg.norm(adapter.residuals(1, facts)) < 0.1 * np.linalg.norm(y)
    total = adapter.weights[1] - first[1]
    assert np.linalg.norm(session.total(1) - total) < 1e-12
    assert abs(session.gauges(1)["drift"] - np.linalg.norm(total)) < 1e-9
    session.edit(requests(rng, 1))
    assert (session.processed, session.applied, session.states[0]["edits"]) == (3, 3, 3)
    session.undo([0, 1, 2])
    assert session.applied == 0
    assert not session.holds(0)
    for weight, before in zip(adapter.weights, first, strict=True):
        assert np.linalg.norm(weight - before) < 1e-8
    assert seen == [(True, 2), (True, 3)]
    assert session.adapter is adapter


def test_layers_at_rest_give_the_same_bits(tmp_path):
    weights = []
    for folder in (None, tmp_path):
        rng = np.random.default_rng(3)
        adapter = Linear(rng)
        if folder is not None:
            adapter.moments = {layer: betaedit.KeyStatistics(one).at_rest(folder) for layer, one in adapter.moments.items()}
        session = opened(adapter, at_rest=folder)
        session.edit(requests(rng, 2))
        session.edit(requests(rng, 1))
        session.undo([0])
        weights.append(adapter.weights)
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_an_exception_of_the_adapter_leaves_the_model_as_it_was(rng):
    class Failing(Linear):
        raises = None

        def residuals(self, layer, requests):
            if self.raises is not None and layer == 1:
                raise self.raises
            return super().residuals(layer, requests)

    adapter = Failing(rng)
    first = [weight.copy() for weight in adapter.weights]
    session = opened(adapter)
    for raised, expected in ((ZeroDivisionError("x"), ModelError), (KeyboardInterrupt(), KeyboardInterrupt)):
        adapter.raises = raised
        with pytest.raises(expected) as caught:
            session.edit(requests(rng, 1))
        if expected is ModelError:
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert all(np.array_equal(a, b) for a, b in zip(adapter.weights, first, strict=True))
    # One of our own says why a request cannot be written.
    adapter.raises = ModelError("the subject is unknown")
    outcome = session.edit(requests(rng, 1))
    assert not outcome["applied"]
    assert "the subject is unknown" in outcome["reason"]
    adapter.raises = None
    assert session.edit(requests(rng, 1))["applied"]


def test_a_session_goes_on_in_its_directory(rng, tmp_path):
    facts = requests(rng, 3)
    adapter = Linear(np.random.default_rng(3))
    session = opened(adapter, directory=tmp_path / "run")
    session.edit(facts[:2])
    del session
    again = Linear(np.random.default_rng(3))
    session = opened(again, directory=tmp_path / "run")
    assert session.recovery["resumed"]
    assert session.processed == 2
    assert all(np.array_equal(a, b) for a, b in zip(again.weights, adapter.weights, strict=True))
    other = Linear(np.random.default_rng(3))
    with pytest.raises(betaedit.Error):
        opened(other, directory=tmp_path / "run", method=betaedit.Memit(lambda_=2.0))


def test_limits_reject_a_batch(rng):
    adapter = Linear(rng)
    session = opened(adapter, guards={"relative_update_norm": 1e-9})
    outcome = session.edit(requests(rng, 1))
    assert (outcome["applied"], outcome["kind"]) == (False, "guard")
    with pytest.raises(NumericsError, match="guards"):
        opened(adapter, guards={"drift": 1.0})


def test_companions_are_written_with_a_batch(rng):
    kept = rng.standard_normal(8)

    class Careful(Linear):
        def companions(self, layer, requests):
            key = kept if layer == 0 else self.weights[0] @ kept
            return 1e3 * key[:, None], [(0, 0.0)]

    adapter = Careful(rng)
    before = adapter.weights[1] @ adapter.weights[0] @ kept
    assert opened(adapter).edit(requests(rng, 1))["applied"]
    assert np.linalg.norm(adapter.weights[1] @ adapter.weights[0] @ kept - before) < 1e-2 * np.linalg.norm(before)


def test_edits_are_replaced_and_conflicts_found(rng):
    class Named(Linear):
        def subject(self, request):
            return "one" if request[0][0] > -100 else None

    adapter = Named(rng)
    session = opened(adapter, conflicts="last-wins")
    session.edit(requests(rng, 1))
    outcome = session.edit(requests(rng, 1))
    assert outcome["replaced"] == [0]
    assert session.replace([1], requests(rng, 1))["applied"]
    assert session.applied == 1


def test_a_restraint_and_a_share_are_taken(rng):
    adapter = Linear(rng)
    session = opened(adapter, restraint={"rect": {"kept": 0.5}}, share="square-root", parallel_from=0.95, snapshot_every=5, guards={})
    assert session.edit(requests(rng, 1))["applied"]
    with pytest.raises(NumericsError, match="restraint"):
        opened(adapter, restraint={"rect": {"keep": 0.5}})
