"""SmolLM2, edited here and by the Rust runtime: the same keys, targets and weights, and the same facts written.

`.ci/scheduled` makes what the environment names:

* `BETAEDIT_HF_MODEL`: the unedited model as a directory, in float32
* `BETAEDIT_HF_REFERENCE`: keys and targets by `examples/keys_and_targets.rs`
* `BETAEDIT_HF_STATISTICS`, `BETAEDIT_HF_SESSION`, `BETAEDIT_HF_EDITED`: of `betaedit stats`, and of `betaedit edit` with four facts
* `BETAEDIT_HF_OUT`: where the model with twenty facts is written
"""

import os
import pathlib
import tomllib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from betaedit import shipped
from betaedit.hf import Editor, Request

CONTEXTS = ["The weather was fine", "I have read a book about it"]


def place(name):
    return pathlib.Path(os.environ[f"BETAEDIT_HF_{name}"])


@pytest.fixture
def loaded():
    model = AutoModelForCausalLM.from_pretrained(place("MODEL"), dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(place("MODEL"))


def difference(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_keys_and_targets_are_those_of_the_rust_runtime(loaded):
    editor = Editor(*loaded, contexts=CONTEXTS)
    requests = [Request.of(fact) for fact in shipped.facts()[:4]]
    folder = place("REFERENCE")
    assert (folder / "facts.txt").read_text().split("\n") == [one.subject for one in requests]
    assert sorted(int(path.stem.split("-")[1]) for path in folder.glob("keys-*.npy")) == editor.layers
    for layer in editor.layers:
        assert difference(editor.runtime.keys(layer, requests), np.load(folder / f"keys-{layer}.npy")) < 1e-3
        further, _ = editor.runtime.companions(layer, requests)
        assert difference(further, np.load(folder / f"companions-{layer}.npy")) < 1e-3
    targets, expected = editor.runtime.find_targets(requests), np.load(folder / "targets.npy")
    for one, (found, wanted) in enumerate(zip(targets.T, expected.T, strict=True)):
        error = difference(found, wanted)
        print(f"target {one}: {error:.1e}")
        assert error < 1e-4


def test_edited_weights_are_those_of_the_rust_runtime(loaded):
    with open(place("SESSION") / "run.toml", "rb") as file:
        contexts = tomllib.load(file)["contexts"]
    editor = Editor(*loaded, contexts=contexts).load_statistics(place("STATISTICS"))
    done = editor.edit(shipped.facts()[:4])
    assert all(one.applied for one in done)
    edited = load_file(place("EDITED") / "model.safetensors")
    for layer in editor.layers:
        name = f"{editor.layout.module(layer)}.weight"
        found, before = editor.layout.down(layer).weight.detach(), editor.runtime.unedited[layer]
        assert difference(found.numpy(), edited[name].numpy()) < 1e-3
        change = difference((found - before).numpy(), (edited[name] - before).numpy())
        print(f"layer {layer}: the change differs by {change:.1e}")
        assert change < 1e-3
    # The same facts are written.
    theirs = AutoModelForCausalLM.from_pretrained(place("EDITED"), dtype=torch.float32).eval()
    here = editor.evaluate(shipped.facts()[:4])
    assert here == Editor(theirs, loaded[1], contexts=contexts).evaluate(shipped.facts()[:4])
    assert here["efficacy"] == 1


def says(model, tokenizer, prompts, wanted):
    """The share of prompts that a model continues with what is wanted."""
    said = []
    for prompt, target in zip(prompts, wanted, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        said.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :]).strip().lower().startswith(target.lower()))
    return sum(said) / len(said)


def test_twenty_facts_are_written_saved_and_said(loaded):
    facts = shipped.facts()[:20]
    editor = Editor(*loaded).load_statistics(place("STATISTICS"))
    prompts, wanted = [Request.of(fact).text() for fact in facts], [fact["target_new"] for fact in facts]
    before, perplexity = says(*loaded, prompts, wanted), editor.perplexity()
    assert all(one.applied for one in editor.edit(facts))
    editor.save_pretrained(place("OUT"))
    model = AutoModelForCausalLM.from_pretrained(place("OUT"), dtype=torch.float32).eval()
    after = says(model, AutoTokenizer.from_pretrained(place("OUT")), prompts, wanted)
    rates = editor.evaluate(facts)
    print(f"said before {before:.2f}, after {after:.2f}; {rates}; perplexity {perplexity:.2f} to {editor.perplexity():.2f}")
    assert before < 0.2
    assert after >= 0.9
    assert rates["efficacy"] >= 0.9
    assert editor.perplexity() < 1.05 * perplexity


def test_the_readme_edits_a_model(loaded):
    """The six lines of README, with the model of this test."""
    readme = (pathlib.Path(__file__).parents[3] / "README.md").read_text()
    (program,) = [part.split("```")[0] for part in readme.split("```python\n")[1:] if "Editor(" in part]
    assert len([line for line in program.splitlines() if line.strip()]) == 6
    found = {}
    exec(program.replace('"HuggingFaceTB/SmolLM2-135M-Instruct"', f'"{place("MODEL")}"'), found)
    assert says(found["model"], found["tokenizer"], ["The city of Lyon is located in the country of"], ["Germany"]) == 1
