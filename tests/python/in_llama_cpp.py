"""Edits of a GGUF model in use: llama.cpp must answer as the command does.

    in_llama_cpp.py MODEL.gguf ADAPTER.gguf EDITED.gguf ANSWERS.jsonl FOLDER

ANSWERS.jsonl is what `betaedit edit --answers` wrote. llama.cpp continues its prompts with the model and the adapter, and with
the edited file. Where a matrix is quantized, llama.cpp rounds the activations as well, which the command does not. So the
model is also written into FOLDER with the same numbers in f32: with this file and the adapter, llama.cpp must continue 98 % of
the prompts as the command did. With the files as they are, adapter and edited file must keep 95 % of the facts that the
command wrote. Needs gguf, numpy and xllamacpp.
"""

import json
import sys
from pathlib import Path

import gguf
from llama_cpp import completed, server

TOKENS = 8
ALIKE, KEPT = 0.98, 0.95


def alike(one, other):
    """Whether two answers are the same as far as both go: the command's are of various lengths."""
    short, long = sorted([one.rstrip(), other.rstrip()], key=len)
    return long.startswith(short)


def says(answer, wanted):
    return answer.strip().startswith(wanted.strip())


def in_f32(model, path):
    """The same model with all numbers in f32."""
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(model, adapter, edited, answers, folder):
    lines = [json.loads(line) for line in Path(answers).read_text().splitlines()]
    plain = [line for line in lines if line["setting"] == "plain" and line["purpose"] != "known"]
    exact = str(Path(folder) / "f32.gguf")
    in_f32(model, exact)
    result = {}
    for name, which, path, lora in [
        ("model in f32", "before", exact, None),
        ("model in f32 with adapter", "after", exact, adapter),
        ("model with adapter", "after", model, adapter),
        ("edited file", "after", edited, None),
    ]:
        ours = [line for line in plain if line["model"] == which]
        running = server(path, lora)
        texts = [completed(running, line["question"], TOKENS)["text"] for line in ours]
        facts = [(line, text) for line, text in zip(ours, texts) if line["purpose"] == "fact"]
        result[name] = {
            "prompts": len(ours),
            "alike": sum(alike(text, line["answer"]) for text, line in zip(texts, ours)) / len(ours),
            "efficacy": sum(says(text, line["wanted"]) for line, text in facts) / len(facts),
            "efficacy_of_command": sum(says(line["answer"], line["wanted"]) for line, _ in facts) / len(facts),
        }
        print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    Path(folder, "llama-cpp.json").write_text(json.dumps(result, indent=1))
    for name in ["model in f32", "model in f32 with adapter"]:
        assert result[name]["alike"] >= ALIKE, (name, result[name])
    for name in ["model with adapter", "edited file"]:
        assert result[name]["efficacy"] >= KEPT * result[name]["efficacy_of_command"], (name, result[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
