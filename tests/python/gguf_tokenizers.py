"""Tokenizers in GGUF files: the command must cut a text into the tokens that llama.cpp cuts it into, or refuse the file.

    gguf_tokenizers.py BETAEDIT OUT_DIR [--seed N] [--keep]

Writes tiny GGUF files whose tokenizers are byte-level BPE of many kinds, of a kind that nobody knows, and of none, with and
without the entries on first and last tokens, and compares `betaedit tokens` with llama.cpp's `/tokenize` on the texts of
odd_texts.py. Control tokens inside a text are tokens (`parse_special`), and first tokens are there (`add_special`). A
last token is no part of a prompt and must not be there. The kinds of the families that the command reads must not be
refused; where another file is refused, the message must name the entry that is odd.

Ends with 1 on any difference. The same seed gives the same random texts. Files that failed stay in OUT_DIR. Needs gguf,
numpy, tokenizers and xllamacpp.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import gguf
import numpy
import xllamacpp
from odd_texts import BETWEEN_TEXTS, REGEXES, TEXTS, TRAINED_ON, random_texts
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

ABSENT = None
KINDS = ["smollm", "llama-bpe", "qwen2", "gpt-2", "default"]
UNKNOWN = ["no-such-kind", ABSENT]
# Of other families, or under other names.
OTHERS = ["llama3", "llama-v3", "gpt2", "phi-2", "falcon", "falcon3", "pixtral", "tekken", "gpt-4o", "deepseek-llm", "starcoder"]
OTHERS += ["deepseek-coder", "deepseek-v3", "deepseek-r1-qwen", "command-r", "olmo", "dbrx", "refact", "stablelm2", "chatglm-bpe"]
OTHERS += ["mpt", "jais", "exaone", "bloom", "superbpe", "seed-coder", "minerva-7b", "megrez", "lfm2", "midm-2.0", "falcon-h1"]
OTHERS += ["jina-es", "jina-de", "jina-v2-es", "gigachat", "a.x-4.0", "mellum", "kormo", "qwen35", "kimi-k2", "grok-2", "llama4"]
# The entries behind a change.
ENTRIES = {"unused": "token_type", "unknown": "token_type"}
CONTROL = [BETWEEN_TEXTS, "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>", "[INST]", "    ", "首都"]
WHOLE_WORDS = ["ĠEiffel", "ĠTokyo", "Mos", "hello", "Ġlocated", "1987", "main", "Ġpass", "don"]


def vocabulary(kind):
    """Tokens and merges of a byte-level BPE that is trained in the way of a kind."""
    made = Tokenizer(models.BPE())
    by_regex = pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = {"llama-bpe": "Llama 3", "qwen2": "Qwen 2"}.get(kind)
    if split:
        cut = pre_tokenizers.Split(Regex(REGEXES[split]), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    elif kind == "smollm":
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_regex])
    else:
        made.pre_tokenizer = by_regex
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TRAINED_ON, trainers.BpeTrainer(vocab_size=600, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(made.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += [word for word in WHOLE_WORDS if word not in model["vocab"]] + USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return tokens, merges


def variants():
    """Kinds, entries on first and last tokens, and other changes."""
    for kind, add_bos, add_eos in itertools.product(KINDS, [ABSENT, True, False], [ABSENT, True]):
        yield kind, add_bos, add_eos, ""
    for kind in UNKNOWN + OTHERS:
        yield kind, ABSENT, ABSENT, ""
    for kind, add_bos in itertools.product(["llama-bpe", "gpt-2"], [ABSENT, True]):
        for change in ("bos_token_id", "token_type", "add_space_prefix", "scores", "unused", "unknown"):
            yield kind, add_bos, ABSENT, change


def write(path, architecture, kind, add_bos, add_eos, change=""):
    """A model of one block."""
    tokens, merges = vocabulary(kind)
    hidden, inner = 32, 32
    out = gguf.GGUFWriter(str(path), architecture)
    out.add_context_length(512)
    out.add_embedding_length(hidden)
    out.add_block_count(1)
    out.add_feed_forward_length(inner)
    out.add_head_count(2)
    out.add_head_count_kv(2)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(hidden // 2)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(len(tokens))
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_tokenizer_model("gpt2")
    if kind is not ABSENT:
        out.add_tokenizer_pre(kind)
    out.add_token_list(tokens)
    types = {token: gguf.TokenType.CONTROL for token in CONTROL} | dict.fromkeys(USER_DEFINED, gguf.TokenType.USER_DEFINED)
    if change == "unused":
        types |= {"<|im_end|>": gguf.TokenType.UNUSED, "[INST]": gguf.TokenType.UNUSED}
    if change == "unknown":
        types |= {"<|im_end|>": gguf.TokenType.UNKNOWN, "[INST]": gguf.TokenType.NORMAL}
    if change != "token_type":
        out.add_token_types([types.get(token, gguf.TokenType.NORMAL) for token in tokens])
    if change == "scores":
        out.add_token_scores([-float(i) for i in range(len(tokens))])
    if change == "add_space_prefix":
        out.add_add_space_prefix(True)
    out.add_token_merges(merges)
    if change != "bos_token_id":
        out.add_bos_token_id(tokens.index("<s>"))
    out.add_eos_token_id(tokens.index("</s>"))
    if add_bos is not ABSENT:
        out.add_add_bos_token(add_bos)
    if add_eos is not ABSENT:
        out.add_add_eos_token(add_eos)
    random = numpy.random.default_rng(0)

    def add(name, *shape):
        out.add_tensor(name, (0.1 * random.standard_normal(shape)).astype(numpy.float32))

    add("token_embd.weight", len(tokens), hidden)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.0.{name}.weight", hidden, hidden)
        if architecture == "qwen2" and name != "attn_output":
            add(f"blk.0.{name}.bias", hidden)
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        add(f"blk.0.{name}.weight", hidden, hidden)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        add(f"{name}.weight", hidden)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return tokens


def reference(path, texts):
    """The tokens of every text by llama.cpp, or why there are none."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 64
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.cpuparams.n_threads = 1
    parameters.port = 0
    try:
        server = xllamacpp.Server(parameters)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    expected = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            expected.append(json.load(answer)["tokens"])
    return expected, ""


