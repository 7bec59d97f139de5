"""Odd tokenizers: the command must cut a text into the tokens that transformers cuts it into.

    odd_tokenizers.py BETAEDIT OUT_DIR [--seed N] [--variants 30] [--keep]

Makes tokenizer.json files of many kinds at random, each beside a tiny Llama, and compares `betaedit tokens` with
`PreTrainedTokenizerFast` on odd texts. What the tokenizer puts in front of a text must be there, and nothing else; what it
puts after a text is no part of a prompt and must not.

A tokenizer on which the library of transformers itself panics is counted apart, with what the command does.

Ends with 1 if any text differs, or if a tokenizer is refused. What the regular expressions of the two libraries understand
differently may be refused: `\\w`, if the message names it. Those that failed stay in OUT_DIR.
Needs torch, transformers and tokenizers. The same seed gives the same tokenizers.
"""

import argparse
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

os.environ["RUST_BACKTRACE"] = "0"  # before the library is loaded, whose panics are counted

import torch
import transformers
from odd_texts import BETWEEN_TEXTS, REGEXES, TEXTS, TRAINED_ON, random_texts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ADDED = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "[INST]", "[/INST]", "[MASK]", "<mask>", "don", "Paris", "the"]
ADDED += ["\n\n", "  ", "    ", "é", "ﬁ", "首都", " donut", "A", "😀", "'s", "▁", "[PAD]", "<think", "DON'T", "12", "İ"]


class Variant:
    def __init__(self, rng):
        self.rng = rng
        self.said = []
        self.edits = []
        self.reasons = set()

    def say(self, what):
        self.said.append(what)
        return what


def byte_level(v):
    """BPE over bytes, as in GPT-2, Llama 3 and Qwen."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizer(v, [None, None, normalizers.NFC(), "any"])
    prefix = v.rng.random() < 0.2
    how = v.rng.choice(["alone", "split", "split", "split", "digits", "digits", "two"])
    v.say(f"byte level, {how}{', add_prefix_space' if prefix else ''}")
    by_regex = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=True)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    if how == "alone":
        made.pre_tokenizer = by_regex
    elif how == "digits":
        digits = pre_tokenizers.Digits(individual_digits=v.rng.random() < 0.7)
        made.pre_tokenizer = pre_tokenizers.Sequence([digits, by_regex])
    else:
        parts = [split(v) for _ in range(2 if how == "two" else 1)]
        made.pre_tokenizer = pre_tokenizers.Sequence([*parts, bytes_only])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials(v),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TRAINED_ON, trainer)
    if v.rng.random() < 0.4:
        v.say("ignore_merges, and words that no merge makes")
        words = ["ĠEiffel", "ĠTokyo", "Mos", "hello", "Ġlocated", "1987", "main", "Ġpass", "ĠParisian", "don"]
        v.edits.append(lambda json: ignore_merges(json, words))
    return made


def split(v):
    name = v.rng.choice(list(REGEXES))
    behavior = v.rng.choice(["isolated", "isolated", "isolated", "merged_with_next", "merged_with_previous", "contiguous"])
    if name == "words" and v.rng.random() < 0.3:
        behavior = "removed"
    if r"\w" in REGEXES[name]:
        v.reasons.add(r"\w")
    invert = v.rng.random() < 0.2
    v.say(f"split by {name}, {behavior}{', inverted' if invert else ''}")
    return pre_tokenizers.Split(Regex(REGEXES[name]), behavior, invert)


def ignore_merges(json, words):
    model = json["model"]
    model["ignore_merges"] = True
    first = max(max(model["vocab"].values()), *(token["id"] for token in json["added_tokens"]), 0) + 1
    new = [word for word in words if word not in model["vocab"]]
    model["vocab"] |= {word: first + i for i, word in enumerate(new)}


def spaced(v, made):
    """Spaces as in SentencePiece: by a normalizer, or by a pre-tokenizer."""
    if v.rng.random() < 0.5:
        v.say("Prepend and Replace")
        more = [normalizers.Prepend("▁")] if v.rng.random() < 0.7 else []
        if v.rng.random() < 0.3:
            more.insert(0, v.rng.choice([normalizers.NFKC(), normalizers.NFC(), normalizers.Strip(left=False)]))
        made.normalizer = normalizers.Sequence([*more, normalizers.Replace(" ", "▁")])
        if v.rng.random() < 0.3:
            made.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
    else:
        scheme, cut = v.rng.choice(["always", "first", "never"]), v.rng.random() < 0.6
        v.say(f"Metaspace {scheme}{'' if cut else ', not split'}")
        made.normalizer = normalizer(v, [None, normalizers.NFKC(), "any"])
        space = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=cut)
        if v.rng.random() < 0.3:
            made.pre_tokenizer = pre_tokenizers.Sequence([space, pre_tokenizers.Digits(individual_digits=True)])
        elif v.rng.random() < 0.2:
            made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
        else:
            made.pre_tokenizer = space
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def sentence_pieces(v):
    """BPE as in Llama 2: spaces are `▁`, unknown characters are bytes."""
    v.say("SentencePiece BPE")
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=v.rng.random() < 0.7))
    spaced(v, made)
    made.train_from_iterator(
        TRAINED_ON, trainers.BpeTrainer(vocab_size=500, special_tokens=specials(v), limit_alphabet=120, show_progress=False)
    )
    if v.rng.random() < 0.7:
        v.say("byte_fallback")
        v.edits.append(with_bytes)
    return made


def with_bytes(json):
    model = json["model"]
    model["byte_fallback"] = True
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    if model["type"] == "BPE":
        first = max(model["vocab"].values()) + 1
        model["vocab"] |= {byte: first + i for i, byte in enumerate(bytes_)}
    else:
        model["vocab"] += [[byte, -20.0] for byte in bytes_]


def unigram(v):
    """Unigram, as in T5 and Gemma's kin."""
    v.say("Unigram")
    made = Tokenizer(models.Unigram())
    spaced(v, made)
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=specials(v), unk_token="<unk>", shrinking_factor=0.75, show_progress=False
    )
    made.train_from_iterator(TRAINED_ON, trainer)
    if v.rng.random() < 0.5:
        v.say("byte_fallback")
        v.edits.append(with_bytes)
    v.edits.append(round_scores)
    return made


