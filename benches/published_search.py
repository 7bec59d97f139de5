"""The search for a target as it was published (MEMIT, ICLR 2023, equation 16, and its program's settings), in torch.

    python benches/published_search.py MODEL_DIR FACTS.json [--facts 8] [--layer 10]

MODEL_DIR is a directory that transformers reads, for example the one that `betaedit undo ... --out` writes. Prints the seconds a fact, for
`benches/ratios.rs`. Five texts of ten tokens stand before the prompt, as in the program; 25 steps of Adam with rate 0.5, decay 0.5, the
divergence behind "{subject} is a" with weight 0.0625, the bound 0.75 |v|, and the end at a loss of 0.05.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BEGINNINGS = ["The", "Therefore", "Because", "I", "You"]


def texts(model, tokenizer):
    """The openings: nothing, and five texts that the model generates."""
    made = [""]
    for beginning in BEGINNINGS:
        start = tokenizer(beginning, return_tensors="pt")
        more = model.generate(**start, max_new_tokens=9, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        made.append(tokenizer.decode(more[0], skip_special_tokens=True).replace("{", " ").replace("}", " ") + ". ")
    return made


def search(model, tokenizer, openings, layer, prompt, subject, target):
    """The vector that makes the target probable, and the number of evaluations."""
    ids = tokenizer(" " + target.strip(), add_special_tokens=False)["input_ids"]
    asked = [opening + prompt for opening in openings] + ["{} is a"]
    rows, places = [], []
    for i, text in enumerate(asked):
        before, after = text.split("{}")
        head = tokenizer(before + subject)["input_ids"]
        whole = tokenizer(before + subject + after)["input_ids"]
        places.append(len(head) - 1)
        rows.append(whole + (ids[:-1] if i < len(openings) else []))
    length = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    labels = torch.full((len(openings), length), -100)
    for i, row in enumerate(rows[: len(openings)]):
        labels[i, len(row) - len(ids) : len(row)] = torch.tensor(ids)

    hidden = model.config.hidden_size
    delta = torch.zeros(hidden, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=0.5)
    start, reference, everywhere = None, None, torch.arange(len(rows))

    def add(_module, _inputs, output):
        nonlocal start
        states = output[0] if isinstance(output, tuple) else output
        if start is None:
            start = states[0, places[0]].detach().clone()
        moved = states.clone()
        moved[everywhere, places] = moved[everywhere, places] + delta
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    hook = model.model.layers[layer].register_forward_hook(add)
    steps = 0
    for step in range(25):
        optimizer.zero_grad()
        logits = model(input_ids=tokens, attention_mask=mask).logits
        steps += 1
        kind = torch.log_softmax(logits[-1, len(rows[-1]) - 1], dim=-1)
        if reference is None:
            reference = kind.detach().clone()
        probable = torch.log_softmax(logits[: len(openings)], dim=-1)
        there = labels != -100
        chosen = probable.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
        likelihood = -(chosen * there).sum(1) / len(ids)
        divergence = 0.0625 * torch.nn.functional.kl_div(reference, kind, log_target=True, reduction="sum")
        decay = 0.5 * delta.norm() / start.norm() ** 2
        loss = likelihood.mean() + divergence + decay
        if loss < 0.05 or step == 24:
            break
        loss.backward()
        optimizer.step()
        bound = 0.75 * start.norm()
        if delta.norm() > bound:
            with torch.no_grad():
                delta.mul_(bound / delta.norm())
    hook.remove()
    return delta.detach(), steps


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("facts")
    parser.add_argument("--facts", dest="count", type=int, default=8)
    parser.add_argument("--layer", type=int, default=10)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    model.requires_grad_(False)
    openings = texts(model, tokenizer)
    with open(given.facts, encoding="utf-8") as file:
        records = json.load(file)
    records = records["records"] if isinstance(records, dict) else records
    seconds, steps = [], 0
    for record in records[: given.count]:
        one = record.get("requested_rewrite", record)
        target = one["target_new"]
        target = target["str"] if isinstance(target, dict) else target
        clock = time.perf_counter()
        _, made = search(model, tokenizer, openings, given.layer, one["prompt"], one["subject"], target)
        seconds.append(time.perf_counter() - clock)
        steps += made
    mean = sum(seconds) / len(seconds)
    print(f"published search in torch: {mean:.3f} s a fact, {steps / len(seconds):.1f} evaluations, {torch.get_num_threads()} threads")


main()
