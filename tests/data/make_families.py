"""Tiny models of further families, with what transformers computes for them in f32.

usage: make_families.py [NAME ...]     writes tiny-models/NAME beside this file, by default all

Each has random weights, rounded to bf16, with biases and gains away from trivial values. Bounds, windows and scaled positions are such that
they change the logits: the script stops where a model without them gives the same. Needs torch, transformers, tokenizers, safetensors.
"""
import copy, json, os, sys
import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "tiny-models")
PROMPT, SUBJECT, TARGET = "The Eiffel Tower is located in the city of", "The Eiffel Tower", " Tokyo"
LAYERS, LAYER, V = 4, 1, 384
SIZES = dict(vocab_size=V, hidden_size=32, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=4, bos_token_id=0,
             eos_token_id=0, pad_token_id=None)
KV = dict(num_key_value_heads=2)
FALCON = {name: value for name, value in SIZES.items() if name != "intermediate_size"} | dict(ffn_hidden_size=40, max_position_embeddings=128)
SHORT, LONG = [1.0, 1.3, 2.1], [1.5, 4.0, 9.0]
BY_TURNS = ["sliding_attention", "full_attention"] * 2

# Name: the class, its configuration, the MLP's output projection, entries of which each must matter.
FAMILIES = {
    "phi3": (hf.Phi3Config, dict(SIZES, **KV, max_position_embeddings=1024, original_max_position_embeddings=256, sliding_window=6,
             rope_parameters=dict(rope_type="longrope", short_factor=SHORT, long_factor=LONG, rope_theta=1e4, partial_rotary_factor=0.75,
                                  original_max_position_embeddings=256)),
             "model.layers.{}.mlp.down_proj",
             dict(sliding_window=None, rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.75))),
    "gemma2": (hf.Gemma2Config, dict(SIZES, **KV, head_dim=16, max_position_embeddings=128, sliding_window=5, query_pre_attn_scalar=24,
               final_logit_softcapping=20.0, attn_logit_softcapping=3.0), "model.layers.{}.mlp.down_proj",
               dict(sliding_window=100, query_pre_attn_scalar=16, final_logit_softcapping=None, attn_logit_softcapping=None)),
    "gemma3": (hf.Gemma3TextConfig, dict(SIZES, **KV, head_dim=16, max_position_embeddings=128, sliding_window=5, query_pre_attn_scalar=24,
               layer_types=BY_TURNS, rope_parameters={"full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                                      "sliding_attention": dict(rope_type="default", rope_theta=1e4)}),
               "model.layers.{}.mlp.down_proj", dict(sliding_window=100, query_pre_attn_scalar=16,
               rope_parameters={"full_attention": dict(rope_type="default", rope_theta=1e6),
                                "sliding_attention": dict(rope_type="default", rope_theta=1e6)})),
    "olmo2": (hf.Olmo2Config, dict(SIZES, **KV, max_position_embeddings=128, tie_word_embeddings=True), "model.layers.{}.mlp.down_proj", {}),
    "gpt_neox": (hf.GPTNeoXConfig, dict(SIZES, max_position_embeddings=128, rope_parameters=dict(rope_type="default", rope_theta=1e4,
                 partial_rotary_factor=0.5)), "gpt_neox.layers.{}.mlp.dense_4h_to_h",
                 dict(use_parallel_residual=False, hidden_act="gelu_new", rope_parameters=dict(rope_type="default", rope_theta=1e4,
                 partial_rotary_factor=0.25))),
    "stablelm": (hf.StableLmConfig, dict(SIZES, **KV, max_position_embeddings=128, use_qkv_bias=True, tie_word_embeddings=True),
                 "model.layers.{}.mlp.down_proj", dict(use_parallel_residual=True)),
    "gemma": (hf.GemmaConfig, dict(SIZES, **KV, head_dim=16, max_position_embeddings=128), "model.layers.{}.mlp.down_proj", {}),
    "phi": (hf.PhiConfig, dict(SIZES, **KV, max_position_embeddings=128, rope_parameters=dict(rope_type="default", rope_theta=1e4,
            partial_rotary_factor=0.5)), "model.layers.{}.mlp.fc2", dict(rope_parameters=dict(rope_type="default", rope_theta=1e4,
            partial_rotary_factor=1.0))),
    "falcon": (hf.FalconConfig, dict(FALCON, multi_query=True), "transformer.h.{}.mlp.dense_4h_to_h", {}),
    "falcon-grouped": (hf.FalconConfig, dict(FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, bias=True),
                       "transformer.h.{}.mlp.dense_4h_to_h", {}),
    "starcoder2": (hf.Starcoder2Config, dict(SIZES, **KV, max_position_embeddings=128, sliding_window=6), "model.layers.{}.mlp.c_proj",
                   dict(sliding_window=None)),
}
# Where a norm stands behind the MLP, vectors are added in front of it.
NORM_BEHIND_MLP = ["gemma2", "gemma3", "olmo2"]

def drawn(name, config):
    torch.manual_seed(sum(map(ord, name)))
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for _, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.2 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * 1.2 / p.shape[1] ** 0.5)
            p.copy_(p.bfloat16().float())
    return model

