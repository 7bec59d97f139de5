"""A model in use: what transformers generates before and after an edit must be what `report.json` says that the model generates.

    in_use.py UNEDITED_DIR EDITED_DIR FACTS.json REPORT.json

The report is that of `betaedit edit --facts FACTS.json --limit N --generate plain,chat --report REPORT.json --out EDITED_DIR`;
the facts are the first N of the file, whose N is in the report. Both models answer in the settings `plain` and `chat`, by
greedy decoding in f32, with their own tokenizers and chat templates. From the answers this computes the rates that the
documentation of `facts::metrics` defines. Every rate must be within one fact of the report's.

Ends with 1 if any is not. Needs torch and transformers.
"""

import argparse
import json
import sys
import time
from collections import defaultdict

import torch
import transformers

SETTINGS = ("plain", "chat")
RATES = ("efficacy", "generality", "agreement", "subject_named")
# Tokens of an answer that are compared with the unedited model's.
COMPARED = {"plain": 2, "chat": 16}


def questions(fact):
    """What is asked about a fact: (setting, purpose, prompt, wanted)."""
    target, name = fact["target_new"], fact["subject"]
    for setting in SETTINGS:
        yield setting, "efficacy", fact["prompt"].replace("{}", name), target
        for prompt in fact["paraphrase_prompts"]:
            yield setting, "generality", prompt, target
        for near in fact["neighborhood_prompts"]:
            yield setting, "agreement", near["prompt"], near["target_true"]
    yield "plain", "subject_named", f"The name is {name}. Once more, the name is", name


def most_tokens(setting, purpose, wanted):
    if purpose == "agreement":
        return COMPARED[setting]
    least = {"plain": 8, "chat": 40}[setting]
    return max(least, least // 2 + len(wanted.encode()) // 2)


def read(tokenizer, setting, prompt):
    """The tokens that the model reads."""
    if setting == "plain":
        return tokenizer(prompt).input_ids
    text = prompt if prompt.rstrip().endswith(("?", "？", "؟")) else f"Complete the sentence: {prompt}"
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]


def answers(folder, asked):
    """The model's answer to each question."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Prompts of one length are answered together: none needs padding.
    groups = defaultdict(list)
    for number, (setting, purpose, prompt, wanted) in enumerate(asked):
        tokens = read(tokenizer, setting, prompt)
        groups[len(tokens), most_tokens(setting, purpose, wanted)].append((number, tokens))
    found = [""] * len(asked)
    for (length, most), members in groups.items():
        ids = torch.tensor([tokens for _, tokens in members])
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=most,
                do_sample=False,
                pad_token_id=model.generation_config.pad_token_id or 0,
            )
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        for (number, _), row in zip(members, out[:, length:].tolist(), strict=True):
            # What stands behind the end is padding.
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            found[number] = tokenizer.decode(row[:end], skip_special_tokens=True)
    return found


def plain(text):
    return " ".join(text.lower().split())


def says(setting, answer, wanted):
    answer, wanted = plain(answer), plain(wanted)
    return answer.startswith(wanted) if setting == "plain" else wanted in answer


def rates(facts, asked_of, given, unedited):
    """The rate of every setting and kind: the mean over facts of the mean over the prompts of each."""
    found, place = defaultdict(list), 0
    for fact, asked in zip(facts, asked_of, strict=True):
        values = defaultdict(list)
        for setting, purpose, _, wanted in asked:
            answer, before = given[place], unedited[place]
            place += 1
            if purpose == "agreement":
                values[setting, purpose].append(answer == before)
            else:
                values[setting, purpose].append(says(setting, answer, wanted))
            if setting == "chat" and purpose == "efficacy":
                values[setting, "subject_named"].append(plain(fact["subject"]) in plain(answer))
        for cell, of_fact in values.items():
            found[cell].append(sum(of_fact) / len(of_fact))
    return {cell: (sum(of_facts) / len(of_facts), len(of_facts)) for cell, of_facts in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("unedited", "edited", "facts", "report"):
        parser.add_argument(name)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with open(options.report) as file:
        report = json.load(file)
    if report["rejected"]:
        sys.exit(f"{options.report}: {report['rejected']} facts were rejected; this needs a run in which none was")
    with open(options.facts) as file:
        facts = json.load(file)[: report["after"]["facts"]]

    began = time.time()
    asked_of = [list(questions(fact)) for fact in facts]
    asked = [question for of_fact in asked_of for question in of_fact]
    before = answers(options.unedited, asked)
    after = answers(options.edited, asked)
    wrong = 0
    print(f"{'':24}{'transformers':>14}{'betaedit':>14}")
    for moment, given in ("before", before), ("after", after):
        found = rates(facts, asked_of, given, before)
        for setting in SETTINGS:
            for name in RATES:
                rate, cases = found[setting, name]
                said = report[moment]["generated"][setting][name]
                if name == "agreement" and moment == "before" and said is None:
                    continue
                bad = said is None or abs(rate - said) * cases > 1 + 1e-9
                wrong += bad
                shown = "-" if said is None else f"{said:.1%}"
                print(f"{moment + ' ' + setting + ' ' + name:24} {rate:13.1%}{shown:>14}{'  DIFFERENT' if bad else ''}")
    print(f"{len(facts)} facts, {len(asked)} questions to each model in {time.time() - began:.0f} s: {wrong} rates are different")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
