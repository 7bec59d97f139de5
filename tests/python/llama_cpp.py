"""What llama.cpp makes of a model, with or without an adapter: greedy completions, and the log-probabilities of their tokens.

    llama_cpp.py MODEL.gguf [--lora ADAPTER.gguf] [--tokens 8] < PROMPTS.json > COMPLETIONS.json

PROMPTS.json is a list of texts or of lists of tokens. COMPLETIONS.json is a list of {"text", "tokens", "log_probabilities"}.
llama.cpp computes with rounded activations wherever a matrix is rounded, so its log-probabilities agree with those of exact
arithmetic roughly. Needs xllamacpp, which has llama.cpp in it.
"""

import argparse
import json
import os
import sys

import xllamacpp


def server(model, lora):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = 2048
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.warmup = False
    parameters.fit_params = False
    # Keys and values as exact as everything else.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # More threads than idle cores would wait for each other.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    if lora:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = lora, 1.0
        parameters.lora_adapters = [adapter]
    return xllamacpp.Server(parameters)


def completed(server, prompt, tokens):
    asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "n_probs": 1, "samplers": ["temperature"]}
    answer = server.handle_completions(asked | {"cache_prompt": False, "seed": 1})
    if isinstance(answer, str):
        answer = json.loads(answer)
    (choice,) = answer["choices"]
    said = choice["logprobs"]["content"]
    return {
        "text": choice["text"],
        "tokens": [token["id"] for token in said],
        "log_probabilities": [token["logprob"] for token in said],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--lora")
    parser.add_argument("--tokens", type=int, default=8)
    options = parser.parse_args()
    prompts = json.load(sys.stdin)
    # llama.cpp writes its messages where it likes.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    running = server(options.model, options.lora)
    json.dump([completed(running, prompt, options.tokens) for prompt in prompts], out)
    out.flush()
    # Its threads may wait for each other at the end.
    os._exit(0)


if __name__ == "__main__":
    main()