def round_scores(json):
    """Sums of rounded scores are exact: two cuts of a text that are equally good are so in every order of adding."""
    json["model"]["vocab"] = [[piece, round(256 * score) / 256] for piece, score in json["model"]["vocab"]]


def normalizer(v, choices):
    made = v.rng.choice(choices)
    if made == "any":
        made = v.rng.choice(
            [
                normalizers.NFKC(),
                normalizers.NFD(),
                normalizers.NFKD(),
                normalizers.Lowercase(),
                normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
                normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
                normalizers.Strip(),
                normalizers.Replace(Regex(r"\s+"), " "),
                normalizers.Replace(Regex(r"\d"), "0"),
                normalizers.Replace("'", "’"),
                normalizers.Prepend("▁"),
                normalizers.Nmt(),
            ]
        )
    if made is not None:
        v.say(type(made).__name__)
    return made


def specials(v):
    tokens = ["<unk>", "<s>", "</s>"]
    if v.rng.random() < 0.6:
        tokens.insert(v.rng.choice([0, 3]), BETWEEN_TEXTS)
    return tokens


def added_tokens(v, made):
    contents = v.rng.sample(ADDED, v.rng.choice([0, 2, 4, 7]))
    for content in contents:
        chance = lambda p: v.rng.random() < p  # noqa: E731
        flags = dict(lstrip=chance(0.25), rstrip=chance(0.25), single_word=chance(0.2), normalized=chance(0.4))
        special = chance(0.5)
        token = AddedToken(content, special=special, **flags)
        made.add_special_tokens([token]) if special else made.add_tokens([token])
        on = [name for name, value in (flags | {"special": special}).items() if value]
        v.say(f"added {content!r} {' '.join(on)}")


def post_processor(v, made):
    """Sets what is put around a text. Returns the tokens before and after it."""
    bos, eos = "<s>", "</s>"
    kind = v.rng.choice(["none", "none", "bos", "bos", "bos+eos", "eos", "two bos", "level", "level+bos", "roberta", "text"])
    v.say(f"around a text: {kind}")
    ids = {token: made.token_to_id(token) for token in (bos, eos)}
    single = {"bos": f"{bos} $A", "bos+eos": f"{bos} $A {eos}", "eos": f"$A {eos}", "two bos": f"{bos} {bos} $A"}
    single |= {"level+bos": f"{bos} $A", "text": "$A"}
    level = processors.ByteLevel(trim_offsets=v.rng.random() < 0.5)
    if kind == "level":
        made.post_processor = level
    elif kind == "roberta":
        made.post_processor = processors.RobertaProcessing((eos, ids[eos]), (bos, ids[bos]))
        return [ids[bos]], [ids[eos]]
    elif kind != "none":
        template = processors.TemplateProcessing(single[kind], f"{single[kind]} $B", list(ids.items()))
        made.post_processor = processors.Sequence([level, template]) if kind == "level+bos" else template
    before, _, after = single.get(kind, "$A").partition("$A")
    return [ids[token] for token in before.split()], [ids[token] for token in after.split()]


