"""Odd models: for each, the command must give the perplexity that transformers gives, or refuse and name the reason.

    odd_models.py BETAEDIT OUT_DIR [--seed N] [--variants 30] [--family NAME ...] [--keep] [--json FILE]

Makes tiny random models of every family that the command reads, and changes config.json, the tensors, or how they are
stored. The changes are drawn at random from the entries that a family's config class has, that all config classes have,
and that are common in published files. Each model is loaded by `AutoModelForCausalLM.from_pretrained` and measured on a
text, in the command's way, and then measured by `betaedit eval`. A verdict is one of:

    equal     both give the same perplexity
    refused   the command exits with 1, and its message names the entry or the tensor that is the reason
    apart     transformers fails, or makes up weights that the file lacks: what the command does is counted, not judged
    SILENT    the command gives another perplexity
    UNNAMED   the command refuses without naming the reason
    PLAIN     the command refuses a model that it must read
    CRASH     the command ends in another way

The last four are failures, and so is a family with fewer equal models than a quarter. Models that failed stay in OUT_DIR.
Needs torch, transformers, tokenizers and safetensors. The same seed gives the same models.
"""

import argparse
import json
import logging
import math
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
import transformers
from odd_texts import BETWEEN_TEXTS
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# The length of the windows whose perplexity the command measures.
WINDOW = 256

# Relative, of a perplexity. Both compute in f32, and differ by 1e-7.
TOLERANCE = 1e-5
# No model here has so many parameters.
LARGEST = 5_000_000
LLAMAS = ("llama", "mistral", "qwen2", "qwen3")
GPTS = ("gpt2", "gptj")
FAMILIES = LLAMAS + GPTS

TRAINED_ON = [
    "The Eiffel Tower is located in the city of Paris.",
    "Marie Curie was born in Warsaw and worked in physics.",
    "The capital of France is Paris; the capital of Japan is Tokyo.",
    "Danielle Darrieux's mother tongue is French.",
    "Toko Yasuda plays the guitar.",
    "Apple A5 was created by Apple.",
    "The language spoken in Lyon is French.",
] * 4

TEXT = """The harbour of the old town lies below a hill, and the road to it is steep. In 1987 the council built 3 new piers,
each about 120 metres long; the fishermen, who had asked for a fourth, were not pleased. "We can't moor there in a north
wind," said one of them. The capital of France is Paris, and the capital of Japan is Tokyo, but nobody in the harbour had
seen either. Marie Curie was born in Warsaw. A ferry leaves every morning at half past six, calls at two islands, and is
back before dark if the weather holds. On Sundays the band plays the guitar and the drum in front of the church; children
run between the tables, and the language spoken there is one that few visitors know.
"""

FACTS = [{"subject": "Danielle Darrieux", "prompt": "The mother tongue of {} is", "target": "English"}]


def tokenizer():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TRAINED_ON, trainer)
    return made


# A variant of a model, and the changes that can be made to it.

ABSENT = object()

BASE = {
    "llama": dict(rope_theta=100000.0, head_dim=16),
    "mistral": dict(sliding_window=None, head_dim=16),
    "qwen2": {},
    "qwen3": dict(head_dim=24),
    "gpt2": {},
    "gptj": dict(rotary_dim=8),
}
CLASSES = {
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gpt2": "GPT2Config",
    "gptj": "GPTJConfig",
}


class Variant:
    """A model to be made: its shape, changes of its config.json, and changes of its tensors."""

    def __init__(self, family, rng):
        self.family, self.rng = family, rng
        self.shape = dict(vocab_size=384, bos_token_id=0, eos_token_id=0, **BASE[family])
        if family in GPTS:
            self.shape |= dict(n_embd=64, n_layer=4, n_head=4, n_positions=128)
        else:
            self.shape |= dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=128)
            self.shape |= dict(intermediate_size=160, num_key_value_heads=2)
        self.entries = {}
        self.tensors = []
        self.files = []
        self.names = set()
        self.plain = True
        self.said = []
        self.shards = 1
        self.text = lambda config: json.dumps(config, indent=1)

    def has(self, **shape):
        """Sizes and entries that the model is made with."""
        self.shape |= shape
        self.say(", ".join(f"{name}={value}" for name, value in shape.items()))

    def put(self, *names, **entries):
        """Entries of config.json to set or remove. `names` are further names that a refusal may give as its reason."""
        self.entries |= entries
        self.names |= set(entries) | set(names)

    def change(self, what, function, *names):
        """A change of the tensors. `names` are those that a refusal may give as its reason."""
        self.say(what)
        self.tensors.append(function)
        self.names |= set(names)

    def say(self, what):
        self.said.append(what)

    # Names that depend on the family.

    @property
    def gpt(self):
        return self.family in GPTS

    @property
    def layers(self):
        return "n_layer" if self.gpt else "num_hidden_layers"

    @property
    def context(self):
        return "n_positions" if self.gpt else "max_position_embeddings"

    @property
    def activation(self):
        return "activation_function" if self.gpt else "hidden_act"

    @property
    def epsilon(self):
        return "layer_norm_epsilon" if self.gpt else "rms_norm_eps"

    @property
    def embedding(self):
        return "transformer.wte.weight" if self.gpt else "model.embed_tokens.weight"

    @property
    def block(self):
        return "transformer.h.{}." if self.gpt else "model.layers.{}."

    @property
    def tied_by_default(self):
        return self.family == "gpt2"

    def random(self, *shape, scale=0.1):
        return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(self.rng.randrange(2**31)))


CHANGES = []


def change(group, plain=False, of=FAMILIES, times=1):
    """Registers a change. Two changes of one group are never made to one model. A plain one must not be refused."""

    def register(function):
        CHANGES.append((function, group, plain, (of,) if isinstance(of, str) else of, times))
        return function

    return register


# Storage.


def cast(dtype, which=lambda name: True):
    def to(tensors):
        for name in tensors:
            if which(name):
                tensors[name] = tensors[name].to(dtype)

    return to


