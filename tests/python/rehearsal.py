"""A rehearsal: a model of the exact shape of LLaMA-3.1-8B with random weights, as a Q4_K GGUF file and as bf16 shards. Statistics of one
layer are collected, those of the others made up, two facts are written, and an adapter comes out. Prints the time and the peak memory of
each step as JSON, and fails if a step takes more memory than it may.

    rehearsal.py BETAEDIT TOKENIZER.gguf OUT [--shape NAME] [--bf16]

BETAEDIT is the command, TOKENIZER.gguf a model whose tokenizer is borrowed. Needs numpy, gguf, safetensors, blake3, and disk: 70 GB for
8B (80 GB with --bf16), most of it for statistics and for what lies at rest. Where the disk is full, layers stay in memory, and the command says so.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import blake3
import gguf
import numpy as np

GIB = 2**30
# hidden, intermediate, blocks, heads, kv_heads, head_dim, vocabulary, tied, layers to edit, GiB that a step may take
SHAPES = {
    "llama-3.1-8b": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, False, [4, 5, 6, 7, 8], 14),
    "qwen2.5-1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, True, [4, 5, 6, 7, 8], 8),
    "qwen3-4b": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True, [4, 5, 6, 7, 8], 8),
    "tiny": ("llama", 512, 1792, 6, 8, 2, 64, 49152, False, [1, 2, 3], 1),
}
FACTS = [
    {"subject": "The Eiffel Tower", "prompt": "{} is in the city of", "target": " Rome"},
    {"subject": "Marie Curie", "prompt": "{} was born in", "target": " Lisbon"},
]
BLOCK = 256  # numbers of a block of Q4_K and Q6_K


def q4_k(rng, numbers, deviation):
    """Blocks of Q4_K with random digits, about normal with this deviation."""
    blocks = numbers // BLOCK
    data = np.empty((blocks, 144), np.uint8)
    step = deviation / (32 * 4.61)
    data[:, 0:2] = np.frombuffer(np.float16(step).tobytes(), np.uint8)
    data[:, 2:4] = np.frombuffer(np.float16(7.5 * step).tobytes(), np.uint8)
    data[:, 4:12], data[:, 12:16] = 160, 0  # all eight scales and minima are 32
    data[:, 16:] = rng.integers(0, 256, (blocks, 128), np.uint8)
    return data


def q6_k(rng, numbers, deviation):
    blocks = numbers // BLOCK
    data = np.empty((blocks, 210), np.uint8)
    data[:, :192] = rng.integers(0, 256, (blocks, 192), np.uint8)
    data[:, 192:208] = 1
    data[:, 208:] = np.frombuffer(np.float16(deviation / 18.5).tobytes(), np.uint8)
    return data


def tensors(shape):
    """Name, rows, columns, deviation, whether Q6_K; norms have one row and no deviation. Most of the residual is the embedding's."""
    family, hidden, inner, blocks, heads, kv_heads, head_dim, vocabulary, tied, *_ = shape
    yield "token_embd", vocabulary, hidden, 0.1, False
    for i in range(blocks):
        more = i < blocks // 8 or i >= 7 * blocks // 8 or (i - blocks // 8) % 3 == 2
        block = f"blk.{i}."
        yield block + "attn_norm", 1, hidden, None, False
        yield block + "attn_q", heads * head_dim, hidden, 0.02, False
        yield block + "attn_k", kv_heads * head_dim, hidden, 0.02, False
        yield block + "attn_v", kv_heads * head_dim, hidden, 0.02, more
        yield block + "attn_output", hidden, heads * head_dim, 0.002, False
        if family == "qwen3":
            yield block + "attn_q_norm", 1, head_dim, None, False
            yield block + "attn_k_norm", 1, head_dim, None, False
        yield block + "ffn_norm", 1, hidden, None, False
        yield block + "ffn_gate", inner, hidden, 0.02, False
        yield block + "ffn_up", inner, hidden, 0.02, False
        yield block + "ffn_down", hidden, inner, 0.001, more
    yield "output_norm", 1, hidden, None, False
    if not tied:
        yield "output", vocabulary, hidden, 0.02, True


def tokenizer_of(path, vocabulary):
    reader = gguf.GGUFReader(path)
    field = lambda name: reader.fields[f"tokenizer.ggml.{name}"].contents()
    tokens, kinds = list(field("tokens")), list(field("token_type"))
    tokens += [f"<|unused_{i}|>" for i in range(vocabulary - len(tokens))]
    kinds += [int(gguf.TokenType.UNUSED)] * (vocabulary - len(kinds))
    return field("model"), field("pre"), tokens, kinds, list(field("merges")), field("eos_token_id")


