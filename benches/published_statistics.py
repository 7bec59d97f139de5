"""Second moments of the keys as the published programs collect them (MEMIT, `rome/layer_stats.py`), in torch: hooks on the edited modules,
a forward that ends at the highest of them, and a sum of `x xᵀ` for each layer.

    python benches/published_statistics.py MODEL_DIR TEXT [--layers 5-10] [--tokens 6000] [--window 256] [--batch 4]

MODEL_DIR is a directory that transformers reads, TEXT a file. Prints the tokens a second, and the traces. The partner is
`betaedit stats --model MODEL_DIR --text TEXT --layers 5-10 --tokens 6000 --chats 0 --gradients 0 --no-spectra`, which reads windows of
the same length and prints both too.
"""

import argparse
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Reached(Exception):
    """The highest layer has been reached."""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--layers", default="5-10")
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    first, last = (int(one) for one in given.layers.split("-"))
    with open(given.text, encoding="utf-8") as file:
        ids = tokenizer(file.read(), add_special_tokens=False)["input_ids"]
    # Every window stands behind the token between texts, as the command has it.
    start, length = tokenizer.convert_tokens_to_ids("<|endoftext|>"), given.window - 1
    windows = [[start] + ids[at : at + length] for at in range(0, given.tokens, length)]
    windows = [window for window in windows if len(window) == given.window]
    sums = {}

    def hook(layer):
        def add(_module, args):
            x = args[0].flatten(0, 1)
            sums[layer] = sums[layer].addmm_(x.T, x) if layer in sums else x.T @ x
            if layer == last:
                raise Reached

        return add

    for layer in range(first, last + 1):
        model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(hook(layer))
    started = time.perf_counter()
    with torch.no_grad():
        for at in range(0, len(windows), given.batch):
            try:
                model(torch.tensor(windows[at : at + given.batch]), use_cache=False)
            except Reached:
                pass
    seconds = time.perf_counter() - started
    tokens = sum(map(len, windows))
    print(f"{tokens} tokens, {tokens / seconds:.0f} per second; traces", *(f"{sums[layer].trace() / tokens:.4f}" for layer in sorted(sums)))


main()
