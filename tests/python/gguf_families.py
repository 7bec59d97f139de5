"""GGUF files of every architecture that the crate reads: llama.cpp must give the logits that transformers gives.

    gguf_families.py OUT_DIR

Converts the tiny models of tests/data as llama.cpp's converter converts models of their families, into OUT_DIR/NAME.gguf, runs
them in llama.cpp on the recorded prompts, and compares with the recorded logits. `tests/llm_gguf.rs` writes files by the same
rules, and holds the crate to the same logits. So a rule that llama.cpp does not share is found here.

Needs gguf, numpy, torch, safetensors and xllamacpp.
"""

import ctypes
import json
import math
import sys
from pathlib import Path

import gguf
import numpy
from gguf_models import library
from safetensors.torch import load_file

MODELS = Path(__file__).parent.parent / "data" / "tiny-models"
FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2", "phi3": "phi3", "gemma2": "gemma2"}
FAMILIES |= {"gemma3": "gemma3", "olmo2": "olmo2", "gpt_neox": "gptneox", "stablelm": "stablelm"}
FAMILIES |= {"gemma": "gemma", "phi": "phi2", "falcon": "falcon", "starcoder2": "starcoder2"}
TOLERANCE = 1e-4
SILU = ("llama", "qwen2", "qwen3", "phi3", "olmo2", "stablelm")
# llama.cpp looks GELU up in a table of f16.
BY_TABLE = 3e-3
# llama.cpp passes the windows of some families over: the first tokens have none.
WITHOUT_WINDOW, WINDOW = ("phi3", "starcoder2"), 6
LAYER_NORMS = ("gpt2", "gpt_neox", "stablelm", "phi", "falcon", "starcoder2")

# Ends of names in directories and in GGUF files.
LLAMA = {
    "model.embed_tokens": "token_embd",
    "lm_head": "output",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
AFTER = {"post_attention_layernorm": "ffn_norm"}
BEHIND = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "transformer.h": "blk",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
GPT_NEOX = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "gpt_neox.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
FALCON = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "transformer.h": "blk",
    "input_layernorm": "attn_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
PHI = {"model.final_layernorm": "output_norm", "self_attn.dense": "attn_output", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"}
STARCODER2 = {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
NAMES = {"gpt2": GPT2, "gpt_neox": GPT_NEOX, "falcon": FALCON, "phi": LLAMA | PHI, "starcoder2": LLAMA | AFTER | STARCODER2}
NAMES |= {family: LLAMA | BEHIND for family in ("gemma2", "gemma3", "olmo2")}


def converted(family, config):
    """The tensors of a model, as llama.cpp's converter names and stores them."""
    heads = config.get("num_attention_heads", config.get("n_head"))
    for name, tensor in load_file(MODELS / family / "model.safetensors").items():
        tensor = tensor.float().numpy()
        stem, kind = name.rsplit(".", 1)
        for old, new in NAMES.get(family, LLAMA | AFTER).items():
            stem = stem.replace(old, new)
        if family == "gpt2" and stem.startswith("blk") and tensor.ndim == 2:
            tensor = tensor.T
        if family == "llama" and stem.endswith(("attn_q", "attn_k")):
            own = heads if stem.endswith("attn_q") else config["num_key_value_heads"]
            tensor = tensor.reshape(own, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        if family == "gpt_neox" and stem.endswith("attn_qkv"):
            tensor = tensor.reshape(heads, 3, -1, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)
        if family.startswith("gemma") and stem.endswith("norm"):
            tensor = tensor + 1
        # llama.cpp scales by the length of a head, whatever the model does: the rest goes into the queries.
        if stem.endswith({"gemma2": "attn_q", "gemma3": "attn_q_norm"}.get(family, "no tensor")):
            tensor = tensor * math.sqrt(config["head_dim"] / config["query_pre_attn_scalar"])
        if stem == "token_embd" and family in ("olmo2", "stablelm"):
            # llama.cpp asks for a head of its own.
            yield "output.weight", numpy.ascontiguousarray(tensor, dtype=numpy.float32)
        yield f"{stem}.{kind}", numpy.ascontiguousarray(tensor, dtype=numpy.float32)
    if family == "phi3":
        rope = config["rope_parameters"]
        yield "rope_factors_short.weight", numpy.array(rope["short_factor"], dtype=numpy.float32)
        yield "rope_factors_long.weight", numpy.array(rope["long_factor"], dtype=numpy.float32)


def entries(family, architecture, config, put):
    """The metadata, as llama.cpp's converter writes it."""
    get = lambda *names: next((config[name] for name in names if config.get(name) is not None), None)
    heads, hidden = get("num_attention_heads", "n_head"), get("hidden_size", "n_embd")
    head_dim = get("head_dim") or hidden // heads
    rope = get("rope_parameters") or {}
    put.add_context_length(get("max_position_embeddings", "n_positions"))
    put.add_embedding_length(hidden)
    put.add_block_count(get("num_hidden_layers", "n_layer"))
    put.add_feed_forward_length(get("intermediate_size", "n_inner", "ffn_hidden_size") or 4 * hidden)
    put.add_head_count(heads)
    put.add_head_count_kv(1 if family == "falcon" else get("num_key_value_heads") or heads)
    layer_norms = family in LAYER_NORMS
    if layer_norms:
        put.add_layer_norm_eps(get("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"))
    else:
        put.add_layer_norm_rms_eps(get("rms_norm_eps"))
    if family in ("qwen3", "gemma", "gemma2", "gemma3"):
        put.add_key_length(head_dim)
        put.add_value_length(head_dim)
    full = rope.get("full_attention", rope)
    if family not in ("gpt2", "gpt_neox", "stablelm", "phi") and "rope_theta" in full:
        put.add_rope_freq_base(full["rope_theta"])
    if "partial_rotary_factor" in rope:
        put.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    if family in ("gpt_neox", "stablelm"):
        put.add_parallel_residual(get("use_parallel_residual") or False)
    if family in ("phi3", "gemma2", "gemma3"):
        put.add_sliding_window(config["sliding_window"])
    if family == "gemma2":
        put.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        put.add_final_logit_softcapping(config["final_logit_softcapping"])
    if family == "gemma3":
        put.add_sliding_window_pattern(2)
        put.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        put.add_rope_scaling_factor(full["factor"])
    if family == "phi3":
        original = rope["original_max_position_embeddings"]
        grown = config["max_position_embeddings"] / original
        put.add_rope_scaling_orig_ctx_len(original)
        put.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(grown) / math.log(original)))


def write(family, architecture, path):
    config = json.loads((MODELS / family / "config.json").read_text())
    put = gguf.GGUFWriter(path, architecture)
    entries(family, architecture, config, put)
    tokenizer = json.loads((MODELS / "tokenizer.json").read_text())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    put.add_tokenizer_model("gpt2")
    put.add_tokenizer_pre("gpt-2")
    put.add_token_list(tokens)
    put.add_token_types([3] + [1] * (len(tokens) - 1))
    put.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["merges"]])
    put.add_eos_token_id(0)
    for name, tensor in converted(family, config):
        put.add_tensor(name, tensor)
    put.write_header_to_file()
    put.write_kv_data_to_file()
    put.write_tensors_to_file()
    put.close()


