"""Variants of the tiny models, and what transformers computes for them.

usage: make_variants.py     writes variants.json beside this file

A variant is a family, changes of config.json (null removes an entry, "null" sets it to null) and of the tensors, and the mean negative
log-likelihood of the tokens below in f32.
"""
import json, os, shutil, tempfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "tiny-models")
TOKENS = [(37 * i * i + 11 * i + 5) % 384 for i in range(100)]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 110, "rope_theta": 10000.0,
            "short_factor": [1.0 + 0.2 * i for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
VARIANTS = [
    ("layers of two kinds", "qwen3", dict(layer_types=["sliding_attention", "full_attention"] * 2, use_sliding_window=True,
                                          sliding_window=8, max_window_layers=28), {}),
    ("layer_types against max_window_layers", "qwen2", dict(layer_types=["full_attention", "sliding_attention"] * 2,
                                                            use_sliding_window=True, sliding_window=8, max_window_layers=0), {}),
    ("a window from a layer on", "qwen2", dict(layer_types=None, use_sliding_window=True, sliding_window=8, max_window_layers=2), {}),
    ("a window in all layers", "mistral", dict(sliding_window=8), {}),
    ("no entry for a window", "mistral", dict(sliding_window=None), {}),
    ("a window that is switched off", "qwen2", dict(layer_types=None, use_sliding_window=False, sliding_window=8, max_window_layers=0), {}),
    ("old rope_scaling", "llama", dict(rope_parameters=None, rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 4.0}), {}),
    ("new rope_parameters", "llama", dict(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}), {}),
    ("llama3", "llama", dict(rope_parameters=LLAMA3), {}),
    ("llama3 without the original context", "llama", dict(rope_parameters={k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}), {}),
    ("no rotary entries", "llama", dict(rope_parameters=None), {}),
    ("biases of the attention", "llama", dict(attention_bias=True), dict(biases=["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"])),
    ("biases of the MLP", "llama", dict(mlp_bias=True), dict(biases=["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"])),
    ("biases of the attention, Qwen3", "qwen3", dict(attention_bias=True), dict(biases=["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"])),
    ("another activation", "llama", dict(hidden_act="gelu_pytorch_tanh"), {}),
    ("another activation, GPT-2", "gpt2", dict(activation_function="silu"), {}),
    ("another rotary_dim", "gptj", dict(rotary_dim=16), {}),
    ("tied, and stored under the head's name", "llama", {}, dict(rename={"model.embed_tokens.weight": "lm_head.weight"})),
    ("tied, and stored under the head's name, GPT-2", "gpt2", {}, dict(rename={"transformer.wte.weight": "lm_head.weight"})),
    ("tied, with another head", "llama", dict(tie_word_embeddings=True), dict(head="another")),
    ("tied, with the same head", "llama", dict(tie_word_embeddings=True), dict(head="same")),
    ("buffers of older programs", "gpt2", {}, dict(buffers=True)),
    ("yarn", "llama", dict(rope_parameters=YARN), {}),
    ("yarn, old rope_scaling", "qwen2", dict(rope_parameters=None, rope_theta=5000.0,
                                             rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}), {}),
    ("yarn without the original context", "qwen3", dict(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}), {}),
    ("yarn with all entries", "llama", dict(rope_parameters=dict(YARN, beta_fast=8.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=1.3, truncate=True)), {}),
    ("yarn with a factor of the attention", "mistral", dict(rope_parameters=dict(YARN, attention_factor=1.4)), {}),
    ("yarn without a factor", "llama", dict(rope_parameters=dict(YARN, factor="null")), {}),
    ("dynamic", "llama", dict(rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}), {}),
    ("longrope", "llama", dict(rope_parameters=LONGROPE), {}),
    ("longrope with a factor", "llama", dict(rope_parameters=dict(LONGROPE, factor=3.0)), {}),
    ("longrope with a factor of the attention", "llama", dict(rope_parameters=dict(LONGROPE, attention_factor=1.2)), {}),
    ("GELU by the error function", "llama", dict(hidden_act="gelu"), {}),
    ("longrope under its first name", "phi3", dict(rope_parameters=None, rope_theta=5000.0, partial_rotary_factor=0.75,
     rope_scaling={"type": "su", "original_max_position_embeddings": 256, "short_factor": [1.0, 1.3, 2.1], "long_factor": [1.5, 4.0, 9.0]}), {}),
    ("positions that are not scaled", "phi3", dict(rope_parameters=None, rope_scaling="null", sliding_window="null"), {}),
    ("nothing but sizes", "gemma2", dict(layer_types=None, sliding_window=None, final_logit_softcapping=None, attn_logit_softcapping=None,
     query_pre_attn_scalar=None, rope_parameters=None, rms_norm_eps=None, hidden_activation=None, tie_word_embeddings=None), {}),
    ("no bounds, and one kind of layers", "gemma2", dict(layer_types=["sliding_attention"] * 4, final_logit_softcapping="null", attn_logit_softcapping="null"), {}),
    ("old entries", "gemma3", dict(rope_parameters=None, rope_theta=50000.0, rope_local_base_freq=5000.0, layer_types=None, sliding_window_pattern=2,
     rope_scaling={"rope_type": "linear", "factor": 8.0}), {}),
    ("nothing but sizes", "gemma3", dict(layer_types=None, sliding_window=None, query_pre_attn_scalar=None, rope_parameters=None), {}),
    ("a bound on the logits", "gemma3", dict(final_logit_softcapping=5.0), {}),
    ("biases of the attention", "olmo2", dict(attention_bias=True), dict(biases=["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"])),
    ("old entries", "gpt_neox", dict(rope_parameters=None, rotary_emb_base=5000, rotary_pct=0.25), {}),
    ("one after the other", "gpt_neox", dict(use_parallel_residual=False, hidden_act="gelu_new"), {}),
    ("no biases of the attention", "gpt_neox", dict(attention_bias=False), dict(remove=["query_key_value.bias", "attention.dense.bias"])),
    ("old entries", "phi", dict(rope_parameters=None, rope_theta=5000, partial_rotary_factor=0.25), {}),
    ("nothing but sizes", "gemma", dict(rope_parameters=None, rms_norm_eps=None, hidden_act=None, tie_word_embeddings=None), {}),
    ("another activation, yarn", "falcon", dict(activation="gelu_new", rope_parameters=YARN), {}),
    ("no biases", "starcoder2", dict(use_bias=False, sliding_window="null"), dict(remove=["_proj.bias", "c_fc.bias"])),
    ("old entries", "stablelm", dict(rope_parameters=None, rope_theta=5000, partial_rotary_factor=0.5), {}),
    ("side by side", "stablelm", dict(use_parallel_residual=True, use_qkv_bias=False),
     dict(remove=["post_attention_layernorm.weight", "post_attention_layernorm.bias", "self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"])),
]

