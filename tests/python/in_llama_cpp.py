"""Edits of a GGUF model in use: llama.cpp must answer as the command does.

    in_llama_cpp.py MODEL.gguf ADAPTER.gguf EDITED.gguf ANSWERS.jsonl [REPORT.json]

ANSWERS.jsonl is what `betaedit edit --answers` wrote. llama.cpp continues its prompts with the model and the adapter, and with
the edited file. Of all prompts, it must answer as the command did on 98 % with the adapter: both say what was wanted, or
neither does. The edited file must keep 95 % of the facts that the command wrote. Needs xllamacpp.
"""

import json
import sys
from pathlib import Path

from llama_cpp import completed, server

TOKENS = 8
ALIKE, KEPT = 0.98, 0.95


def says(answer, wanted):
    return answer.strip().startswith(wanted.strip())


def main(model, adapter, edited, answers, report=None):
    lines = [json.loads(line) for line in Path(answers).read_text().splitlines()]
    plain = [line for line in lines if line["setting"] == "plain" and line["purpose"] != "known"]
    result = {}
    for name, which, path, lora in [
        ("base", "before", model, None),
        ("adapter", "after", model, adapter),
        ("edited", "after", edited, None),
    ]:
        ours = [line for line in plain if line["model"] == which]
        running = server(path, lora)
        texts = [completed(running, line["question"], TOKENS)["text"] for line in ours]
        alike = [says(text, line["wanted"]) == says(line["answer"], line["wanted"]) for text, line in zip(texts, ours)]
        facts = [(line, text) for line, text in zip(ours, texts) if line["purpose"] == "fact"]
        first = [text.split()[:1] == line["answer"].split()[:1] for text, line in zip(texts, ours)]
        result[name] = {
            "prompts": len(ours),
            "alike": sum(alike) / len(ours),
            "first_word": sum(first) / len(ours),
            "equal": sum(text == line["answer"] for text, line in zip(texts, ours)) / len(ours),
            "efficacy": sum(says(text, line["wanted"]) for line, text in facts) / len(facts),
            "efficacy_of_command": sum(says(line["answer"], line["wanted"]) for line, _ in facts) / len(facts),
        }
        print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    if report:
        Path(report).write_text(json.dumps(result, indent=1))
    adapter, edited = result["adapter"], result["edited"]
    assert adapter["alike"] >= ALIKE, adapter
    assert edited["efficacy"] >= KEPT * edited["efficacy_of_command"], edited


if __name__ == "__main__":
    main(*sys.argv[1:])
