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
]

def change(folder, config, tensors):
    path = os.path.join(folder, "config.json")
    json_ = json.load(open(path))
    for name, value in config.items():
        if value is None:
            json_.pop(name, None)
        else:
            json_[name] = None if value == "null" else value
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