def change(folder, config, tensors):
    path = os.path.join(folder, "config.json")
    json_ = json.load(open(path))
    for name, value in config.items():
        if value is None:
            json_.pop(name, None)
        else:
            json_[name] = None if value == "null" else value
        if isinstance(value, dict):
            json_[name] = {inner: None if x == "null" else x for inner, x in value.items()}
    json.dump(json_, open(path, "w"))
    path = os.path.join(folder, "model.safetensors")
    stored = load_file(path)
    layers = json_.get("num_hidden_layers", json_.get("n_layer"))
    for projection in tensors.get("biases", []):
        for layer in range(layers):
            name = f"model.layers.{layer}.{projection}"
            n = stored[name + ".weight"].shape[0]
            stored[name + ".bias"] = (torch.arange(n) % 7 - 3) * 0.05
    for old, new in tensors.get("rename", {}).items():
        stored[new] = stored.pop(old)
    for end in tensors.get("remove", []):
        stored = {name: tensor for name, tensor in stored.items() if not name.endswith(end)}
    if "head" in tensors:
        embedding = stored["model.embed_tokens.weight"]
        stored["lm_head.weight"] = embedding.clone() if tensors["head"] == "same" else embedding.flip(0).contiguous()
    if tensors.get("buffers"):
        for layer in range(layers):
            stored[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8)
            stored[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, path, metadata={"format": "pt"})

def main():
    out = []
    for name, family, config, tensors in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            for file in ("config.json", "model.safetensors"):
                shutil.copy(os.path.join(MODELS, family, file), folder)
            change(folder, config, tensors)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                loss = model(torch.tensor([TOKENS]), labels=torch.tensor([TOKENS])).loss
        out.append(dict(name=name, family=family, config=config, tensors=tensors, nll=loss.item()))
        print(f"{loss.item():.6f}  {family:8} {name}")
    json.dump(dict(tokens=TOKENS, variants=out), open(os.path.join(HERE, "variants.json"), "w"), indent=1)

main()