def found(betaedit, path, out):
    command = [betaedit, "tokens", "--model", str(path), "--texts", str(out / "texts.json"), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode != 0:
        return None, f"exit {answer.returncode}: {answer.stderr.strip()}"
    return [one["ids"] for one in json.loads(answer.stdout)["texts"]], ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("betaedit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", action="store_true", help="keep all files, not only those that failed")
    parser.add_argument("--seed", type=int, help="of the random texts; by default a new one, which is printed")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    texts = TEXTS + random_texts(random.Random(seed), 300)
    (out / "texts.json").write_text(json.dumps(texts))

    counts, began = Counter(), time.time()
    for kind, add_bos, add_eos, change in variants():
        architecture = "qwen2" if kind == "qwen2" else "llama"
        said = f"pre {kind}, add_bos_token {add_bos}, add_eos_token {add_eos}" + (f", {change}" if change else "")
        path = out / f"{said.replace(', ', '-').replace(' ', '-')}.gguf"
        tokens = write(path, architecture, kind, add_bos, add_eos, change)
        expected, why = reference(path, texts)
        ids, message = found(options.betaedit, path, out)
        wrong = []
        if ids is None:
            reason = "tokenizer.ggml.pre" if kind not in KINDS else ENTRIES.get(change, change)
            verdict = "refused" if reason and message.startswith("exit 1:") and reason in message else "REFUSED"
        elif expected is None:
            verdict = "READ" if kind in UNKNOWN else "apart"  # llama.cpp refuses the file
        else:
            last = [tokens.index("</s>")] if add_eos else []
            assert all(want[len(want) - len(last) :] == last for want in expected)
            expected = [want[: len(want) - len(last)] for want in expected]
            wrong = [one for one in zip(texts, expected, ids, strict=True) if one[1] != one[2]]
            verdict = "DIFFERENT" if wrong else "equal"
        counts[verdict] += 1
        if verdict.isupper():
            print(f"\n{verdict} {said}: {message or why or f'{len(wrong)} of {len(texts)} texts'}")
        elif not options.keep:
            path.unlink()
        for text, want, have in wrong[:8]:
            same = next((i for i, (a, b) in enumerate(zip(want, have)) if a != b), min(len(want), len(have)))
            print(f"    {text!r}: the first {same} tokens are equal")
            for what, part in [("expected", want[same:][:9]), ("found", have[same:][:9])]:
                print(f"        {what:8} {part} {[tokens[i] for i in part]}")
    shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"\n{counts.total()} files in {time.time() - began:.0f} s: {shown}; seed {seed}")
    sys.exit(1 if any(verdict.isupper() for verdict in counts) else 0)


if __name__ == "__main__":
    main()
