"""Models in GGUF files: the command must give the perplexity that llama.cpp gives, or refuse and name the reason.

    gguf_models.py BETAEDIT OUT_DIR [--seed N] [--variants 40] [--architecture NAME ...] [--keep] [--json FILE]

Makes tiny random GGUF files of every architecture that the command reads, and changes their entries, their tensors, or how
they are stored. llama.cpp reads each file and measures the perplexity of a text in the command's way, in f32, with the
logits of all tokens. Where a matrix is rounded, it computes with rounded activations. So a file with such matrices is judged
by a second one with the same entries, whose tensors hold the same numbers in f32; the file itself must agree roughly.

A model that the command reads is then edited, the edit is undone, and both models are written as directories. transformers
must load them without a warning, with the tensors of the GGUF file, the perplexities that the command gives, llama.cpp's
tokens, and the special tokens and the chat template of the file.

    equal     both give the same perplexity, and the directories are right
    refused   the command exits with 1, and its message names the entry or the tensor that is the reason
    unsaved   the same, when it writes the directories
    apart     llama.cpp does not read the file: what the command does is counted, not judged
    SILENT    the command gives another perplexity
    SAVED     a directory that it writes is another model or has another tokenizer
    UNNAMED   the command refuses without naming the reason
    PLAIN     the command refuses a model that it must read
    CRASH     the command ends in another way

The last five are failures, and so is an architecture with fewer equal models than a quarter. Models that failed stay in
OUT_DIR. Needs gguf, jinja2, numpy, xllamacpp, torch, transformers, tokenizers and safetensors. The same seed gives the same
models.
"""

import argparse
import ctypes
import json
import logging
import math
import multiprocessing
import os
import random
import shutil
import time
import traceback
import warnings
from pathlib import Path

import gguf
import jinja2
import numpy
import torch
import transformers
import xllamacpp
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Kind
from gguf_tokenizers import USER_DEFINED, vocabulary
from odd_models import FACTS, TEXT, TOLERANCE, WINDOW, bag, conclude, measured, run, windows
from odd_texts import BETWEEN_TEXTS, TEXTS
from safetensors.torch import load_file

ABSENT = object()
ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Relative, of a perplexity: of models in f32, and of those that llama.cpp runs with rounded activations.
ROUGHLY = 0.05
# Largest difference of a tensor that was edited and whose edit was undone.
UNDONE = 1e-5

# Matrices in these types are rounded, and their rows are cut into blocks.
ROUNDED = [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]
BY_256 = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]
RARE = [Type.IQ4_NL, Type.IQ4_XS, Type.TQ1_0, Type.TQ2_0, Type.MXFP4]

# Names of tensors in GGUF files and in directories.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CHATS = {
    "ChatML": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "with bos_token and eos_token": "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}"
    "{{ eos_token }}{% endfor %}",
    "with odd characters": "{%- for m in messages -%}\n    {{- '«' ~ m.role ~ '»\\t\"' ~ m.content ~ '\"' -}}\n"
    "{%- endfor %}\n",
}
MESSAGES = [{"role": "user", "content": " What's 1987 + 3?"}, {"role": "assistant", "content": "1990 — été"}]
MERGED = {}


# A variant of a model, and the changes that can be made to it.


class Variant:
    """A model to be made: its sizes, its tokenizer, changes of its entries and tensors, and how it is stored."""

    def __init__(self, architecture, rng):
        self.architecture, self.rng = architecture, rng
        self.layers, self.hidden, self.inner, self.heads, self.kv_heads, self.head_dim = 2, 64, 256, 4, 2, 16
        self.tied = False
        self.pre, self.first, self.last = {"qwen2": "qwen2", "qwen3": "qwen2"}.get(architecture, "smollm"), ABSENT, ABSENT
        self.bos, self.ends = "<|endoftext|>", {"eos": "<|endoftext|>"}
        self.chat = ABSENT
        self.biases = ["attn_q", "attn_k", "attn_v"] if architecture == "qwen2" else []
        self.entries, self.more, self.types = {}, [], []
        self.parts, self.alignment = 1, None
        self.names, self.plain, self.said = set(), True, []

    def put(self, kind, *names, **entries):
        """Entries of the architecture to set or remove, `__` for a point. `names` are further names of the reason."""
        for name, value in entries.items():
            self.entry(f"{self.architecture}.{name.replace('__', '.')}", value, kind)
        self.names |= set(names)

    def entry(self, name, value, kind=None):
        self.entries[name] = (value, kind)
        self.names.add(name)
        self.say(f"{name} {'absent' if value is ABSENT else value}")

    def change(self, what, function, *names):
        """A change of the tensors. `names` are those that a refusal may give as its reason."""
        self.say(what)
        self.more.append(function)
        self.names |= set(names)

    def store(self, what, choose, of_vectors=False):
        """How tensors are stored: a type, or None, by the name and the length of the rows, which is 0 for vectors."""
        self.say(what)
        self.types.append((choose, of_vectors))

    def has(self, **shape):
        for name, value in shape.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        self.say(", ".join(f"{name}={'absent' if value is ABSENT else value}" for name, value in shape.items()))

    def say(self, what):
        self.said.append(what)

    def random(self, *shape, scale=0.1):
        return scale * numpy.random.default_rng(self.rng.randrange(2**31)).standard_normal(shape)

    def layer(self):
        return self.rng.randrange(self.layers)


CHANGES = []


def change(group, plain=False, of=ARCHITECTURES, times=1):
    """Registers a change. Two changes of one group are never made to one model. A plain one must not be refused."""

    def register(function):
        CHANGES.append((function, group, plain, (of,) if isinstance(of, str) else of, times))
        return function

    return register


# Storage.


@change("types", plain=True, times=3)
def one_type(v):
    kind = v.rng.choice(ROUNDED)
    v.store(f"matrices in {kind.name}", lambda name, columns: kind)


@change("types", plain=True, times=3)
def mixed_types(v):
    rng = random.Random(v.rng.random())
    v.store(
        "matrices in mixed types",
        lambda name, columns: rng.choice(ROUNDED + (3 * BY_256 if columns % 256 == 0 else [Type.F32])),
    )


@change("types", plain=True, times=3)
def in_blocks_of_256(v):
    v.has(hidden=256, heads=4, kv_heads=2, head_dim=64)
    kinds = v.rng.choices(BY_256, k=2)
    v.store(
        f"{kinds[0].name}, embedding and head in {kinds[1].name}",
        lambda name, columns: kinds[name.startswith(("token_embd", "output."))],
    )


@change("types", plain=True)
def only_the_embedding(v):
    kind = v.rng.choice(ROUNDED)
    v.store(f"token_embd in {kind.name}", lambda name, columns: kind if name.startswith("token_embd") else None)