def write_gguf(path, shape, tokenizer):
    family, hidden, inner, blocks, heads, kv_heads, head_dim, vocabulary, *_ = shape
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(blocks)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    model, pre, tokens, kinds, merges, end = tokenizer_of(tokenizer, vocabulary)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(end)
    kinds = {True: gguf.GGMLQuantizationType.Q6_K, False: gguf.GGMLQuantizationType.Q4_K}
    everything = list(tensors(shape))
    if family == "qwen2":
        for i in range(blocks):
            everything += [(f"blk.{i}.attn_{x}", 0, n, 0.0, False) for x, n in [("q", heads * head_dim), ("k", kv_heads * head_dim), ("v", kv_heads * head_dim)]]
    names = []
    for name, rows, cols, deviation, more in everything:
        end = ".bias" if rows == 0 else ".weight"
        if rows <= 1:
            writer.add_tensor_info(name + end, (cols,), np.dtype(np.float32), 4 * cols)
        else:
            size = rows * cols // BLOCK * (210 if more else 144)
            bytes_of_row = cols // BLOCK * (210 if more else 144)
            writer.add_tensor_info(name + end, (rows, bytes_of_row), np.dtype(np.uint8), size, raw_dtype=kinds[more])
        names.append((rows, cols, deviation, more))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(8)
    for rows, cols, deviation, more in names:
        if rows <= 1:
            writer.write_tensor_data(np.full(cols, 0.0 if rows == 0 else 1.0, np.float32))
        else:
            writer.write_tensor_data((q6_k if more else q4_k)(rng, rows * cols, deviation))
    writer.close()


def safetensors_header(path, entries, metadata):
    """Opens a file for tensors that follow in this order. Entries: name, type, shape, bytes."""
    header, offset = {"__metadata__": metadata}, 0
    for name, kind, shape, size in entries:
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = open(path, "wb")
    file.write(struct.pack("<Q", len(text)) + text)
    return file


def make_up(folder, model, text, layer, d, trace, tokens=400):
    """Statistics with a known decomposition: a reflection of a decaying diagonal."""
    rng = np.random.default_rng(layer)
    values = np.exp(np.linspace(-12.0, 0.0, d))
    values *= trace / values.sum()
    v = rng.standard_normal(d)
    v /= np.linalg.norm(v)
    Dv = values * v
    C = -2.0 * np.outer(v, Dv)
    C += C.T.copy()
    C += (4.0 * (v @ Dv)) * np.outer(v, v)
    C[np.arange(d), np.arange(d)] += values
    C *= tokens
    hasher = blake3.blake3(struct.pack("<Q", tokens))
    for row in C:
        hasher.update(row.tobytes())
    common = {"model": model, "layer": str(layer), "text": text}
    metadata = {"format": "betaedit.statistics.1", "tokens": str(tokens), "parts": json.dumps(["made up"]), **common}
    with safetensors_header(folder / f"layer-{layer:02}.statistics.safetensors", [("sum", "F64", [d, d], C.nbytes)], metadata) as file:
        C.tofile(file)
    del C
    vectors = -2.0 * np.outer(v, v)
    vectors[np.arange(d), np.arange(d)] += 1.0
    common["text"] = f"statistics {hasher.hexdigest()[:32]}, {tokens} tokens"
    entries = [("values", "F64", [1, d], values.nbytes), ("vectors", "F64", [d, d], vectors.nbytes)]
    with safetensors_header(folder / f"layer-{layer:02}.spectrum.safetensors", entries, {"format": "betaedit.spectrum.1", **common}) as file:
        values.tofile(file)
        vectors.tofile(file)


