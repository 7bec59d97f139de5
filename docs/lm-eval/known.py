"""The rule of the task in `known.yaml`, and what an edited model kept of it.

    python3 docs/lm-eval/known.py BEFORE AFTER

BEFORE and AFTER are folders that `lm_eval run --output_path FOLDER --log_samples` wrote.
"""

import json
import pathlib
import re
import sys


def plain(text):
    return " ".join(text.lower().split())


def process_results(doc, results):
    """Whether an answer is right, as `KnownAnswers` of the library has it in the setting `plain`."""
    answer = plain(results[0]).lstrip("\"'“‘«*")
    right = any(re.match(re.escape(plain(wanted)) + r"(?!\w)", answer) for wanted in doc["answers"])
    return {"right": float(right)}


def stored(folder):
    """The latest answers in a folder, by prompt."""
    files = sorted(pathlib.Path(folder).rglob("samples_betaedit_known_*.jsonl"), key=lambda path: path.name)
    if not files:
        sys.exit(f"{folder} has no answers; give --log_samples to the harness")
    samples = map(json.loads, files[-1].read_text(encoding="utf-8").splitlines())
    return {sample["doc"]["prompt"]: sample for sample in samples}


def main(before, after):
    before, after = stored(before), stored(after)
    known = [prompt for prompt, sample in before.items() if sample["right"] and prompt in after]
    forgotten = [prompt for prompt in known if not after[prompt]["right"]]
    for name, samples in ("before", before), ("after", after):
        print(f"{name}: {sum(sample['right'] for sample in samples.values()):.0f} of {len(samples)}")
    print(f"kept: {len(known) - len(forgotten)} of {len(known)}")
    for prompt in forgotten:
        was, now = (samples[prompt]["filtered_resps"][0] for samples in (before, after))
        print(f"  {prompt} ...{was!r}, now {now!r}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