def make(v, folder):
    """Writes a tokenizer and a model. Returns the tokens before and after a text."""
    made = v.rng.choice([byte_level, byte_level, byte_level, sentence_pieces, sentence_pieces, unigram])(v)
    added_tokens(v, made)
    around = post_processor(v, made)
    if v.rng.random() < 0.3:
        v.say("truncation and padding")
        made.enable_truncation(max_length=5)
        made.enable_padding(length=12, pad_id=1, pad_token="<s>", direction=v.rng.choice(["left", "right"]))
    folder.mkdir(parents=True)
    file = folder / "tokenizer.json"
    made.save(str(file))
    content = json.loads(file.read_text())
    for edit in v.edits:
        edit(content)
    file.write_text(json.dumps(content, ensure_ascii=v.rng.random() < 0.5))

    size = 1 + max(Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True).values())
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return around


def reference(folder, around, texts):
    """The tokens of every text by transformers, without what comes after it."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    before, after = around
    expected = []
    for text in texts:
        try:
            ids = tokenizer(text).input_ids
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            return None, tokenizer
        bare = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == before + bare + after, (text, ids, bare, around)
        expected.append(before + bare)
    return expected, tokenizer


def found(betaedit, folder, out):
    """The tokens of every text by the command, or its message."""
    command = [betaedit, "tokens", "--model", str(folder), "--texts", str(out / "texts.json"), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode != 0:
        return None, f"exit {answer.returncode}: {answer.stderr.strip()}"
    return [one["ids"] for one in json.loads(answer.stdout)["texts"]], ""


def differences(expected, ids, texts):
    """Texts that differ, as (text, expected, found)."""
    return [one for one in zip(texts, expected, ids, strict=True) if one[1] != one[2]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("betaedit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, help="by default a new one, which is printed")
    parser.add_argument("--variants", type=int, default=30)
    parser.add_argument("--keep", action="store_true", help="keep all tokenizers, not only those that failed")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    texts = TEXTS + random_texts(random.Random(seed))
    (out / "texts.json").write_text(json.dumps(texts))
    print(f"seed {seed}, {options.variants} tokenizers, {len(texts)} texts; transformers {transformers.__version__}")

    counts, began = Counter(), time.time()
    for number in range(options.variants):
        v = Variant(random.Random(f"{seed} {number}"))
        folder = out / f"{number:03}"
        if folder.exists():
            shutil.rmtree(folder)
        around = make(v, folder)
        expected, tokenizer = reference(folder, around, texts)
        ids, message = found(options.betaedit, folder, out)
        wrong = [] if ids is None or expected is None else differences(expected, ids, texts)
        verdict = "refused" if ids is None else "different" if wrong else "equal"
        if ids is None and any(reason in message for reason in v.reasons):
            verdict = "refused for a reason"
        if expected is None:
            verdict = f"apart ({message[:8] or 'exit 0'})"
        counts[verdict] += 1
        if verdict in ("refused", "different"):
            print(f"\n{verdict} {folder}: {'; '.join(v.said)}")
            print(f"    {message}" if message else f"    {len(wrong)} of {len(texts)} texts")
        for text, want, have in wrong[:5]:
            print(f"    {text!r}")
            same = next((i for i, (a, b) in enumerate(zip(want, have)) if a != b), min(len(want), len(have)))
            print(f"        the first {same} tokens are equal")
            for what, tokens in [("expected", want[same:][:9]), ("found", have[same:][:9])]:
                print(f"        {what:8} {tokens} {tokenizer.convert_ids_to_tokens(tokens)}")
        if verdict not in ("refused", "different") and not options.keep:
            shutil.rmtree(folder)
    shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"\n{options.variants} tokenizers in {time.time() - began:.0f} s: {shown}; seed {seed}")
    sys.exit(1 if counts["refused"] or counts["different"] else 0)


if __name__ == "__main__":
    main()