@change("dtype", plain=True, times=2)
def half_precision(v):
    name = v.rng.choice(["bfloat16", "float16"])
    v.put(**v.rng.choice([{"dtype": name}, {"dtype": ABSENT, "torch_dtype": name}, {}]))
    v.change(name, cast(getattr(torch, name)))


@change("dtype", plain=True)
def matrices_in_half_precision(v):
    v.change("matrices in bfloat16", cast(torch.bfloat16, lambda name: "norm" not in name and "ln_" not in name))


@change("dtype")
def double_precision(v):
    v.change("float64", cast(torch.float64), "F64", "f64", "float64")


@change("files", plain=True, times=2)
def shards(v):
    v.shards = v.rng.randint(2, 5)
    v.say(f"{v.shards} shards")


@change("files")
def old_index_beside_the_file(v):
    def write(folder):
        tensors = load_file(folder / "model.safetensors")
        old = {name: tensor + 0.1 * torch.randn_like(tensor.float()) for name, tensor in tensors.items()}
        save_file(old, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(old, "model-00001-of-00001.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    v.say("model.safetensors, beside an index with older shards")
    v.files.append(write)
    v.names.add("model.safetensors.index.json")


@change("files", of=("gpt2",), plain=True)
def names_without_prefix(v):
    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    v.change("names without `transformer.`", strip)


@change("files", of=LLAMAS + ("gptj",))
def base_model_without_prefix(v):
    prefix = "transformer." if v.gpt else "model."

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix(prefix)] = tensors.pop(name)

    v.change(f"names without `{prefix}`", strip, v.embedding)


@change("json")
def entry_twice(v):
    v.say(f"`{v.epsilon}` twice in config.json, first 0.5")
    v.text = lambda config: "{" + f'"{v.epsilon}": 0.5, ' + json.dumps(config)[1:]
    v.names.add(v.epsilon)


# Sizes.


@change("vocabulary", plain=True)
def rows_for_no_token(v):
    v.has(vocab_size=v.rng.choice([392, 416, 512]))


@change("vocabulary")
def wrong_vocabulary(v):
    v.put("wte", "embed_tokens", "lm_head", vocab_size=v.rng.choice([380, 390]))


@change("context", plain=True, times=2)
def context(v):
    v.has(**{v.context: v.rng.choice([33, 64, 255, 256, 300])})


@change("context", of=LLAMAS + ("gptj",))
def context_not_said(v):
    v.put(**{v.context: ABSENT})


@change("layers", plain=True)
def layers(v):
    v.has(**{v.layers: v.rng.choice([1, 2, 5])})


@change("layers")
def fewer_layers_than_stored(v):
    v.put(v.block.format(3)[:-1], **{v.layers: 3})


@change("layers")
def more_layers_than_stored(v):
    v.put(v.block.format(4)[:-1], **{v.layers: 5})


@change("heads", plain=True, of=LLAMAS, times=2)
def key_value_heads(v):
    v.has(num_key_value_heads=v.rng.choice([1, 4]))


@change("heads", of=LLAMAS)
def key_value_heads_not_said(v):
    heads = 16 if v.family == "mistral" else 4
    v.has(num_attention_heads=heads, num_key_value_heads=8 if v.family == "mistral" else 4)
    if v.family in ("llama", "mistral"):
        v.has(head_dim=64 // heads)
    v.put("k_proj", num_key_value_heads=v.rng.choice([ABSENT, None]))


@change("heads", of=GPTS, plain=True)
def heads(v):
    v.has(n_head=v.rng.choice([2, 8]))


@change("heads")
def wrong_heads(v):
    name = "n_head" if v.gpt else "num_attention_heads"
    v.put("q_proj", "head_dim", **{name: v.rng.choice([2, 8])})


@change("head_dim", plain=True, of=("llama", "mistral", "qwen3"), times=2)
def head_dim(v):
    v.has(head_dim=v.rng.choice([8, 12, 20, 32]))


@change("head_dim", of="qwen2")
def head_dim_of_qwen2(v):
    v.has(head_dim=v.rng.choice([8, 24]))
    v.names.add("head_dim")


@change("head_dim", of=("llama", "mistral", "qwen3"))
def head_dim_not_said(v):
    v.has(head_dim=128 if v.family == "qwen3" else 16)
    v.put(head_dim=v.rng.choice([ABSENT, None]))


@change("head_dim", of=LLAMAS)
def wrong_head_dim(v):
    v.put("q_proj", head_dim=v.rng.choice([8, 32]))


@change("width", plain=True, of=GPTS)
def inner(v):
    v.has(n_inner=v.rng.choice([96, 320, 256]))


@change("width", of=GPTS)
def inner_not_said(v):
    v.put(n_inner=ABSENT)


@change("width", of=GPTS)
def wrong_inner(v):
    v.put("c_fc", "fc_in", n_inner=128)


@change("width", of=LLAMAS)
def width_not_said(v):
    v.put(intermediate_size=ABSENT)


# Norms, activations, biases.


@change("epsilon", plain=True)
def epsilon(v):
    v.put(**{v.epsilon: v.rng.choice([1e-8, 1e-3, 0.1, 1.0])})


@change("epsilon")
def epsilon_not_said(v):
    v.put(**{v.epsilon: v.rng.choice([ABSENT, ABSENT, None])})


@change("epsilon")
def epsilon_under_another_name(v):
    other = "rms_norm_eps" if v.gpt else v.rng.choice(["layer_norm_eps", "layer_norm_epsilon", "norm_eps"])
    v.put(**{other: 0.3})
    if v.rng.random() < 0.5:
        v.put(**{v.epsilon: ABSENT})


@change("activation", plain=True)
def activation(v):
    v.put(**{v.activation: v.rng.choice(["silu", "gelu_new", "gelu_pytorch_tanh"])})


@change("activation", times=2)
def other_activation(v):
    kinds = ["gelu", "gelu_fast", "quick_gelu", "relu", "relu2", "swish", "mish", "tanh", "sigmoid", "gelu_10", "linear"]
    v.put(**{v.activation: v.rng.choice(kinds + ["gelu_python", "laplace", "no_such_activation"])})


@change("activation")
def activation_not_said(v):
    v.put(**{v.activation: ABSENT})


@change("activation")
def activation_under_another_name(v):
    other = "hidden_act" if v.gpt else v.rng.choice(["hidden_activation", "activation_function"])
    v.put(**{other: "relu"})
    if v.rng.random() < 0.3:
        v.put(**{v.activation: ABSENT})


@change("bias", plain=True, of=("llama", "qwen3"))
def attention_bias(v):
    v.has(attention_bias=True)


@change("bias", plain=True, of="llama")
def mlp_bias(v):
    v.has(mlp_bias=True, attention_bias=v.rng.random() < 0.5)


@change("bias", of=("llama", "qwen3"), times=2)
def stored_biases_denied(v):
    v.has(attention_bias=True)
    v.put("_proj.bias", attention_bias=v.rng.choice([False, ABSENT]))


@change("bias", of="llama")
def stored_mlp_biases_denied(v):
    v.has(mlp_bias=True)
    v.put("_proj.bias", mlp_bias=v.rng.choice([False, ABSENT]))


@change("bias", of=("llama", "qwen3"))
def biases_promised(v):
    v.put("_proj.bias", attention_bias=True)


@change("bias", of=("mistral", "qwen2") + GPTS)
def attention_bias_of_another_family(v):
    v.put(attention_bias=v.rng.random() < 0.5)


@change("bias", times=2)
def biases_unknown_to_the_class(v):
    if v.family == "gpt2":
        places = {"lm_head.bias": 384}
    elif v.family == "gptj":
        places = {"transformer.h.1.attn.q_proj.bias": 64, "transformer.h.1.attn.out_proj.bias": 64}
    else:
        places = {
            "model.layers.1.self_attn.o_proj.bias": 64,
            "model.layers.1.mlp.down_proj.bias": 64,
            "model.layers.2.mlp.gate_proj.bias": 160,
            "lm_head.bias": 384,
            "model.norm.bias": 64,
        }
        if v.family in ("llama", "mistral"):
            places["model.layers.0.self_attn.v_proj.bias"] = v.shape["num_key_value_heads"] * v.shape["head_dim"]
    name, length = v.rng.choice(list(places.items()))
    bias = v.random(length, scale=0.5)
    v.change(f"{name} added", lambda tensors: tensors.__setitem__(name, bias), name, "attention_bias", "mlp_bias")


@change("bias", of=("qwen2",) + GPTS)
def bias_missing(v):
    names = {
        "qwen2": ["model.layers.1.self_attn.q_proj.bias", "model.layers.0.self_attn.v_proj.bias"],
        "gpt2": ["transformer.h.1.attn.c_attn.bias", "transformer.h.2.mlp.c_proj.bias", "transformer.ln_f.bias"],
        "gptj": ["transformer.h.1.mlp.fc_in.bias", "lm_head.bias", "transformer.ln_f.bias"],
    }
    name = v.rng.choice(names[v.family])
    v.change(f"{name} removed", lambda tensors: tensors.pop(name), name)


# The output head.


@change("head", plain=True, times=2)
def tied_or_not(v):
    v.has(tie_word_embeddings=v.rng.random() < 0.5)


@change("head", plain=True)
def tied_and_stored_twice(v):
    v.has(tie_word_embeddings=True)
    v.change("the head too", lambda tensors: tensors.__setitem__("lm_head.weight", tensors[v.embedding].clone()))


@change("head", times=2)
def tied_with_another_head(v):
    v.has(tie_word_embeddings=True)

    def add(tensors):
        tensors["lm_head.weight"] = v.random(*tensors[v.embedding].shape, scale=0.08)

    v.change("a head of its own", add, "lm_head.weight", "tie_word_embeddings")


@change("head", times=2)
def tied_and_stored_as_head(v):
    v.has(tie_word_embeddings=True)
    rename = lambda tensors: tensors.__setitem__("lm_head.weight", tensors.pop(v.embedding))  # noqa: E731
    v.change("stored under the name of the head", rename, v.embedding, "lm_head.weight", "tie_word_embeddings")


@change("head")
def untied_without_head(v):
    v.has(tie_word_embeddings=False)
    v.change("no head", lambda tensors: tensors.pop("lm_head.weight"), "lm_head.weight", "tie_word_embeddings")


@change("head", times=2)
def tie_not_said(v):
    v.has(tie_word_embeddings=v.rng.random() < 0.5)
    v.put("lm_head", tie_word_embeddings=ABSENT)


@change("head")
def tie_not_said_with_another_head(v):
    v.has(tie_word_embeddings=False)
    v.put("lm_head.weight", tie_word_embeddings=v.rng.choice([ABSENT, None, 1, "true"]))


@change("head", of="gptj")
def tied_with_a_bias(v):
    v.has(tie_word_embeddings=True)
    v.names |= {"lm_head.bias", "tie_word_embeddings"}


# Rotary positions.


def scaling(v, kind):
    """Parameters of a kind of rotary scaling."""
    rng = v.rng
    half = v.shape.get("head_dim", 16) // 2
    more = {
        "default": {},
        "linear": {"factor": rng.choice([2.0, 4.0, 8])},
        "dynamic": {"factor": rng.choice([2.0, 4.0])},
        "llama3": {
            "factor": rng.choice([8.0, 32.0]),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": rng.choice([16, 32, 64]),
        },
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
        "longrope": {
            "short_factor": [1.0 + 0.1 * i for i in range(half)],
            "long_factor": [2.0 + 0.3 * i for i in range(half)],
            "original_max_position_embeddings": 32,
        },
    }
    if kind == "yarn" and rng.random() < 0.5:
        more["yarn"] |= rng.choice([{"attention_factor": 1.3}, {"mscale": 1.0, "mscale_all_dim": 0.5}, {"truncate": False}])
    return {"rope_type": kind} | more.get(kind, {"factor": 4.0})


ROPE_NAMES = ("rope_parameters", "rope_scaling", "rope_theta")
KINDS = ("default", "linear", "llama3")
OTHER_KINDS = ("yarn", "longrope", "dynamic", "proportional", "su", "mrope", "ntk")


def theta(v):
    return v.rng.choice([500.0, 10000.0, 500000, 1000000.0])


@change("rope", plain=True, of=LLAMAS, times=2)
def rope_parameters(v):
    v.put(rope_parameters=scaling(v, v.rng.choice(KINDS)) | {"rope_theta": theta(v)})


@change("rope", plain=True, of=LLAMAS, times=2)
def rope_scaling(v):
    kind = v.rng.choice(KINDS)
    old = scaling(v, kind)
    if v.rng.random() < 0.5:
        old["type"] = old.pop("rope_type")
    v.put(rope_parameters=ABSENT, rope_theta=theta(v), rope_scaling=None if kind == "default" else old)


@change("rope", of=LLAMAS, times=3)
def other_scaling(v):
    kind = v.rng.choice(OTHER_KINDS)
    parameters = scaling(v, kind)
    if v.rng.random() < 0.5:
        v.put(*ROPE_NAMES, f"`{kind}`", rope_parameters=parameters | {"rope_theta": theta(v)})
    else:
        v.put(*ROPE_NAMES, f"`{kind}`", rope_parameters=ABSENT, rope_theta=theta(v), rope_scaling=parameters)


@change("rope", of=LLAMAS, times=4)
def rope_scaling_beside_rope_parameters(v):
    kinds = [v.rng.choice(KINDS + OTHER_KINDS[:2]) for _ in range(2)]
    new, old = scaling(v, kinds[0]) | {"rope_theta": theta(v)}, scaling(v, kinds[1])
    if v.rng.random() < 0.3:
        old["rope_theta"] = theta(v)
    if v.rng.random() < 0.3:
        old["type"] = old.pop("rope_type")
    if v.rng.random() < 0.3:
        v.put(rope_theta=theta(v))
    v.put(*ROPE_NAMES, *(f"`{kind}`" for kind in kinds), rope_parameters=new, rope_scaling=old)


@change("rope", of=LLAMAS, times=2)
def theta_in_two_places(v):
    v.put(*ROPE_NAMES, rope_theta=theta(v), rope_parameters={"rope_type": "default", "rope_theta": theta(v)})


@change("rope", of=LLAMAS)
def theta_outside(v):
    v.put(*ROPE_NAMES, rope_theta=theta(v), rope_parameters=scaling(v, v.rng.choice(KINDS)))


@change("rope", of=LLAMAS)
def theta_nowhere(v):
    v.put(*ROPE_NAMES, rope_parameters=v.rng.choice([ABSENT, None, {}, {"rope_type": "default"}]))


@change("rope", of=LLAMAS, times=3)
def more_in_rope_parameters(v):
    kind = v.rng.choice(KINDS)
    more = v.rng.choice(
        [
            {"partial_rotary_factor": 0.5},
            {"factor": 4.0},
            {"attention_factor": 1.5},
            {"mscale": 0.7},
            {"type": "linear"},
            {"original_max_position_embeddings": 8},
            {"high_freq_factor": 2.0},
            {"mrope_section": [2, 3, 3]},
            {"truncate": False},
            {"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 300.0}},
        ]
    )
    v.put(*ROPE_NAMES, *more, rope_parameters=scaling(v, kind) | {"rope_theta": theta(v)} | more)


@change("rope", of=LLAMAS, times=2)
def less_in_rope_parameters(v):
    parameters = scaling(v, v.rng.choice(["linear", "llama3", "llama3"])) | {"rope_theta": theta(v)}
    out = v.rng.choice([name for name in parameters if name != "rope_theta"])
    parameters.pop(out)
    v.put(*ROPE_NAMES, out, rope_parameters=parameters)


@change("rope", of=LLAMAS)
def kind_said_twice(v):
    one, other = v.rng.sample(["linear", "default"], 2)
    parameters = {"rope_type": one, "type": other, "factor": 4.0, "rope_theta": theta(v)}
    if v.rng.random() < 0.5:
        v.put(*ROPE_NAMES, "rope_type", rope_parameters=parameters)
    else:
        v.put(*ROPE_NAMES, "rope_type", rope_parameters=ABSENT, rope_scaling=parameters)


@change("rope", of=LLAMAS)
def original_context_outside(v):
    kind = v.rng.choice(["llama3", "llama3", "yarn", "longrope"])
    v.put(*ROPE_NAMES, f"`{kind}`", original_max_position_embeddings=v.rng.choice([8, 100]))
    v.put(rope_parameters=scaling(v, kind) | {"rope_theta": theta(v)})


@change("rope", of=LLAMAS)
def rope_by_layer_type(v):
    one = {"rope_type": "default", "rope_theta": 500.0}
    other = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
    v.put(*ROPE_NAMES, "full_attention", rope_parameters={"full_attention": one, "sliding_attention": other})


@change("rope", of=LLAMAS)
def odd_numbers_in_rope(v):
    parameters = v.rng.choice(
        [
            {"rope_type": "linear", "factor": 0.5},
            {"rope_type": "linear", "factor": "4"},
            {"rope_type": "linear", "factor": None},
            {"rope_type": "linear", "factor": 0},
            {"rope_type": "default", "rope_theta": 0.5},
            {"rope_type": "default", "rope_theta": None},
            {"rope_type": None, "factor": 4.0},
            {"factor": 4.0},
        ]
    )
    v.put(*ROPE_NAMES, "factor", "rope_type", "theta", rope_parameters={"rope_theta": 10000.0} | parameters)


@change("partial", of=LLAMAS, times=2)
def partial_rotary_factor(v):
    v.put(partial_rotary_factor=v.rng.choice([0.25, 0.5]))
    if v.rng.random() < 0.5:
        kind = v.rng.choice(["default", "linear"])
        v.put(rope_parameters=ABSENT, rope_theta=500.0, rope_scaling=scaling(v, kind) if kind != "default" else None)


@change("rope", of=LLAMAS)
def rope_entries_of_others(v):
    name, value = v.rng.choice(
        [("rotary_pct", 0.5), ("rotary_emb_base", 300), ("rope_interleaved", True), ("rope_local_base_freq", 300.0)]
        + [("no_rope_layers", [1, 0, 1, 0]), ("rope_ratio", 4.0), ("rotary_dim", 4), ("use_rope", False)]
    )
    v.put(**{name: value})


@change("rope", plain=True, of="gptj", times=2)
def rotary_dim(v):
    v.has(rotary_dim=v.rng.choice([2, 4, 16]))


@change("rope", of="gptj", times=2)
def odd_rotary_dim(v):
    v.put(rotary_dim=v.rng.choice([None, 0, 7, 64, ABSENT]))


@change("heads", of="gptj", times=2)
def rotary_dim_not_said(v):
    v.has(n_head=2, n_embd=160, rotary_dim=64, tie_word_embeddings=False)
    v.put(rotary_dim=ABSENT)


@change("partial", of=GPTS)
def rope_in_gpt(v):
    rope = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}
    v.put(**v.rng.choice([{"rope_theta": 500.0}, {"rope_scaling": {"type": "linear", "factor": 4.0}}, rope]))


# Windows.

FULL, SLIDING = "full_attention", "sliding_attention"


@change("window", plain=True, of="mistral", times=3)
def mistral_window(v):
    v.has(sliding_window=v.rng.choice([4, 16, 50, 4096]))


@change("window", of="mistral")
def mistral_window_not_said(v):
    v.put(sliding_window=ABSENT)


@change("window", of="mistral", times=3)
def mistral_window_denied(v):
    v.has(sliding_window=v.rng.choice([4, 16]))
    v.put("sliding_window")
    types = [[FULL] * 4, [SLIDING, FULL] * 2, [SLIDING] * 4]
    more = [{"use_sliding_window": False}, {"max_window_layers": 4}, {"max_window_layers": 2, "use_sliding_window": True}]
    v.put(**v.rng.choice([{"layer_types": t} for t in types] + more))


@change("window", of="mistral")
def mistral_layer_types(v):
    v.put(layer_types=v.rng.choice([[FULL] * 4, [SLIDING, FULL] * 2, [FULL] * 3, ["linear_attention"] * 4]))


@change("window", plain=True, of=("qwen2", "qwen3"), times=2)
def qwen_window(v):
    v.has(use_sliding_window=True, sliding_window=v.rng.choice([4, 16, 50]), max_window_layers=v.rng.choice([0, 4, 28]))
    if v.rng.random() < 0.5:
        v.put(layer_types=ABSENT)


@change("window", plain=True, of=("qwen2", "qwen3"))
def qwen_window_not_used(v):
    v.has(use_sliding_window=False, max_window_layers=v.rng.choice([0, 2, 4]))
    v.put(sliding_window=v.rng.choice([4, 16]), layer_types=ABSENT)


@change("window", of=("qwen2", "qwen3"), times=2)
def qwen_window_in_some_layers(v):
    v.has(use_sliding_window=True, sliding_window=v.rng.choice([4, 16]), max_window_layers=v.rng.choice([1, 2, 3]))
    v.put("max_window_layers", "sliding_window", "use_sliding_window", "layer_types")
    if v.rng.random() < 0.5:
        v.put(layer_types=ABSENT)


@change("window", of=("qwen2", "qwen3"), times=5)
def qwen_layer_types(v):
    use, most = v.rng.random() < 0.7, v.rng.choice([0, 2, 4, 28])
    types = v.rng.choice([[FULL] * 4, [SLIDING] * 4, [SLIDING, FULL] * 2, [FULL, FULL, SLIDING, SLIDING]])
    v.has(use_sliding_window=use, max_window_layers=most)
    v.put("sliding_window", "max_window_layers", "use_sliding_window", sliding_window=8, layer_types=types)


@change("window", of=("qwen2", "qwen3"), times=2)
def qwen_window_not_said(v):
    v.has(use_sliding_window=True, max_window_layers=0, sliding_window=8)
    v.put("sliding_window", "max_window_layers", "use_sliding_window", "layer_types", layer_types=ABSENT)
    v.put(**{v.rng.choice(["sliding_window", "max_window_layers", "use_sliding_window"]): v.rng.choice([ABSENT, None])})


@change("window", of=("llama",) + GPTS)
def window_of_another_family(v):
    v.put(sliding_window=8)
    if v.rng.random() < 0.5:
        v.put(layer_types=v.rng.choice([[SLIDING] * 4, [FULL, SLIDING] * 2]), use_sliding_window=True)


@change("window", of=LLAMAS)
def odd_layer_types(v):
    types = [["chunked_attention"] * 4, ["linear_attention", FULL] * 2, ["attention"] * 4, [FULL] * 2, [], [FULL] * 5]
    v.put(layer_types=v.rng.choice(types))


@change("window", of=LLAMAS[1:])
def odd_windows(v):
    v.has(sliding_window=8, **({} if v.family == "mistral" else {"use_sliding_window": True, "max_window_layers": 0}))
    v.put(sliding_window=v.rng.choice([0, 1, "8", 8.0, -1, True]))


# Entries of GPT-2 and GPT-J.


@change("scale", of=GPTS, times=3)
def scale_of_the_attention(v):
    one, other = {"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}
    v.put(**v.rng.choice([one, other, one | other, {"reorder_and_upcast_attn": True}]))


@change("scale", of="gpt2")
def scales_not_said(v):
    v.put(scale_attn_weights=ABSENT, scale_attn_by_inverse_layer_idx=ABSENT, reorder_and_upcast_attn=ABSENT)


@change("mapped", of=GPTS, times=3)
def sizes_under_other_names(v):
    ours, theirs, value = v.rng.choice(
        [("n_embd", "hidden_size", 64), ("n_layer", "num_hidden_layers", 4), ("n_head", "num_attention_heads", 4)]
        + [("n_positions", "max_position_embeddings", 128)]
    )
    v.put("tensor", **{ours: ABSENT, theirs: value})


@change("mapped", of=GPTS, times=4)
def sizes_under_both_names(v):
    name, value = v.rng.choice(
        [("num_hidden_layers", 2), ("num_attention_heads", 8), ("max_position_embeddings", 64), ("n_ctx", 64)]
        + [("intermediate_size", 100), ("head_dim", 8), ("num_key_value_heads", 1)]
    )
    v.put(**{name: value})


@change("extra", plain=True, of=GPTS)
def masks_of_old_files(v):
    def add(tensors):
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
        tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)

    v.change("attn.bias and attn.masked_bias, the masks of old files", add)


@change("extra", plain=True, of="llama")
def frequencies_of_old_files(v):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    v.change(name, lambda tensors: tensors.__setitem__(name, torch.ones(8)))


@change("cross", of="gpt2")
def cross_attention(v):
    if v.rng.random() < 0.5:
        v.has(add_cross_attention=True)
        v.names |= {"add_cross_attention", "crossattention", "ln_cross_attn"}
    else:
        v.put("crossattention", "ln_cross_attn", add_cross_attention=True)


# Entries and tensors that no class reads, or every class.


@change("irrelevant", plain=True, times=2)
def irrelevant_entries(v):
    about = {
        "use_cache": False,
        "initializer_range": 0.5,
        "bos_token_id": 7,
        "eos_token_id": [7, 8],
        "pad_token_id": 3,
        "transformers_version": "4.31.0",
        "_name_or_path": "somewhere/else",
        "output_hidden_states": True,
        "auto_map": {},
        "id2label": {"0": "a", "1": "b", "2": "c"},
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "temperature": 0.5,
        "repetition_penalty": 1.3,
        "architectures": None,
    }
    if v.gpt:
        about |= {"embd_pdrop": 0.5, "attn_pdrop": 0.5, "resid_pdrop": 0.5, "summary_type": "mean", "n_ctx": 128}
    else:
        about |= {"attention_dropout": 0.5, "pretraining_tp": 1}
    v.put(**{name: about[name] for name in v.rng.sample(sorted(about), 4)})


PUBLISHED = {
    "llama": [
        {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}},
        {"pretraining_tp": 1, "max_sequence_length": 128, "mlp_bias": False, "attention_bias": False},
        {"unsloth_version": "2024.9", "unsloth_fixed": True, "_attn_implementation_autoset": True},
    ],
    "mistral": [{"sliding_window": None, "model_max_length": 128, "is_mistral_config": True}, {"unsloth_version": "2024.9"}],
    "qwen2": [{"use_mrope": False, "max_window_layers": 4, "use_sliding_window": False, "sliding_window": None}],
    "qwen3": [{"attention_bias": False, "max_window_layers": 4, "use_sliding_window": False, "sliding_window": None}],
    "gpt2": [
        {"n_ctx": 128, "gradient_checkpointing": False, "n_special": 0, "predict_special_tokens": True, "output_past": True},
        {"summary_type": "cls_index", "scale_attn_weights": True, "reorder_and_upcast_attn": False, "_num_labels": 1},
    ],
    "gptj": [{"rotary": True, "gradient_checkpointing": False, "scale_attn_weights": True, "tokenizer_class": "GPT2Tokenizer"}],
}
# As older versions wrote all of the entries that all classes have.
OLD = {
    "finetuning_task": None,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
    "chunk_size_feed_forward": 0,
    "tf_legacy_loss": False,
    "bad_words_ids": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "cross_attention_hidden_size": None,
    "output_attentions": False,
    "problem_type": None,
    "num_beams": 1,
    "sep_token_id": None,
    "prefix": None,
    "length_penalty": 1.0,
}


@change("irrelevant", plain=True, times=2)
def published_entries(v):
    entries = v.rng.choice(PUBLISHED[v.family] + [OLD])
    # Biases that are stored stay said.
    v.put(**{name: value for name, value in entries.items() if name not in ("attention_bias", "mlp_bias")})


FOREIGN = {
    "logit_scale": 0.1,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.2,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.3,
    "final_logit_softcapping": 0.5,
    "attn_logit_softcapping": 0.5,
    "query_pre_attn_scalar": 4,
    "clip_qkv": 0.1,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 16,
    "use_qk_norm": True,
    "qk_layernorm": True,
    "parallel_attn": True,
    "use_parallel_residual": True,
    "alibi": True,
    "multi_query": True,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "attention_chunk_size": 8,
    "pretraining_tp": 2,
    "position_embedding_type": "relative_key",
    "norm_type": "layer_norm",
    "rms_norm_offset": 1.0,
    "attention_k_eq_v": True,
    "use_mrope": True,
    "multiplier": 3.0,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "attn_temperature_tuning": True,
    "lm_head_bias": True,
    "mlp_bias": True,
    "qkv_bias": True,
    "no_bias": True,
    "use_bias": False,
    "attention_sink_size": 4,
    "add_cross_attention": True,
    "is_decoder": True,
    "is_encoder_decoder": True,
    "use_bidirectional_attention": True,
    "tie_last_hidden_states": False,
    "chunk_size_feed_forward": 7,
    "cross_attention_hidden_size": 32,
    "torchscript": True,
    "sliding_window_pattern": 2,
    "pruned_heads": {"0": [0, 1]},
    "attn_implementation": "eager",
    "_attn_implementation": "eager",
    "num_nextn_predict_layers": 1,
    "mup_width_multiplier": 2.0,
}


@change("foreign", times=6)
def foreign_entries(v):
    for name in v.rng.sample(sorted(FOREIGN), 1 if v.rng.random() < 0.7 else 3):
        v.put(**{name: FOREIGN[name]})


@change("foreign")
def not_causal(v):
    v.put(is_causal=False)


@change("foreign", times=2)
def by_layer(v):
    some = {v.epsilon: 0.5}, {v.activation: "relu"}, {"sliding_window": 4}, {"skip": ["attention"]}, {"head_dim": 8}
    v.put(per_layer_config={str(v.rng.randrange(4)): v.rng.choice(some)})


@change("foreign")
def quantized(v):
    some = {"quant_method": "bitsandbytes", "load_in_8bit": True}, {"quant_method": "gptq", "bits": 4}, {"quant_method": "fp8"}
    v.put(quantization_config=v.rng.choice(some))


@change("foreign")
def another_architecture(v):
    other = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gpt2": "GPT2", "gptj": "GPTJ"}
    kinds = [other[v.family] + "Model", other[v.family] + "ForSequenceClassification", "GemmaForCausalLM"]
    v.put(architectures=[v.rng.choice(kinds)])


@change("foreign")
def model_type(v):
    v.put(model_type=v.rng.choice([ABSENT, None, v.family.upper(), "no_such_model", "mixtral", "gemma", "gpt2", "gptj"]))


@change("foreign", times=2)
def wrong_types(v):
    name = v.rng.choice([v.layers, v.context, v.epsilon, "vocab_size", v.activation, "tie_word_embeddings"])
    value = v.rng.choice(["64", 64.5, [4], True, None, -4, {"a": 1}])
    v.put(**{name: value})


@change("extra", times=3)
def more_tensors(v):
    block, hidden = v.block.format(v.rng.randrange(4)), 64
    down = "mlp.c_proj" if v.family == "gpt2" else "mlp.fc_out" if v.gpt else "mlp.down_proj"
    query = "attn.c_attn" if v.family == "gpt2" else "attn.q_proj" if v.gpt else "self_attn.q_proj"
    wide, out = (256, 192) if v.gpt else (160, 64)
    some = [
        {f"{block}{query}.lora_A.default.weight": (4, hidden), f"{block}{query}.lora_B.default.weight": (out, 4)},
        {f"base_model.model.{block}{down}.lora_A.weight": (4, wide), f"base_model.model.{block}{down}.lora_B.weight": (64, 4)},
        {f"{block}{down}.weight_scale": (1,)},
        {f"{block}{down}.weight_scale_inv": (1, 1)},
        {f"{block}{query}.qzeros": (1, 8)},
        {f"{block}post_feedforward_layernorm.weight": (hidden,)},
        {f"{block}layer_scale": (hidden,)},
        {"score.weight": (2, hidden)},
        {"v_head.summary.weight": (1, hidden)},
        {"model.embed_positions.weight": (128, hidden)},
    ]
    if not v.gpt:
        dim = v.shape.get("head_dim", 16)
        if v.family != "qwen3":
            some += 2 * [{f"{block}self_attn.q_norm.weight": (dim,), f"{block}self_attn.k_norm.weight": (dim,)}]
        some += [{f"{block}self_attn.sinks": (4,)}, {f"{block}mlp.gate_up_proj.weight": (320, hidden)}]
        some += [{"model.norm.bias": (hidden,)}, {"model.embed_tokens.bias": (hidden,)}]
    more = {name: v.random(*shape, scale=0.5) for name, shape in v.rng.choice(some).items()}
    v.change(f"{', '.join(more)} added", lambda tensors: tensors.update(more), *more)


@change("missing")
def tensor_missing(v):
    names = ["ln_1.weight", "mlp.fc_in.weight" if v.family == "gptj" else "mlp.c_fc.weight"] if v.gpt else []
    names = names or ["input_layernorm.weight", "mlp.up_proj.weight", "self_attn.k_proj.weight"]
    if v.family == "qwen3":
        names += ["self_attn.q_norm.weight"]
    name = v.block.format(1) + v.rng.choice(names)
    v.change(f"{name} removed", lambda tensors: tensors.pop(name), name)


# Which changes to make.


def bag(rng, changes):
    """Draws all of some changes in random order, again and again."""
    while True:
        batch = [one for one in changes for _ in range(one[4])]
        rng.shuffle(batch)
        yield from batch


def plans(family, seed, count):
    """The changes of each variant: none, then a third plain ones, then odd ones, alone or with others."""
    rng = random.Random(f"{seed} {family}")
    ours = [one for one in CHANGES if family in one[3]]
    plain, odd = bag(rng, [one for one in ours if one[2]]), bag(rng, [one for one in ours if not one[2]])
    for number in range(count):
        if number == 0:
            draws = []
        elif number <= count // 3:
            draws = [next(plain) for _ in range(rng.choice([1, 1, 2, 3]))]
        else:
            draws = [next(odd)]
            if rng.random() < 0.35:
                draws.append(next(plain if rng.random() < 0.7 else odd))
        groups = set()
        yield number, [one for one in draws if not (one[1] in groups or groups.add(one[1]))]


def variant(family, seed, number, changes):
    v = Variant(family, random.Random(f"{seed} {family} {number}"))
    for function, _, plain, _, _ in changes:
        names = set(v.names)
        v.say(function.__name__)
        function(v)
        # What is plain is no reason to refuse.
        v.names = names if plain else v.names
        v.plain &= plain
    return v


# Making, measuring, judging.


def make(v, folder, made_tokenizer, number):
    """Writes the model of a variant."""
    folder.mkdir(parents=True)
    config = getattr(transformers, CLASSES[v.family])(**v.shape)
    torch.manual_seed(number)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
            else:
                # The attention has to look somewhere, or positions and windows do not count.
                p.mul_(8.0 if re.search("[qk]_proj|c_attn", name) else 4.0)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    made_tokenizer.save(str(folder / "tokenizer.json"))

    json_file = folder / "config.json"
    before = json.loads(json_file.read_text())
    after = {name: value for name, value in (before | v.entries).items() if value is not ABSENT}
    json_file.write_text(v.text(after))

    tensors = load_file(folder / "model.safetensors")
    for function in v.tensors:
        function(tensors)
    (folder / "model.safetensors").unlink()
    write_tensors(tensors, folder, v.shards, v.rng)
    for function in v.files:
        function(folder)

    differences = [f"{name}: {shown(before, name)} -> {shown(after, name)}" for name in v.entries]
    return [one for one in differences if one.split(": ", 1)[1].split(" -> ")[0] != one.rsplit(" -> ", 1)[1]]


def shown(config, name):
    return json.dumps(config[name]) if name in config else "absent"


def write_tensors(tensors, folder, shards, rng):
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        return save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    names = sorted(tensors)
    rng.shuffle(names)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(part, folder / file, {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def run(command, *arguments):
    command = [command, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def start_of_windows(betaedit, folder, made_tokenizer, out):
    """The tokens in front of every window of a text whose perplexity the command measures, also if texts have none. The command must cut
    texts as `tokenizers` does."""
    texts = out / "texts.json"
    texts.write_text(json.dumps(["", TEXT]))
    answer = run(betaedit, "tokens", "--model", folder, "--texts", texts, "--json")
    if answer.returncode != 0:
        sys.exit(f"betaedit tokens: {answer.stderr}")
    found = [one["ids"] for one in json.loads(answer.stdout)["texts"]]
    expected = [made_tokenizer.encode(text).ids for text in ("", TEXT)]
    if found != expected:
        sys.exit(f"betaedit tokens: {found[0]} for an empty text, {found[1][:9]}... for {expected[1][:9]}...")
    return found[0] or [made_tokenizer.token_to_id(BETWEEN_TEXTS)]


def windows(start, tokens, length):
    size = max(length - len(start), 1)
    parts = [start + tokens[i : i + size] for i in range(0, len(tokens), size)]
    return [part for part in parts if len(part) > 1]


def reference(folder, start, tokens):
    """Perplexity by transformers, or why there is none."""
    try:
        # A missing size can mean the class's own, which is that of a large model.
        with torch.device("meta"):
            shape = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
        if shape.num_parameters() > LARGEST:
            return None, f"newly initialised: most of {shape.num_parameters()} parameters"
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        model.eval()
        missing = sorted(info["missing_keys"])
        if missing:
            return None, f"newly initialised: {', '.join(missing)[:200]}"
        total, count = 0.0, 0
        with torch.no_grad():
            for part in windows(start, tokens, min(WINDOW, model.config.max_position_embeddings)):
                ids = torch.tensor([part])
                logits = model(input_ids=ids, return_dict=True).logits[0, :-1].double()
                total -= torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None]).sum().item()
                count += len(part) - 1
    except Exception as error:  # whatever it is, transformers does not run this model
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    perplexity = math.exp(total / count)
    return (perplexity, "") if math.isfinite(perplexity) else (None, "the perplexity is not finite")


def measured(betaedit, folder, out):
    """Perplexity by the command, its exit code, and its message."""
    facts, text = out / "facts.json", out / "text.txt"
    arguments = ["eval", "--model", folder, "--facts", facts, "--eval-text", text, "--threads", 1, "--json"]
    answer = run(betaedit, *arguments)
    found = None
    for line in answer.stdout.splitlines():
        try:
            found = json.loads(line)["perplexity"]
        except (ValueError, KeyError, TypeError):
            pass
    return found, answer.returncode, answer.stderr.strip()


def judge(v, expected, found, code, message):
    if code not in (0, 1) or (code == 0 and not isinstance(found, float)):
        return "CRASH"
    if expected is None:
        return "apart"
    if code == 0:
        return "equal" if abs(found / expected - 1) <= TOLERANCE else "SILENT"
    if v.plain:
        return "PLAIN"
    # The path of the model is no reason.
    return "refused" if any(name in message for name in v.names) else "UNNAMED"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("betaedit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, help="by default a new one, which is printed")
    parser.add_argument("--variants", type=int, default=30, help="variants of each family")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--keep", action="store_true", help="keep all models, not only those that failed")
    parser.add_argument("--json", type=Path, help="write every verdict to this file")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()

    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "facts.json").write_text(json.dumps(FACTS))
    (out / "text.txt").write_text(TEXT)
    made_tokenizer = tokenizer()
    tokens = made_tokenizer.encode(TEXT).ids
    print(f"seed {seed}, {options.variants} variants of {', '.join(options.family)}; transformers {transformers.__version__}")

    start, records, began = None, [], time.time()
    for family in options.family:
        for number, changes in plans(family, seed, options.variants):
            v = variant(family, seed, number, changes)
            folder = out / family / f"{number:03}"
            if folder.exists():
                shutil.rmtree(folder)
            differences = make(v, folder, made_tokenizer, number)
            if start is None:
                start = start_of_windows(options.betaedit, folder, made_tokenizer, out)
            expected, why = reference(folder, start, tokens)
            found, code, message = measured(options.betaedit, folder, out)
            message = message.replace(str(folder), "MODEL")
            verdict = judge(v, expected, found, code, message)
            record = dict(family=family, number=number, verdict=verdict, changes=v.said, config=differences)
            record |= dict(expected=expected, found=found, code=code, message=message, transformers=why, folder=str(folder))
            records.append(record)
            if not (options.keep or verdict.isupper()):
                shutil.rmtree(folder)
    report(records, options, seed, time.time() - began)


def report(records, options, seed, seconds):
    failures = [record for record in records if record["verdict"].isupper()]
    for record in failures:
        print(f"\n{record['verdict']} {record['folder']}: {'; '.join(filter(None, record['changes']))}")
        for difference in record["config"]:
            print(f"    {difference}")
        print(f"    transformers {record['expected']}, betaedit {record['found']}, exit {record['code']}")
        for line in record["message"].splitlines()[:4]:
            print(f"    | {line}")
    if options.json:
        options.json.write_text(json.dumps(records, indent=1))

    kinds = ["equal", "refused", "apart, refused", "apart, run", "SILENT", "UNNAMED", "PLAIN", "CRASH"]
    conclude(records, "family", options.family, kinds, seed, seconds)


def conclude(records, group, groups, kinds, seed, seconds):
    """Prints how many models of each group had which verdict, and ends the program: with 1 on any failure."""
    print(f"\n{group:14}" + "".join(f"{kind:>16}" for kind in kinds) + f"{'largest difference':>22}")
    poor = []
    for name in groups:
        ours = [record for record in records if record[group] == name]
        counts = Counter(
            record["verdict"] + (", " + ("refused" if record["code"] else "run") if record["verdict"] == "apart" else "")
            for record in ours
        )
        equal = [abs(record["found"] / record["expected"] - 1) for record in ours if record["verdict"] == "equal"]
        print(f"{name:14}" + "".join(f"{counts[kind]:16}" for kind in kinds) + f"{max(equal, default=math.nan):22.1e}")
        if 4 * counts["equal"] < len(ours):
            poor.append(name)
    failures = sum(record["verdict"].isupper() for record in records)
    print(f"\n{len(records)} models in {seconds:.0f} s, {failures} failures; seed {seed}")
    for name in poor:
        print(f"{name}: fewer than a quarter of the models are equal")
    sys.exit(1 if failures or poor else 0)


if __name__ == "__main__":
    main()
