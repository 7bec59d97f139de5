"""Tiny models, edited here and by the command: the same keys, targets and shares, and so the same weights.

`BETAEDIT_COMMAND` is the command `betaedit`.
"""

import json
import os
import shutil
import subprocess
import tomllib

import pytest
import torch
from conftest import DATA, FACTS, Tiny
from safetensors.torch import load_file

from betaedit.hf import Editor

LAYERS = "--layers 1-2 --threads 1"
SETTINGS = "--lambda1 0.01 --lambda2 0.01 --threshold 1 --contexts 2 --context-length 5 --eval-limit 0 --generate none"


def command(words, *paths):
    subprocess.run([os.environ["BETAEDIT_COMMAND"], *words.split(), *map(str, paths)], check=True, capture_output=True)


@pytest.mark.parametrize("target", ["block", "mlp", "pmet"])
@pytest.mark.parametrize("family", ["llama", "llama-untied", "mistral", "qwen2", "qwen3", "gpt2", "gptj"])
def test_edited_weights_are_those_of_the_command(family, target, tmp_path):
    model, stats, run, edited = (tmp_path / name for name in ("model", "stats", "run", "edited"))
    model.mkdir()
    for path in [*(DATA / family).iterdir(), DATA / "tokenizer.json"]:
        shutil.copy(path, model)
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(FACTS))
    command(f"stats {LAYERS} --tokens 900 --model", model, "--out", stats)
    places = [model, "--facts", facts, "--stats", stats, "--session", run, "--out", edited]
    command(f"edit {LAYERS} {SETTINGS} --target {target} --model", *places)

    tiny = Tiny(family)
    contexts = tomllib.loads((run / "run.toml").read_text())["contexts"]
    numbers = {"lambda1": 0.01, "lambda2": 0.01, "threshold": 1.0}
    editor = Editor(tiny.model, tiny.tokenizer, [1, 2], contexts=contexts, hyperparameters=numbers, search={"site": target})
    editor.load_statistics(stats)
    assert all(one.applied for one in editor.edit(FACTS))
    theirs = load_file(edited / "model.safetensors")
    for layer in editor.layers:
        found, before = editor.layout.down(layer).weight.detach(), editor.runtime.unedited[layer]
        ending = editor.layout.module(layer).split(".", 1)[1] + ".weight"
        expected = next(theirs[name] for name in theirs if name.endswith(ending))
        change = expected - before
        assert float(change.norm()) > 1e-3 * float(before.norm())
        error = float((found - expected).norm() / change.norm())
        print(f"{family}, {target}, layer {layer}: the change differs by {error:.1e}")
        assert error < 1e-3
    assert torch.isfinite(found).all()
