"""Statistics and targets on a cluster of several nodes on this machine, one of which is lost."""

import json
import threading

import numpy as np
import pytest
import ray
from conftest import DATA, FACTS
from ray.cluster_utils import Cluster
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import betaedit
import betaedit.ray
from betaedit.hf import Encoder, Layout, Request
from betaedit.hf.collect import moments, windows

TEXTS = [f"The city of {name} lies on a long river. Many people live in {name}, and some of them read books. " * 6 for name in
         ("Paris", "Rome", "London", "Tokyo", "Berlin", "Madrid", "Vienna", "Oslo")]  # fmt: skip
SETTINGS = {"contexts": ["A text"], "search": {"steps": 4}, "surroundings": {"contrast": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model as a directory that `from_pretrained` reads."""
    folder = str(tmp_path_factory.mktemp("model"))
    AutoModelForCausalLM.from_pretrained(DATA / "llama").save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(DATA / "tokenizer.json")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cluster():
    """A node without processors for the program, and two that work."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, workers
    ray.shutdown()
    cluster.shutdown()


class KilledNode:
    """Removes a node once something is done, and adds another."""

    def __init__(self, cluster, after):
        (self.cluster, self.workers), self.after, self.killed, self.seen = cluster, after, False, []

    def __call__(self, done, of):
        self.seen.append((done, of))
        if done >= self.after and not self.killed:
            self.killed = True
            self.cluster.remove_node(self.workers.pop(0), allow_graceful=False)
            self.workers.append(self.cluster.add_node(num_cpus=1))


@pytest.fixture
def alone(model):
    """What one process finds."""
    loaded = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    return Layout.of(loaded), Encoder(tokenizer)


def test_statistics_survive_a_lost_node(cluster, model, alone, tmp_path):
    layout, encoder = alone
    expected, _ = moments(layout, [1, 2], windows(layout, encoder, TEXTS, 0.0))
    killer = KilledNode(cluster, after=4)
    found = betaedit.ray.collect(TEXTS, model, [1, 2], folder=tmp_path, at_once=1, progress=killer, num_cpus=1)
    assert killer.killed
    assert killer.seen[-1] == (8, 8)
    for layer in (1, 2):
        assert found[layer].tokens == expected[layer].tokens
        C = expected[layer].mean()
        assert np.linalg.norm(found[layer].mean() - C) <= 1e-12 * np.linalg.norm(C)
        assert betaedit.Statistics.read(tmp_path / f"layer-0{layer}.statistics.safetensors").tokens == found[layer].tokens

    # What is there is not counted again; what was lost is.
    (tmp_path / "group-000001.layer-01.safetensors").unlink()
    seen = []
    again = betaedit.ray.collect(TEXTS, model, [1, 2], folder=tmp_path, at_once=1, progress=lambda *now: seen.append(now))
    assert seen == [(4, 8), (8, 8)]
    assert np.array_equal(again[1].sum(), found[1].sum())


def test_targets_survive_a_lost_node_in_any_order(cluster, model, tmp_path):
    facts = FACTS + [dict(fact, target="Berlin") for fact in FACTS]
    killer = KilledNode(cluster, after=2)
    keywords = {"folder": tmp_path / "a", "at_once": 2, "settings": SETTINGS}
    found = betaedit.ray.find_targets(facts, model, [1, 2], progress=killer, num_cpus=1, **keywords)
    assert killer.killed
    other = betaedit.ray.find_targets(facts[::-1], model, [1, 2], folder=tmp_path / "b", at_once=3, settings=SETTINGS)
    assert set(found) == set(other) == {Request.of(fact) for fact in facts}
    for request, target in found.items():
        assert np.array_equal(target, other[request])
    # All of it is there: nothing is sought again.
    seen = []
    betaedit.ray.find_targets(facts, model, [1, 2], progress=lambda *now: seen.append(now), **keywords)
    assert seen == [(8, 8)]


def test_an_interrupted_program_goes_on(cluster, model, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(done, _of):
        if done >= 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        betaedit.ray.collect(TEXTS, model, [1], folder=tmp_path, at_once=1, progress=interrupt)
    seen = []
    betaedit.ray.collect(TEXTS, model, [1], folder=tmp_path, at_once=1, progress=lambda *now: seen.append(now))
    assert seen[0][0] >= 4
    assert threading.active_count() < 200
    assert json.dumps(seen)