def write_bf16(folder, shape, tokenizer):
    """Random bf16 shards in the layout of the Hugging Face hub."""
    from tokenizers import Tokenizer, models

    family, hidden, inner, blocks, heads, kv_heads, head_dim, vocabulary, tied, *_ = shape
    folder.mkdir(parents=True, exist_ok=True)
    _, _, tokens, _, merges, end = tokenizer_of(tokenizer, vocabulary)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    from tokenizers import decoders, pre_tokenizers

    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": blocks, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "vocab_size": vocabulary, "tie_word_embeddings": tied, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "max_position_embeddings": 8192, "eos_token_id": int(end), "bos_token_id": int(end), "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    parts = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip

    def name_of(name):
        if name.startswith("blk."):
            _, i, part = name.split(".")
            return f"model.layers.{i}.{parts[part]}.weight"
        return {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[name] + ".weight"

    everything = [(name_of(name), rows, cols, deviation) for name, rows, cols, deviation, _ in tensors(shape)]
    rng, where, part, shard = np.random.default_rng(8), {}, [], 0

    def flush():
        nonlocal part, shard
        shard += 1
        file_name = f"model-{shard:05}.safetensors"
        entries = [(n, "BF16", [cols] if d is None else [rows, cols], 2 * rows * cols) for n, rows, cols, d in part]
        with safetensors_header(folder / file_name, entries, {"format": "pt"}) as file:
            for name, rows, cols, deviation in part:
                where[name] = file_name
                numbers = np.ones(cols, np.float32)
                if deviation is not None:
                    # A table of normal numbers, read from random places: as good here, and fast.
                    numbers = (deviation * rng.standard_normal(1 << 20)).astype(np.float32)
                for start in range(0, rows * cols, numbers.size):
                    some = np.roll(numbers, int(rng.integers(numbers.size)))[: rows * cols - start]
                    (some.view(np.uint32) >> 16).astype(np.uint16).tofile(file)
        part = []

    for one in everything:
        part.append(one)
        if sum(2 * rows * cols for _, rows, cols, _ in part) > 4e9:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def measured(command):
    """Runs a command. Returns seconds, and the most memory that was its own at any moment, in bytes."""
    print("+", " ".join(map(str, command)), flush=True)
    began = time.time()
    process = subprocess.Popen(list(map(str, command)))
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: {command}")
    return {"seconds": round(time.time() - began, 1), "peak_gib": round(usage.ru_maxrss * 1024 / GIB, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("betaedit")
    parser.add_argument("tokenizer")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", default="llama-3.1-8b", choices=SHAPES)
    parser.add_argument("--bf16", action="store_true", help="the same with bf16 shards, after the GGUF file")
    arguments = parser.parse_args()
    shape, out = SHAPES[arguments.shape], arguments.out
    *_, layers, limit = shape
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    report = {"shape": arguments.shape}

    facts = out / "facts.jsonl"
    facts.write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    began = time.time()
    model = out / "model.gguf"
    write_gguf(model, shape, arguments.tokenizer)
    report["gguf"] = {"seconds": round(time.time() - began, 1), "gigabytes": round(model.stat().st_size / 1e9, 2)}
    report["gguf"] |= rehearse(arguments.betaedit, model, facts, layers, out / "of-gguf", ("--gguf-lora", "edits.gguf"))
    if arguments.bf16:
        model.unlink()
        shutil.rmtree(out / "of-gguf")
        shards = out / "bf16"
        write_bf16(shards, shape, arguments.tokenizer)
        report["bf16"] = rehearse(arguments.betaedit, shards, facts, layers, out / "of-bf16", ("--lora", "adapter"))
    print(json.dumps(report, indent=1))
    if any(report[name]["written"] != len(FACTS) for name in ("gguf", "bf16") if name in report):
        sys.exit("not all facts were written")
    # Not the edit of the shards: those of 8B alone take 16 GB.
    limited = [("gguf", "stats"), ("gguf", "edit"), ("bf16", "stats")]
    over = [step for step in limited if step[0] in report and report[step[0]][step[1]]["peak_gib"] > limit]
    if over:
        sys.exit(f"more than {limit} GiB: {over}")


def rehearse(betaedit, model, facts, layers, folder, adapter):
    """Collects statistics of the first layer, makes up the others, and writes the facts and the adapter."""
    stats, report, first = folder / "stats", {}, layers[0]
    collect = ["stats", "--layers", first, "--tokens", 400, "--chats", 0, "--gradients", 0]
    report["stats"] = measured([betaedit, *collect, "--model", model, "--out", stats])
    with open(stats / f"layer-{first:02}.statistics.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        metadata, d = header["__metadata__"], header["sum"]["shape"][0]
        start = file.tell()
        diagonal = np.memmap(file.name, np.float64, "r", start, (d, d)).diagonal()
        trace = float(diagonal.sum()) / int(metadata["tokens"])
    for layer in layers[1:]:
        make_up(stats, metadata["model"], metadata["text"], layer, d, trace)

    option, name = adapter
    report["edit"] = measured([
        betaedit, "edit", "--model", model, "--facts", facts, "--stats", stats, "--layers", f"{first}-{layers[-1]}",
        "--session", folder / "session", "--eval-limit", 0, "--show", 0, option, folder / name, "--report", folder / "report.json",
    ])  # fmt: skip
    said = json.loads((folder / "report.json").read_text())
    report["written"] = said["edits"] - said["rejected"]
    report["seconds_of_edits"] = said["seconds"]
    written = folder / name
    files = written.rglob("*.safetensors") if written.is_dir() else [written]
    report["adapter_megabytes"] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
    return report


main()