@change("types", times=2)
def rare_types(v):
    kind = v.rng.choice(RARE)
    if kind in (Type.IQ4_XS, Type.TQ1_0, Type.TQ2_0):
        v.has(hidden=256, head_dim=64)
    name = v.rng.choice(["ffn_down", "attn_v", "token_embd"])
    v.store(f"{name} in {kind.name}", lambda there, columns: kind if f"{name}.w" in there else None)
    v.names |= {name, kind.name}


@change("types")
def vectors_in_f16(v):
    v.store("norms and biases in F16", lambda name, columns: None if columns else Type.F16, of_vectors=True)
    v.names |= {"norm"}


@change("files", plain=True, times=2)
def parts(v):
    v.has(parts=v.rng.randint(2, 5))


@change("files", plain=True)
def alignment(v):
    v.has(alignment=v.rng.choice([64, 256]))


# Sizes.


@change("layers", plain=True)
def layers(v):
    v.has(layers=v.rng.choice([3, 4]))


@change("layers")
def wrong_number_of_layers(v):
    v.put(Kind.UINT32, f"blk.{v.layers - 1}", f"blk.{v.layers}", block_count=v.layers + v.rng.choice([-1, 1]))


@change("heads", plain=True, times=2)
def key_value_heads(v):
    v.has(kv_heads=v.rng.choice([1, 4]))


@change("heads", plain=True)
def key_value_heads_not_said(v):
    v.has(kv_heads=v.heads)
    v.put(None, attention__head_count_kv=ABSENT)


@change("heads")
def heads_by_layer(v):
    v.put("list", attention__head_count_kv=[v.kv_heads] * v.layers)


@change("heads")
def wrong_heads(v):
    name = v.rng.choice(["head_count", "head_count_kv"])
    v.put(Kind.UINT32, "attn_q", "attn_k", "head", **{f"attention__{name}": v.rng.choice([1, 8])})


@change("head_dim", plain=True, of=("llama", "qwen3"), times=3)
def head_dim(v):
    v.has(head_dim=v.rng.choice([8, 12, 24, 32]))


@change("head_dim", of="qwen2")
def head_dim_of_qwen2(v):
    """llama.cpp does not read it."""
    v.has(head_dim=v.rng.choice([8, 32]))
    v.names |= {"key_length", "attn_q"}


@change("head_dim")
def another_length_of_values(v):
    v.put(Kind.UINT32, attention__value_length=v.rng.choice([8, 32]))


@change("head_dim")
def lengths_not_said(v):
    v.has(head_dim=v.rng.choice([16, 24]))
    v.names |= {"attn_q", "attn_k", "attn_v", "rope.dimension_count", "attention.value_length"}
    for name in v.rng.choice([["key_length"], ["value_length"], ["key_length", "value_length"]]):
        v.put(None, **{f"attention__{name}": ABSENT})


@change("width", plain=True)
def inner(v):
    v.has(inner=v.rng.choice([96, 160, 512]))


@change("width")
def widths_by_layer(v):
    v.put("list", feed_forward_length=[v.inner] * v.layers)


@change("context", plain=True)
def context(v):
    v.put(Kind.UINT32, context_length=v.rng.choice([33, 64, 255, 300]))


@change("context")
def context_not_said(v):
    v.put(None, context_length=ABSENT)


@change("epsilon", plain=True)
def epsilon(v):
    v.put(Kind.FLOAT32, attention__layer_norm_rms_epsilon=v.rng.choice([1e-8, 1e-3, 0.1, 1.0]))


@change("epsilon")
def epsilon_not_said(v):
    v.put(None, attention__layer_norm_rms_epsilon=ABSENT)


@change("epsilon")
def epsilon_under_another_name(v):
    v.put(Kind.FLOAT32, attention__layer_norm_epsilon=0.3)


@change("vocabulary", plain=True)
def size_of_vocabulary(v):
    v.put(Kind.UINT32, vocab_size=len(tokens_of(v)))


@change("vocabulary", times=2)
def other_size_of_vocabulary(v):
    rows = len(tokens_of(v)) + v.rng.choice([-8, 8])
    if v.rng.random() < 0.5:
        v.put(Kind.UINT32, vocab_size=rows)

    def resize(tensors):
        for name in ("token_embd.weight", "output.weight"):
            if name in tensors:
                tensors[name] = numpy.resize(tensors[name], (rows, v.hidden))

    if v.rng.random() < 0.7:
        v.change(f"{rows} rows of the embedding", resize, "token_embd", "tokens", "vocab")


# Head and biases.


@change("head", plain=True, times=3)
def tied(v):
    v.has(tied=True)


@change("head", plain=True)
def head_equal_to_the_embedding(v):
    def repeat(tensors):
        tensors["output.weight"] = tensors["token_embd.weight"]

    v.change("output.weight is token_embd.weight", repeat)


@change("head")
def head_only(v):
    v.change("token_embd.weight removed", lambda tensors: tensors.pop("token_embd.weight"), "token_embd")


# The biases that llama.cpp reads where they are stored. In qwen2 it also reads that of the head.
READ = {
    "llama": ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"],
    "qwen3": ["attn_q", "attn_k", "attn_v"],
}


def add_biases(v, names):
    def add(tensors):
        for name in names:
            tensors[f"{name}.bias"] = v.random(tensors[f"{name}.weight"].shape[0], scale=0.3)

    there = [f"{NAMES[name.split('.')[-1]]}.bias" for name in names]
    v.change(f"biases {', '.join(names)}", add, *there, *(f"{name}.bias" for name in names))


@change("bias", plain=True, of=("llama", "qwen3"), times=2)
def biases(v):
    read = READ[v.architecture]
    v.has(biases=v.rng.choice([read, read[:3], read[:4], read[4:] or read[:1]]))


@change("bias", plain=True, of=("llama", "qwen3"))
def some_biases(v):
    places = [f"blk.{layer}.{name}" for layer in range(v.layers) for name in READ[v.architecture]]
    add_biases(v, v.rng.sample(places, 2))


@change("bias", of="qwen2", times=2)
def bias_of_the_head(v):
    v.tied = False
    add_biases(v, ["output"])


@change("bias", of="qwen2", times=2)
def fewer_biases_of_qwen2(v):
    v.has(biases=v.rng.choice([[], ["attn_q", "attn_k"], ["attn_v"]]))
    v.names |= {"attn_q.bias", "attn_k.bias", "attn_v.bias"}


@change("bias", times=2)
def biases_that_may_be_unread(v):
    layer = v.layer()
    places = [f"blk.{layer}.{name}" for name in ("ffn_gate", "ffn_up", "ffn_down", "attn_output")] + ["output"]
    place = v.rng.choice([place for place in places if place != "output" or not v.tied])
    add_biases(v, [place])


@change("bias")
def biases_of_norms(v):
    place = v.rng.choice([f"blk.{v.layer()}.attn_norm", f"blk.{v.layer()}.ffn_norm", "output_norm"])
    add_biases(v, [place])


# Positions.


