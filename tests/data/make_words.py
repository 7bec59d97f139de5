"""How llama.cpp cuts texts into words by each kind of `tokenizer.ggml.pre`.

usage: make_words.py     writes words.json beside this file

One byte-level vocabulary, whose tokens go over the borders of words and are whole words without merges, shows where a text is cut and
whether words of the vocabulary are kept. For each kind there are the tokens of some texts by llama.cpp, with a start token if the kind has
one by default. Needs gguf, numpy, tokenizers, xllamacpp.
"""
import json, os, sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "python"))
from by_llama_cpp import tokens_of
from odd_texts import TEXTS, TRAINED_ON

# Those that the crate reads.
KINDS = ["default", "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "olmo", "mpt", "jais",
         "trillion", "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "llama3", "llama-v3", "llama-bpe", "falcon3",
         "falcon-h1", "pixtral", "midm-2.0", "lfm2", "dbrx", "smaug-bpe", "qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "hunyuan", "megrez",
         "falcon", "gpt-4o", "llama4", "tekken"]
MORE = ["1234567 12 1,234.5 3rd A5", "!!!??? a->b ==> c_d [x]{y} $5 <tag> 50% ~~", "Don't don'T IT'S we'Ll 's x'y", "a\n\nb\n c\r\n\td  \n\n e",
        "HTMLParser camelCase ABCdef", "東京123、京都。한국 กข ½", "'  end   ", "x__init__y ... `code`|pipe^hat", "hello pass main x Mos 1987\n"]
WHOLE = ["Ġpass", "Mos", "hello", "Ġ1987", "main"]

def vocabulary():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("\u0000", "removed"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    corpus = [text + " 12 123 1234 99 2020 ?! ... -> == \n\n \r\n\t don't IT'S" for text in TRAINED_ON + TEXTS + MORE] * 2
    made.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=620, min_frequency=2, max_token_length=5, special_tokens=["<|endoftext|>"],
                             initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    model = json.loads(made.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += [word for word in WHOLE if word not in model["vocab"]]
    return tokens, [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]

def by_llama_cpp(kind, tokens, merges, texts):
    def tokenizer(put):
        put.add_tokenizer_model("gpt2"); put.add_tokenizer_pre(kind); put.add_token_list(tokens); put.add_token_merges(merges)
        put.add_token_types([3] + [1] * (len(tokens) - 1)); put.add_bos_token_id(0); put.add_eos_token_id(0)
    return tokens_of(texts, tokenizer, len(tokens))

def main():
    tokens, merges = vocabulary()
    texts = MORE + TEXTS
    groups = {}
    for kind in KINDS:
        found = by_llama_cpp(kind, tokens, merges, texts)
        if found is None:
            print(f"llama.cpp does not know {kind}")
            continue
        groups.setdefault(json.dumps(found), []).append(kind)
    out = []
    for found, kinds in groups.items():
        print(" ".join(kinds))
        out.append(dict(kinds=kinds, ids=json.loads(found)[:len(MORE) + 40]))
    shown = texts[:len(MORE) + 40]
    json.dump(dict(tokens=tokens, merges=merges, texts=shown, groups=out), open(os.path.join(HERE, "words.json"), "w"), ensure_ascii=False, separators=(",", ":"))
    print(os.path.getsize(os.path.join(HERE, "words.json")) // 1024, "KiB")

main()