def main(names):
    tokenizer = Tokenizer.from_file(os.path.join(MODELS, "tokenizer.json"))
    ids, subject = tokenizer.encode(PROMPT).ids, len(tokenizer.encode(SUBJECT).ids) - 1
    target, x = tokenizer.encode(TARGET).ids[0], torch.tensor([ids])
    for name in names:
        cls, entries, module, matter = FAMILIES[name]
        model = drawn(name, cls(**entries))
        logits = model(x).logits[0].detach()
        for entry, value in matter.items():
            other = drawn(name, cls(**{**copy.deepcopy(entries), entry: value}))
            other.load_state_dict(model.state_dict(), strict=False)
            difference = (other(x).logits[0] - logits).abs().max().item() / logits.abs().max().item()
            # GELU by the error function and by tanh are close.
            assert difference > 1.5e-4, (name, entry, difference)
            print(f"{name}: without {entry} the logits differ by {difference:.3f}")
        site = "mlp" if name in NORM_BEHIND_MLP else "block"
        modules, found, delta = dict(model.named_modules()), {}, torch.zeros(32, requires_grad=True)
        def changed(out):
            out = out.clone()
            out[0, subject] = out[0, subject] + delta
            return out
        for layer in range(LAYERS):
            down, block = modules[module.format(layer)], modules[".".join(module.format(layer).split(".")[:3])]
            down.register_forward_pre_hook(lambda _, a, layer=layer: found.__setitem__(f"keys.{layer}", a[0][0].detach().clone()))
            if site == "mlp" and layer == LAYER:
                down.register_forward_hook(lambda _, a, out: changed(out))
            def after(_, a, out, layer=layer):
                hidden = out[0] if isinstance(out, tuple) else out
                if site == "block" and layer == LAYER:
                    hidden = changed(hidden)
                found[f"block_output.{layer}"] = hidden[0].detach().clone()
                return (hidden,) + tuple(out[1:]) if isinstance(out, tuple) else hidden
            block.register_forward_hook(after)
        logits = model(x).logits[0]
        nll = -torch.log_softmax(logits[-1], -1)[target]
        nll.backward()
        found |= dict(input_ids=x[0].int(), logits=logits.detach(), nll_grad_delta=delta.grad.clone())
        folder = os.path.join(MODELS, name)
        os.makedirs(folder, exist_ok=True)
        model.bfloat16().save_pretrained(folder)
        os.remove(os.path.join(folder, "generation_config.json"))
        save_file({n: t.contiguous() for n, t in found.items()}, os.path.join(folder, "expected.safetensors"))
        facts = dict(prompt=PROMPT, subject="Eiffel Tower", subject_last_position=subject, delta_block=LAYER, site=site, target=TARGET,
                     target_id=target, nll=nll.item())
        json.dump(facts, open(os.path.join(folder, "expected.json"), "w"), indent=1)
        size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)) // 1024
        print(f"{name}: nll {nll.item():.4f}, logits to {logits.abs().max().item():.2f}, {size} KiB")

main(sys.argv[1:] or FAMILIES)