def logits_of(path, ids):
    """What llama.cpp gives for some tokens, a row each."""
    so = library()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    said = []
    log = silent(lambda level, text, _: said.append(text.decode(errors="replace")) if level >= 4 else None)
    so.llama_log_set(log, None)
    so.llama_backend_init()
    model = so.llama_model_load_from_file(str(path).encode(), so.llama_model_default_params())
    assert model, "".join(said)
    size = so.llama_vocab_n_tokens(so.llama_model_get_vocab(model))
    parameters = so.llama_context_default_params()
    # In f32, and without flash attention; threads; so short a context that longrope takes its short factors.
    parameters.set(type_k=(104, 1, 0), type_v=(108, 1, 0), flash_attn_type=(52, -1, 0), n_ctx=(0, 512, 128))
    llama = so.llama_init_from_model(model, parameters)
    assert llama, "".join(said)
    batch = so.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
        batch.seq_id[i][0] = 0
    assert so.llama_decode(llama, batch) == 0, "".join(said)
    return numpy.ctypeslib.as_array(so.llama_get_logits(llama), (len(ids), size)).copy()


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for family, architecture in FAMILIES.items():
        path = out / f"{family}.gguf"
        write(family, architecture, path)
        expected = load_file(MODELS / family / "expected.safetensors")
        seen = WINDOW if family in WITHOUT_WINDOW else None
        found, wanted = logits_of(path, expected["input_ids"].tolist())[:seen], expected["logits"].numpy()[:seen]
        error = numpy.abs(found - wanted).max() / numpy.abs(wanted).max()
        tolerance = TOLERANCE if family in SILU else BY_TABLE
        failed += error > tolerance
        print(f"{family:9} off by {error:.1e}{'' if error <= tolerance else '   FAILED'}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