@change("base", plain=True, times=2)
def base(v):
    v.put(Kind.FLOAT32, rope__freq_base=v.rng.choice([500.0, 10000.0, 1e6, 25.0]))


@change("base", plain=True)
def base_not_said(v):
    v.put(None, rope__freq_base=ABSENT)


@change("rotary", plain=True)
def rotary_dimensions_not_said(v):
    v.put(None, rope__dimension_count=ABSENT)


@change("rotary", times=2)
def partial_rotary(v):
    v.put(Kind.UINT32, rope__dimension_count=v.rng.choice([8, 4, 12, 32, 0]))


@change("rotary", plain=True)
def not_scaled(v):
    v.put(Kind.STRING, rope__scaling__type="none")


@change("rotary", times=5)
def scaled(v):
    kind = v.rng.choice([ABSENT, "none", "linear", "yarn", "longrope", "llama3", ""])
    if kind is not ABSENT:
        v.put(Kind.STRING, rope__scaling__type=kind)
    v.names.add("rope.scaling")
    if kind is ABSENT or v.rng.random() < 0.8:
        v.put(Kind.FLOAT32, rope__scaling__factor=v.rng.choice([4.0, 2.0, 1.0, 0.5, 0.0]))
    if kind == "yarn" or v.rng.random() < 0.2:
        v.put(Kind.UINT32, rope__scaling__original_context_length=v.rng.choice([64, 128, 1]))
    if v.rng.random() < 0.3:
        name = v.rng.choice(["attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast"])
        v.put(Kind.FLOAT32, **{f"rope__scaling__{name}": v.rng.choice([1.0, 0.0, 0.5])})
    if v.rng.random() < 0.2:
        v.put(Kind.BOOL, rope__scaling__finetuned=v.rng.random() < 0.5)


@change("rotary")
def scaled_under_an_old_name(v):
    v.put(Kind.FLOAT32, rope__scale_linear=v.rng.choice([4.0, 1.0]))


