"""Tiny untrained models with the activations that `transformers` computed for them: `tests/data/tiny-models`."""

import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

DATA = pathlib.Path(__file__).parents[3] / "tests" / "data" / "tiny-models"
FAMILIES = sorted(path.name for path in DATA.iterdir() if path.is_dir())
FACTS = [
    {"subject": "Eiffel Tower", "prompt": "What stands in the city is the {}", "target": "Tokyo"},
    {"subject": "Marie Curie", "prompt": "The scientist's name is {}", "target": "London"},
    {"subject": "Danube", "prompt": "A long river is the {}", "target": "Paris"},
    {"subject": "Mount Fuji", "prompt": "A high mountain is {}", "target": "Rome"},
]


class Tiny:
    """A model, its tokenizer, and what is expected of it."""

    def __init__(self, family, dtype=torch.float32):
        folder = DATA / family
        self.folder = folder
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(DATA / "tokenizer.json"))
        self.said = json.loads((folder / "expected.json").read_text())
        self.expected = load_file(folder / "expected.safetensors")

    def editor(self, **keywords):
        """An editor that writes the facts although the model knows nothing."""
        from betaedit.hf import Editor

        behind = Editor(self.model, self.tokenizer, contexts=[]).layout.norm_behind
        usual = {
            "layers": [2] if behind else [1, 2],
            "contexts": ["A text"],
            "hyperparameters": {"lambda1": 0.01, "lambda2": 0.01, "threshold": {"directions": 40}},
            "search": {"steps": 6},
            "surroundings": {"contrast": 3},
        }
        editor = Editor(self.model, self.tokenizer, **{**usual, **keywords})
        return editor.collect(tokens=600, gradients_over=200)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def tiny():
    return Tiny("llama")