@change("rotary", times=3)
def factors_of_frequencies(v):
    ones = v.rng.random() < 0.3
    factors = numpy.ones(v.head_dim // 2) if ones else numpy.linspace(1, 8, v.head_dim // 2)
    some = ["rope_freqs.weight", "rope_freqs.weight", "rope_factors_long.weight", f"blk.{v.layer()}.rope_freqs.weight"]
    name = v.rng.choice(some)
    v.change(f"{name}{' of ones' if ones else ''}", lambda tensors: tensors.update({name: factors}), name, "rope_freqs")


# Other entries.

FOREIGN = {
    "attention.sliding_window": [(8, Kind.UINT32), (4096, Kind.UINT32), (0, Kind.UINT32)],
    "attention.sliding_window_pattern": [(2, Kind.UINT32), ([True, False], "list")],
    "attention.scale": [(1.0, Kind.FLOAT32), (0.1, Kind.FLOAT32), (0.0, Kind.FLOAT32)],
    "attention.output_scale": [(0.5, Kind.FLOAT32), (1.0, Kind.FLOAT32)],
    "attention.value_scale": [(0.5, Kind.FLOAT32)],
    "attention.clamp_kqv": [(0.1, Kind.FLOAT32), (0.0, Kind.FLOAT32), (1.0, Kind.FLOAT32)],
    "attention.max_alibi_bias": [(8.0, Kind.FLOAT32), (0.0, Kind.FLOAT32)],
    "attention.temperature_scale": [(0.1, Kind.FLOAT32), (1.0, Kind.FLOAT32)],
    "attention.temperature_length": [(64, Kind.UINT32)],
    "attention.causal": [(False, Kind.BOOL), (False, Kind.BOOL), (True, Kind.BOOL)],
    "attention.key_length_swa": [(8, Kind.UINT32)],
    "attention.shared_kv_layers": [(1, Kind.UINT32)],
    "attention.group_norm_epsilon": [(0.1, Kind.FLOAT32)],
    "attention.recurrent_layers": [([True, False], "list")],
    "attn_logit_softcapping": [(0.5, Kind.FLOAT32), (0.0, Kind.FLOAT32)],
    "final_logit_softcapping": [(0.5, Kind.FLOAT32), (0.0, Kind.FLOAT32)],
    "router_logit_softcapping": [(0.5, Kind.FLOAT32)],
    "logit_scale": [(0.1, Kind.FLOAT32), (1.0, Kind.FLOAT32), (0.0, Kind.FLOAT32)],
    "residual_scale": [(0.2, Kind.FLOAT32), (1.0, Kind.FLOAT32), (0.0, Kind.FLOAT32)],
    "embedding_scale": [(12.0, Kind.FLOAT32), (1.0, Kind.FLOAT32), (0.0, Kind.FLOAT32)],
    "expert_count": [(8, Kind.UINT32), (0, Kind.UINT32), (1, Kind.UINT32)],
    "expert_used_count": [(2, Kind.UINT32), (0, Kind.UINT32)],
    "expert_weights_scale": [(2.0, Kind.FLOAT32)],
    "expert_weights_norm": [(True, Kind.BOOL)],
    "expert_feed_forward_length": [(32, Kind.UINT32)],
    "expert_shared_feed_forward_length": [(32, Kind.UINT32)],
    "expert_gating_func": [(2, Kind.UINT32)],
    "leading_dense_block_count": [(1, Kind.UINT32)],
    "nextn_predict_layers": [(1, Kind.UINT32), (0, Kind.UINT32)],
    "use_parallel_residual": [(True, Kind.BOOL), (False, Kind.BOOL)],
    "hidden_activation": [("gelu", Kind.STRING), ("silu", Kind.STRING)],
    "activation.situ_beta": [(0.5, Kind.FLOAT32)],
    "pooling_type": [(0, Kind.UINT32), (1, Kind.UINT32)],
    "classifier.output_labels": [(["a", "b"], "list")],
    "features_length": [(8, Kind.UINT32)],
    "embedding_length_out": [(32, Kind.UINT32), (64, Kind.UINT32)],
    "embedding_length_per_layer_input": [(8, Kind.UINT32)],
    "n_deepstack_layers": [(1, Kind.UINT32), (3, Kind.UINT32)],
    "num_loops": [(2, Kind.UINT32), (1, Kind.UINT32)],
    "rope.dimension_sections": [([2, 3, 3, 0], "list")],
    "rope.freq_base_swa": [(500.0, Kind.FLOAT32)],
    "rope.dimension_count_swa": [(8, Kind.UINT32)],
    "rescale_every_n_layers": [(1, Kind.UINT32)],
    "swin_norm": [(True, Kind.BOOL)],
    "tensor_data_layout": [("Meta AI original pth", Kind.STRING), ("any", Kind.STRING)],
    "no_such_entry": [(0.5, Kind.FLOAT32), (0, Kind.UINT32), ("text", Kind.STRING), (True, Kind.BOOL)],
    "decoder_block_count": [(1, Kind.UINT32)],
}


@change("foreign", times=9)
def foreign_entries(v):
    for name in v.rng.sample(sorted(FOREIGN), 1 if v.rng.random() < 0.75 else 2):
        value, kind = v.rng.choice(FOREIGN[name])
        v.entry(f"{v.architecture}.{name}", value, kind)


@change("foreign", times=2)
def wrong_types(v):
    name = v.rng.choice(["block_count", "embedding_length", "attention__head_count", "rope__freq_base", "context_length"])
    sizes = dict(block_count=v.layers, embedding_length=v.hidden, attention__head_count=v.heads, context_length=512)
    value = sizes.get(name, 10000)
    kind = v.rng.choice([Kind.UINT64, Kind.INT32, Kind.UINT16, Kind.FLOAT64, Kind.FLOAT32, Kind.STRING])
    v.put(kind, **{name: str(value) if kind is Kind.STRING else value})


@change("foreign")
def another_architecture(v):
    kinds = ["Llama", "mistral", "llama4", "qwen", "qwen2moe", "qwen3moe", "granite", "smollm3", "qwen2vl", "no-such-kind"]
    v.entry("general.architecture", v.rng.choice(kinds), Kind.STRING)
    v.names.add("architecture")


@change("irrelevant", plain=True)
def general_entries(v):
    v.entry("general.name", "A model", Kind.STRING)
    v.entry("general.quantization_version", 2, Kind.UINT32)
    v.entry("general.file_type", v.rng.choice([0, 1, 7, 15]), Kind.UINT32)
    v.entry("general.tags", ["a", "b"], "list")
    v.entry("quantize.imatrix.entries_count", 12, Kind.INT32)


# Tensors.


@change("extra", times=3)
def more_tensors(v):
    block, hidden = f"blk.{v.layer()}.", v.hidden
    some = [
        {f"{block}attn_q.scale": (1,)},
        {f"{block}ffn_down.scale": (1,)},
        {f"{block}attn_output.scale": (1,)},
        {f"{block}attn_q.input_scale": (1,)},
        {f"{block}attn_q_norm.weight": (v.head_dim,), f"{block}attn_k_norm.weight": (v.head_dim,)},
        {f"{block}attn_q.lora_a": (4, hidden), f"{block}attn_q.lora_b": (v.heads * v.head_dim, 4)},
        {f"{block}post_attention_norm.weight": (hidden,)},
        {f"{block}post_ffw_norm.weight": (hidden,)},
        {f"{block}attn_sub_norm.weight": (hidden,)},
        {f"{block}ffn_sub_norm.weight": (v.inner,)},
        {f"{block}attn_sinks.weight": (v.heads,)},
        {f"{block}layer_output_scale.weight": (1,)},
        {f"{block}ffn_gate_inp.weight": (8, hidden)},
        {f"{block}no_such_tensor.weight": (hidden,)},
        {"cls.output.weight": (2, hidden)},
        {"position_embd.weight": (512, hidden)},
        {"token_embd_norm.weight": (hidden,)},
        {"token_types.weight": (2, hidden)},
        {"output.scale": (1,)},
        {"output_norm.scale": (1,)},
        {f"blk.{v.layers}.attn_norm.weight": (hidden,)},
        {"no_such_tensor": (8,)},
    ]
    if v.architecture == "qwen3":
        some = [one for one in some if f"{block}attn_q_norm.weight" not in one]
    more = {name: 0.5 + v.random(*shape, scale=0.5) for name, shape in v.rng.choice(some).items()}
    v.change(f"{', '.join(more)} added", lambda tensors: tensors.update(more), *more)


@change("extra", times=2)
def joined(v):
    """As in some files: queries, keys and values in one matrix, or gate and up."""
    block = f"blk.{v.layer()}."
    inputs, mlp = ["attn_q", "attn_k", "attn_v"], ["ffn_gate", "ffn_up"]
    of, name = v.rng.choice([(inputs, "attn_qkv"), (mlp, "ffn_gate_up"), (mlp, "ffn_up")])

    def join(tensors):
        parts = [tensors.pop(f"{block}{part}.weight") for part in of]
        tensors[f"{block}{name}.weight"] = numpy.concatenate(parts)

    v.change(f"{', '.join(of)} joined in {block}{name}", join, *(f"{block}{part}" for part in [*of, name]))


@change("missing", times=3)
def tensor_missing(v):
    names = ["attn_norm", "ffn_up", "ffn_gate", "attn_k", "attn_output", "ffn_norm"]
    names += ["attn_q_norm"] if v.architecture == "qwen3" else []
    name = v.rng.choice([f"blk.{v.layer()}.{name}.weight" for name in names] + ["output_norm.weight"])
    v.change(f"{name} removed", lambda tensors: tensors.pop(name), name)


@change("missing")
def wrong_shape(v):
    name = f"blk.{v.layer()}.{v.rng.choice(['ffn_down', 'ffn_up', 'attn_v'])}.weight"

    def turn(tensors):
        tensors[name] = numpy.ascontiguousarray(tensors[name].T)

    v.change(f"{name} transposed", turn, name)


# Tokenizers.


@change("pre", plain=True, times=3)
def kind_of_tokenizer(v):
    v.has(pre=v.rng.choice(["smollm", "llama-bpe", "qwen2", "gpt-2", "default"]))


@change("bos", plain=True, times=3)
def first_tokens(v):
    v.has(bos=v.rng.choice(["<s>", "<|endoftext|>"]), first=v.rng.choice([True, False, ABSENT]))


@change("bos")
def no_first_token(v):
    v.has(bos=ABSENT, first=v.rng.choice([True, False, ABSENT]))
    v.names.add("bos")


@change("eos", plain=True, times=3)
def last_tokens(v):
    some = {"eos": "<|endoftext|>", "eot": "<|im_end|>"}, {"eos": "</s>"}, {"eos": "<|im_end|>", "eot": "</s>", "eom": "<s>"}
    some += {"eos": "<|im_end|>", "eot": "<|im_end|>"}, {"eos": "<|im_end|>", "eot": "</s>", "eom": "<|im_end|>"}
    v.has(ends=v.rng.choice(some), last=v.rng.choice([True, False, ABSENT]))


@change("eos")
def no_last_token(v):
    v.has(ends=v.rng.choice([{}, {"eot": "<|im_end|>"}]))
    v.names |= {"eos", "eot"}


@change("chat", plain=True, times=4)
def chat(v):
    v.has(chat=v.rng.choice(sorted(CHATS)))


@change("ids", plain=True)
def other_special_tokens(v):
    tokens = tokens_of(v)
    for name, token in v.rng.sample([("padding", "</s>"), ("unknown", "<s>"), ("seperator", "</s>"), ("fim_pre", "<s>")], 2):
        v.entry(f"tokenizer.ggml.{name}_token_id", tokens.index(token), Kind.UINT32)


@change("ids")
def special_tokens_that_are_none(v):
    v.entry(f"tokenizer.ggml.{v.rng.choice(['eos', 'bos', 'eot'])}_token_id", v.rng.choice([9999, 2**32 - 1]), Kind.UINT32)
    v.names |= {"eos", "bos", "eot"}


# Which changes to make.


def plans(architecture, seed, count):
    """The changes of each variant: none, then half of them plain ones, then odd ones, alone or with plain ones."""
    rng = random.Random(f"{seed} {architecture}")
    ours = [one for one in CHANGES if architecture in one[3]]
    plain, odd = bag(rng, [one for one in ours if one[2]]), bag(rng, [one for one in ours if not one[2]])
    for number in range(count):
        if number == 0:
            draws = []
        elif number <= count // 2:
            draws = [next(plain) for _ in range(rng.choice([1, 2, 3, 4]))]
        else:
            draws = [next(odd)]
            if rng.random() < 0.3:
                draws.insert(0, next(plain))
        groups = set()
        yield number, [one for one in draws if not (one[1] in groups or groups.add(one[1]))]


def variant(architecture, seed, number, changes):
    v = Variant(architecture, random.Random(f"{seed} {architecture} {number}"))
    for function, _, plain, _, _ in changes:
        names = set(v.names)
        function(v)
        # What is plain is no reason to refuse.
        v.names = names if plain else v.names
        v.plain &= plain
    return v


# Making.


def tokens_of(v):
    return merged(v)[0]


def merged(v):
    if v.pre not in MERGED:
        MERGED[v.pre] = vocabulary(v.pre)
    return MERGED[v.pre]


def interleaved(name, tensor, v, back=False):
    """The rows of queries and keys, as the converter of llama.cpp orders them, or back."""
    heads = {"attn_q": v.heads, "attn_k": v.kv_heads}.get(name.split(".")[-2:][0])
    if v.architecture != "llama" or heads is None or not name.endswith((".weight", ".bias")):
        return tensor
    shape = (heads, -1, 2) if back else (heads, 2, -1)
    return tensor.reshape(*shape, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def drawn(v):
    """The tensors of a variant, in the order of rows that directories have."""
    queries, keys = v.heads * v.head_dim, v.kv_heads * v.head_dim
    tensors = {"token_embd.weight": v.random(len(tokens_of(v)), v.hidden), "output_norm.weight": 1 + v.random(v.hidden)}
    if not v.tied:
        tensors["output.weight"] = v.random(len(tokens_of(v)), v.hidden)
    shapes = dict(attn_q=(queries, v.hidden), attn_k=(keys, v.hidden), attn_v=(keys, v.hidden))
    shapes |= dict(attn_output=(v.hidden, queries))
    shapes |= dict(ffn_gate=(v.inner, v.hidden), ffn_up=(v.inner, v.hidden), ffn_down=(v.hidden, v.inner))
    norms = dict(attn_norm=v.hidden, ffn_norm=v.hidden)
    norms |= dict(attn_q_norm=v.head_dim, attn_k_norm=v.head_dim) if v.architecture == "qwen3" else {}
    for layer in range(v.layers):
        for name, shape in shapes.items():
            # The attention has to look somewhere, or positions and windows do not count.
            scale = (2.0 if name in ("attn_q", "attn_k") else 1.0) / math.sqrt(shape[1])
            tensors[f"blk.{layer}.{name}.weight"] = v.random(*shape, scale=scale)
            if name in v.biases:
                tensors[f"blk.{layer}.{name}.bias"] = v.random(shape[0], scale=0.3)
        for name, length in norms.items():
            tensors[f"blk.{layer}.{name}.weight"] = 1 + v.random(length)
    for function in v.more:
        function(tensors)
    return {name: tensor.astype(numpy.float32) for name, tensor in tensors.items()}


def quantized(matrix, kind):
    """A matrix in a type, by ggml, and its numbers."""
    if kind is Type.F32:
        return matrix, matrix
    if kind in (Type.F16, Type.BF16):
        stored = gguf.quants.quantize(matrix, kind)
        return stored, gguf.quants.dequantize(stored, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = matrix.shape
    stored = numpy.empty((rows, columns // block * size), numpy.uint8)
    numbers = numpy.ascontiguousarray(matrix)
    c_int64 = ctypes.c_int64
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (numbers, stored)]
    library().ggml_quantize_chunk(int(kind), *pointers, c_int64(0), c_int64(rows), c_int64(columns), None)
    return stored, gguf.quants.dequantize(stored, kind)


def make(v, folder):
    """Writes the file of a variant, or its parts, and its twin in f32. Gives the numbers that directories have."""
    tensors, kinds, numbers = drawn(v), {}, {}
    whole, twin = [], []
    for name, tensor in tensors.items():
        columns = tensor.shape[1] if tensor.ndim == 2 else 0
        chosen = [choose(name, columns) for choose, of_vectors in v.types if columns or of_vectors]
        kind = next((kind for kind in chosen if kind is not None), Type.F32)
        if columns % gguf.GGML_QUANT_SIZES[kind][0] != 0:
            kind = Type.F16
        kinds[name] = kind
        stored, exact = quantized(numpy.ascontiguousarray(interleaved(name, tensor, v)), kind)
        whole.append((name, stored, kind))
        twin.append((name, exact, Type.F32))
        numbers[name] = exact
    order = list(range(len(whole)))
    v.rng.shuffle(order)
    whole = [whole[i] for i in order]
    if v.parts == 1:
        paths = [folder / "model.gguf"]
        write(v, paths[0], whole)
    else:
        paths = [folder / f"model-{i + 1:05}-of-{v.parts:05}.gguf" for i in range(v.parts)]
        for i, path in enumerate(paths):
            write(v, path, whole[i :: v.parts], (i, v.parts, len(whole)))
    rounded = any(kind is not Type.F32 for kind in kinds.values())
    if rounded:
        write(v, folder / "twin.gguf", twin)
    return paths, folder / "twin.gguf" if rounded else paths[0], numbers


def entries_of(v):
    """The entries of a variant as name: (value, kind)."""
    a, tokens = v.architecture, tokens_of(v)
    types = {token: gguf.TokenType.CONTROL for token in ("<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")}
    types |= dict.fromkeys(USER_DEFINED, gguf.TokenType.USER_DEFINED)
    entries = {
        "general.architecture": (a, Kind.STRING),
        f"{a}.block_count": (v.layers, Kind.UINT32),
        f"{a}.context_length": (512, Kind.UINT32),
        f"{a}.embedding_length": (v.hidden, Kind.UINT32),
        f"{a}.feed_forward_length": (v.inner, Kind.UINT32),
        f"{a}.attention.head_count": (v.heads, Kind.UINT32),
        f"{a}.attention.head_count_kv": (v.kv_heads, Kind.UINT32),
        f"{a}.attention.layer_norm_rms_epsilon": (1e-5, Kind.FLOAT32),
        f"{a}.rope.freq_base": (100000.0, Kind.FLOAT32),
        f"{a}.rope.dimension_count": (v.head_dim, Kind.UINT32),
        "tokenizer.ggml.model": ("gpt2", Kind.STRING),
        "tokenizer.ggml.pre": (v.pre, Kind.STRING),
        "tokenizer.ggml.tokens": (tokens, "list"),
        "tokenizer.ggml.token_type": ([int(types.get(token, gguf.TokenType.NORMAL)) for token in tokens], "list"),
        "tokenizer.ggml.merges": (merged(v)[1], "list"),
    }
    if v.head_dim * v.heads != v.hidden or v.rng.random() < 0.3:
        entries[f"{a}.attention.key_length"] = entries[f"{a}.attention.value_length"] = (v.head_dim, Kind.UINT32)
    for name, token in ({"bos": v.bos} | v.ends).items():
        if token is not ABSENT:
            entries[f"tokenizer.ggml.{name}_token_id"] = (tokens.index(token), Kind.UINT32)
    for name, flag in [("bos", v.first), ("eos", v.last)]:
        if flag is not ABSENT:
            entries[f"tokenizer.ggml.add_{name}_token"] = (flag, Kind.BOOL)
    if v.chat is not ABSENT:
        entries["tokenizer.chat_template"] = (CHATS[v.chat], Kind.STRING)
    entries |= v.entries
    return {name: entry for name, entry in entries.items() if entry[0] is not ABSENT}


def write(v, path, tensors, split=None):
    out = gguf.GGUFWriter(str(path), v.architecture)
    out.kv_data[0].pop("general.architecture")
    if split is None or split[0] == 0:
        if v.alignment:
            out.add_custom_alignment(v.alignment)
        for name, (value, kind) in v.all_entries.items():
            if kind == "list":
                out.add_array(name, value)
            else:
                out.add_key_value(name, value, kind)
    if split is not None:
        for i, (name, kind) in enumerate([("no", Kind.UINT16), ("count", Kind.UINT16), ("tensors.count", Kind.INT32)]):
            out.add_key_value(f"split.{name}", split[i], kind)
    for name, stored, kind in tensors:
        out.add_tensor(name, stored, raw_dtype=None if kind is Type.F32 else kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


# llama.cpp, by the functions that xllamacpp exports.


class Structure(ctypes.Structure):
    """Parameters of llama.cpp, whatever they are: it reads those that it knows from the start."""

    _fields_ = [("bytes", ctypes.c_ubyte * 1024)]

    def set(self, **places):
        """Values at places, each as (place, what must be there, value)."""
        for name, (place, before, value) in places.items():
            number = ctypes.c_int32.from_buffer(self.bytes, place)
            assert number.value == before, f"this xllamacpp has no `{name}` at {place}: {number.value}"
            number.value = value


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32)] + [
        (name, ctypes.POINTER(kind))
        for name, kind in [
            ("token", ctypes.c_int32),
            ("embd", ctypes.c_float),
            ("pos", ctypes.c_int32),
            ("n_seq_id", ctypes.c_int32),
            ("seq_id", ctypes.POINTER(ctypes.c_int32)),
            ("logits", ctypes.c_int8),
        ]
    ]


LIBRARY = []


def library():
    if not LIBRARY:
        found = ctypes.CDLL(str(next(Path(xllamacpp.__path__[0]).glob("xllamacpp*.so"))))
        p = ctypes.c_void_p
        for name, result, arguments in [
            ("llama_model_default_params", Structure, []),
            ("llama_context_default_params", Structure, []),
            ("llama_model_load_from_file", p, [ctypes.c_char_p, Structure]),
            ("llama_init_from_model", p, [p, Structure]),
            ("llama_model_get_vocab", p, [p]),
            ("llama_vocab_n_tokens", ctypes.c_int32, [p]),
            ("llama_vocab_is_eog", ctypes.c_bool, [p, ctypes.c_int32]),
            ("llama_tokenize", ctypes.c_int32, [p, ctypes.c_char_p, ctypes.c_int32, p, ctypes.c_int32] + 2 * [ctypes.c_bool]),
            ("llama_get_memory", p, [p]),
            ("llama_memory_clear", None, [p, ctypes.c_bool]),
            ("llama_batch_init", Batch, [ctypes.c_int32] * 3),
            ("llama_decode", ctypes.c_int32, [p, Batch]),
            ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [p]),
            ("ggml_quantize_chunk", ctypes.c_size_t, None),
        ]:
            function = getattr(found, name)
            function.restype = result
            if arguments is not None:
                function.argtypes = arguments
        LIBRARY.append(found)
    return LIBRARY[0]


def scored(said, path, texts, chat, context, last):
    """What llama.cpp makes of a file: tokens of texts, the tokens of a chat, those that end an answer, and a perplexity."""
    so, errors = library(), []

    @ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    def log(level, text, _):
        if level >= 4 and text.strip():
            errors.append(text.decode(errors="replace").strip())

    @ctypes.CFUNCTYPE(None, ctypes.c_char_p)
    def aborts(text):
        said(f"llama.cpp aborts: {text.decode(errors='replace').strip()}")

    so.llama_log_set(log, None)
    so.ggml_set_abort_callback(aborts)
    so.llama_backend_init()
    model = so.llama_model_load_from_file(str(path).encode(), so.llama_model_default_params())
    if not model:
        return {"why": " | ".join(errors[:2])[:300]}
    vocabulary = so.llama_model_get_vocab(model)
    size = so.llama_vocab_n_tokens(vocabulary)

    def tokens(text, add_special):
        text, room = text.encode(), (ctypes.c_int32 * 8192)()
        count = so.llama_tokenize(vocabulary, text, len(text), room, len(room), add_special, True)
        assert count >= 0
        return list(room[:count])

    answer = {
        "texts": [tokens(text, True) for text in texts],
        "chat": tokens(chat, False),
        "ends": [i for i in range(size) if so.llama_vocab_is_eog(vocabulary, i)],
        "size": size,
    }
    parameters = so.llama_context_default_params()
    # In f32, and without flash attention; threads.
    parameters.set(type_k=(104, 1, 0), type_v=(108, 1, 0), flash_attn_type=(52, -1, 0))
    parameters.set(n_threads=(28, 4, 1), n_threads_batch=(32, 4, 1))
    llama = so.llama_init_from_model(model, parameters)
    if not llama:
        return answer | {"why": " | ".join(errors[:2])[:300]}
    start = answer["texts"][0]
    # Windows have a start also where texts have none.
    start = start[: len(start) - last] or tokens(BETWEEN_TEXTS, False)
    whole = answer["texts"][1]
    own = whole[len(answer["texts"][0]) - last : len(whole) - last]
    total, count = 0.0, 0
    batch = so.llama_batch_init(WINDOW, 0, 1)
    for part in windows(start, own, min(WINDOW, context)):
        so.llama_memory_clear(so.llama_get_memory(llama), True)
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        if so.llama_decode(llama, batch) != 0:
            return answer | {"why": " | ".join(errors[:2])[:300]}
        logits = numpy.ctypeslib.as_array(so.llama_get_logits(llama), (len(part), size))[:-1].astype(numpy.float64)
        logits -= logits.max(1, keepdims=True)
        total -= (logits - numpy.log(numpy.exp(logits).sum(1, keepdims=True)))[numpy.arange(len(part) - 1), part[1:]].sum()
        count += len(part) - 1
    answer |= {"start": start, "own": own}
    perplexity = math.exp(total / count)
    return answer | ({"perplexity": perplexity} if math.isfinite(perplexity) else {"why": "the perplexity is not finite"})


def by_llama_cpp(*arguments):
    """`scored` in a process of its own: llama.cpp may end it."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def work():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.environ["GGML_NO_BACKTRACE"] = "1"
        try:
            theirs.send(scored(lambda why: theirs.send({"why": why}), *arguments))
        except Exception:
            theirs.send({"why": f"this program: {traceback.format_exc()}"})

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    theirs.close()
    try:
        answer = ours.recv() if ours.poll(120) else {"why": "no answer"}
    except EOFError:
        answer = {"why": "llama.cpp ends without a word"}
    process.join(5)
    if process.is_alive():
        process.kill()
    return answer


# transformers.


class Messages(logging.Handler):
    def __init__(self):
        super().__init__()
        self.found = []

    def emit(self, record):
        self.found.append(" ".join(record.getMessage().split())[:300])


def opened(v, folder):
    """Model, tokenizer and messages."""
    messages, logger = Messages(), logging.getLogger("transformers")
    transformers.logging.set_verbosity(logging.WARNING)
    logger.addHandler(messages)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load = transformers.AutoModelForCausalLM.from_pretrained
            model, info = load(folder, dtype=torch.float32, output_loading_info=True)
            # For models of type qwen2 AutoTokenizer takes the way of Qwen2 to cut texts, whatever the directory says.
            own = v.architecture == "qwen2" and v.pre != "qwen2"
            tokenizers = transformers.PreTrainedTokenizerFast if own else transformers.AutoTokenizer
            tokenizer = tokenizers.from_pretrained(folder)
    finally:
        logger.removeHandler(messages)
        transformers.logging.set_verbosity(logging.CRITICAL)
    said = messages.found + [str(one.message)[:300] for one in caught]
    said += [f"{name}: {sorted(map(str, info[name]))[:3]}" for name in info if info[name]]
    return model.eval(), tokenizer, said


def perplexity_of(model, start, tokens):
    total, count = 0.0, 0
    with torch.no_grad():
        for part in windows(start, tokens, min(WINDOW, model.config.max_position_embeddings)):
            ids = torch.tensor([part])
            logits = model(input_ids=ids).logits[0, :-1].double()
            total -= torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None]).sum().item()
            count += len(part) - 1
    return math.exp(total / count)


def differs(found, expected, tolerance=TOLERANCE):
    return found is None or abs(found / expected - 1) > tolerance


def saved(v, betaedit, path, out, folder, numbers, llama, perplexity, texts):
    """Edits and undoes. What is wrong with the directories that this writes, or the exit code and message of a refusal."""
    stats, session, edited, unedited = (folder / name for name in ("stats", "session", "edited", "unedited"))
    facts = out / "facts.json"
    settings = "--layers 0 --lambda1 0.01 --threshold 5 --contexts 0 --steps 3 --eval-limit 0 --show 0 --threads 1".split()
    for arguments in [
        ["stats", "--model", path, "--layers", 0, "--tokens", 300, "--threads", 1, "--out", stats],
        ["edit", "--model", path, "--facts", facts, "--stats", stats, *settings, "--session", session, "--out", edited],
        ["undo", "--session", session, 0, "--threads", 1, "--out", unedited],
    ]:
        answer = run(betaedit, *arguments)
        if answer.returncode != 0:
            return [], (answer.returncode, f"betaedit {arguments[0]}: {answer.stderr.strip() or answer.stdout.strip()}")
    try:
        wrong = [*wrong_unedited(v, unedited, numbers, llama, perplexity, texts)]
        return [*wrong, *wrong_edited(v, betaedit, edited, unedited, out, llama)], None
    except Exception:
        return [f"transformers: {traceback.format_exc(limit=-2)}"], None


def wrong_unedited(v, folder, numbers, llama, perplexity, texts):
    model, tokenizer, said = opened(v, folder)
    yield from (f"a warning: {one}" for one in said)
    found = perplexity_of(model, llama["start"], llama["own"])
    if differs(found, perplexity):
        yield f"perplexity {found} of the directory, {perplexity} of the file"

    there = load_file(folder / "model.safetensors")
    for name, tensor in numbers.items():
        if name == "rope_freqs.weight":
            # In config.json, as the divisors of longrope.
            continue
        expected, parts = interleaved(name, tensor, v, back=True), name.split(".")
        stem = NAMES.get(parts[-2])
        full = f"model.layers.{parts[1]}.{stem}.{parts[-1]}" if parts[0] == "blk" else f"{stem}.{parts[-1]}"
        if full == "lm_head.weight" and full not in there and numpy.array_equal(tensor, numbers["token_embd.weight"]):
            continue
        if full not in there:
            yield f"{name} is not in the directory"
            continue
        found = there.pop(full).numpy()
        largest = UNDONE if name == "blk.0.ffn_down.weight" else 0
        if found.shape != expected.shape or numpy.abs(found - expected).max() > largest:
            yield f"{name} differs by {numpy.abs(found - expected).max() if found.shape == expected.shape else found.shape}"
    # The family's files have biases that the file need not have.
    more = [name for name, tensor in there.items() if not name.endswith(".bias") or tensor.any()]
    yield from (f"{name} is not in the file" for name in more)

    found = [list(tokenizer(text)["input_ids"]) for text in texts]
    wrong = [one for one in zip(texts, llama["texts"], found, strict=True) if one[1] != one[2]]
    for text, want, have in wrong[:1]:
        same = next((i for i, (a, b) in enumerate(zip(want, have)) if a != b), min(len(want), len(have)))
        want, have = want[same:][:9], have[same:][:9]
        yield f"tokens of {len(wrong)} texts, {text[:40]!r} from token {same}: llama.cpp {want}, transformers {have}"
    yield from wrong_special(v, folder, model, tokenizer, llama)


def listed(ids):
    return [] if ids is None else sorted(ids) if isinstance(ids, list) else [ids]


def wrong_special(v, folder, model, tokenizer, llama):
    entries, tokens = v.all_entries, tokens_of(v)
    ids = {name: entries.get(f"tokenizer.ggml.{name}_token_id", (None,))[0] for name in ("bos", "eos", "eot", "eom")}
    ids = {name: i for name, i in ids.items() if i is not None and i < len(tokens)}
    named = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if name in ids))
    # Those that llama.cpp ends at: it knows some by their text. Without an entry it takes token 11, whatever that is.
    ends = [i for i in llama["ends"] if i in named or i != 11]
    written = json.loads((folder / "generation_config.json").read_text())
    for what, have, want in [
        ("generation_config.json: eos_token_id", listed(written.get("eos_token_id")), sorted(ends)),
        ("generation_config: eos_token_id", listed(model.generation_config.eos_token_id), sorted(ends)),
        ("config: eos_token_id", listed(model.config.eos_token_id), sorted(ends)),
        ("generation_config: bos_token_id", model.generation_config.bos_token_id, ids.get("bos")),
        ("config: bos_token_id", model.config.bos_token_id, ids.get("bos")),
        # If the file has none, the class of a tokenizer may.
        ("tokenizer: bos_token_id", tokenizer.bos_token_id, ids.get("bos", tokenizer.bos_token_id)),
        ("tokenizer: eos_token_id", tokenizer.eos_token_id, named[0] if named else tokenizer.eos_token_id),
        ("tokenizer: size", len(tokenizer), len(tokens)),
        ("tokenizer: chat_template", tokenizer.chat_template, entries.get("tokenizer.chat_template", (None,))[0]),
    ]:
        if have != want:
            yield f"{what} {have!r}, in the file {want!r}"
    if tokenizer.chat_template is not None and v.chat is not ABSENT:
        have, want = tokenizer.apply_chat_template(MESSAGES, tokenize=False), chat_of(v)
        if have != want:
            yield f"a chat: {have!r}, and not {want!r}"
        have = tokenizer.apply_chat_template(MESSAGES, tokenize=True)
        have = list(have if isinstance(have, list) else have["input_ids"])
        if have != llama["chat"]:
            yield f"tokens of a chat: llama.cpp {llama['chat']}, transformers {have}"


def chat_of(v):
    """The chat, by the template of the file."""
    if v.chat is ABSENT:
        return ""
    tokens = {"bos_token": "" if v.bos is ABSENT else v.bos, "eos_token": v.ends.get("eos", "")}
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHATS[v.chat])
    return template.render(messages=MESSAGES, **tokens)


def wrong_edited(v, betaedit, folder, unedited, out, llama):
    model, _, said = opened(v, folder)
    yield from (f"a warning about the edited directory: {one}" for one in said)
    expected = perplexity_of(model, llama["start"], llama["own"])
    found, code, message = measured(betaedit, folder, out)
    if code != 0 or differs(found, expected):
        yield f"the edited directory: transformers {expected}, betaedit {found}, exit {code} {message[-200:]}"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        if (folder / name).read_bytes() != (unedited / name).read_bytes():
            yield f"{name} of the edited directory differs from that of the unedited"
    before, after = (load_file(one / "model.safetensors") for one in (unedited, folder))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    if changed != ["model.layers.0.mlp.down_proj.weight"]:
        yield f"the edit changed {changed}"


# Judging.


def examined(v, betaedit, out, folder):
    """A record of one variant."""
    v.all_entries = entries_of(v)
    paths, twin, numbers = make(v, folder)
    texts = ["", TEXT, *TEXTS]
    last = 1 if v.last is True and v.ends.get("eos") else 0
    context = v.all_entries.get(f"{v.architecture}.context_length", (512,))[0]
    context = context if isinstance(context, int) else 512
    ask = (texts, chat_of(v), context, last)
    llama = by_llama_cpp(paths[0], *ask)
    exact = by_llama_cpp(twin, *ask) if twin != paths[0] else llama
    given = v.rng.choice(paths)
    found, code, message = measured(betaedit, given, out)
    record = dict(changes=v.said, expected=exact.get("perplexity"), rough=llama.get("perplexity"), found=found, code=code)
    record |= dict(message=message.replace(str(folder), "MODEL"), llama=exact.get("why") or llama.get("why", ""), wrong=[])
    record |= dict(names=sorted(v.names), ends=sorted(set(llama.get("ends", []))), given=str(given))

    def verdict(code, message, refused):
        if code != 1:
            return "CRASH"
        message = message.replace(str(folder), "MODEL")
        return "PLAIN" if v.plain else refused if any(name in message for name in v.names) else "UNNAMED"

    if code not in (0, 1) or (code == 0 and not isinstance(found, float)):
        return record | dict(verdict="CRASH")
    if record["expected"] is None or record["rough"] is None:
        return record | dict(verdict="apart")
    if code == 1:
        return record | dict(verdict=verdict(code, message, "refused"))
    if differs(found, exact["perplexity"]) or differs(found, llama["perplexity"], ROUGHLY):
        return record | dict(verdict="SILENT")
    wrong, refusal = saved(v, betaedit, given, out, folder, numbers, llama, found, texts)
    if refusal is not None:
        record |= dict(code=refusal[0], message=refusal[1].replace(str(folder), "MODEL"))
        return record | dict(verdict=verdict(*refusal, "unsaved"))
    return record | dict(verdict="SAVED" if wrong else "equal", wrong=wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("betaedit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, help="by default a new one, which is printed")
    parser.add_argument("--variants", type=int, default=40, help="variants of each architecture")
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--keep", action="store_true", help="keep all models, not only those that failed")
    parser.add_argument("--json", type=Path, help="write every verdict to this file")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()

    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "facts.json").write_text(json.dumps(FACTS))
    (out / "text.txt").write_text(TEXT)
    shown = f"transformers {transformers.__version__}, xllamacpp {xllamacpp.__version__}"
    print(f"seed {seed}, {options.variants} variants of {', '.join(options.architecture)}; {shown}", flush=True)

    records, began = [], time.time()
    for architecture in options.architecture:
        for number, changes in plans(architecture, seed, options.variants):
            v = variant(architecture, seed, number, changes)
            folder = out / architecture / f"{number:03}"
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            record = examined(v, options.betaedit, out, folder)
            record |= dict(architecture=architecture, number=number, folder=str(folder))
            records.append(record)
            if not (options.keep or record["verdict"].isupper()):
                shutil.rmtree(folder)
    report(records, options, seed, time.time() - began)


def report(records, options, seed, seconds):
    failures = [record for record in records if record["verdict"].isupper()]
    for record in failures:
        print(f"\n{record['verdict']} {record['given']}: {'; '.join(record['changes'])}")
        print(f"    llama.cpp {record['expected']} in f32, and {record['rough']} with the types of the file")
        print(f"    betaedit {record['found']}, exit {record['code']}")
        for line in [*record["message"].splitlines()[:4], *record["wrong"][:8]]:
            print(f"    | {line}")
    if options.json:
        options.json.write_text(json.dumps(records, indent=1))

    kinds = ["equal", "refused", "unsaved", "apart, refused", "apart, run", "SILENT", "SAVED", "UNNAMED", "PLAIN", "CRASH"]
    conclude(records, "architecture", options.architecture, kinds, seed, seconds)


if __name__ == "__main__":
    main()
