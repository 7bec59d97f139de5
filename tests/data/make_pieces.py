"""Tokenizers of the kind of SentencePiece, and what they make of texts.

usage: make_pieces.py     writes pieces.json beside this file

Two vocabularies are trained by sentencepiece: as Llama has them (a space in front of every text) and as Gemma (none, runs of spaces, tokens
that users defined). For each there are the entries of a GGUF file and the tokens of some texts by llama.cpp, which must be those of
sentencepiece and of the tokenizer that transformers converts the model to, where a text has no special tokens. Needs sentencepiece, gguf,
numpy, tokenizers, transformers, xllamacpp.
"""
import io, json, os, sys
import sentencepiece
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "python"))
from by_llama_cpp import tokens_of
from odd_texts import TEXTS, TRAINED_ON

CORPUS = [line for text in [*TRAINED_ON, *TEXTS[:40]] for line in text.splitlines() if line.strip()] * 3
PROBES = ["The Eiffel Tower is in Paris.", " leading space", "two  spaces   three", "trailing ", "", "naïve Straße café 東京タワー 🙂 ½²",
          "tabs\tand\n\nlines\r\n", "a<s>b </s> c", "x<|user|> y", "don't 12345 1,234.5", "▁ is a mark", "<0x0A> is no byte", "한국 กรุงเทพ"]
KINDS = {
    "llama": dict(options=dict(add_dummy_prefix=True), defined=[]),
    "gemma": dict(options=dict(add_dummy_prefix=False), defined=["  ", "    ", "<|user|>", "\n\n"]),
}

def trained(options, defined):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=620, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, hard_vocab_limit=False,
        user_defined_symbols=[text.replace(" ", "▁") for text in defined], minloglevel=2, num_threads=1, **options)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

def entries(pieces):
    tokens, scores, types = [], [], []
    for i in range(pieces.get_piece_size()):
        piece, kind = pieces.id_to_piece(i), 1
        if pieces.is_unknown(i): kind = 2
        elif pieces.is_control(i): kind = 3
        elif pieces.is_byte(i): kind = 6
        # The converter of llama.cpp writes spaces in tokens that users defined.
        elif pieces.get_score(i) == 0 and i < 40 : kind, piece = 4, piece.replace("▁", " ")
        tokens.append(piece); scores.append(pieces.get_score(i)); types.append(kind)
    return tokens, scores, types

def by_llama_cpp(tokens, scores, types, space, texts):
    def tokenizer(put):
        put.add_tokenizer_model("llama"); put.add_tokenizer_pre("default"); put.add_token_list(tokens); put.add_token_scores(scores)
        put.add_token_types(types); put.add_add_space_prefix(space); put.add_bos_token_id(1); put.add_eos_token_id(2); put.add_unk_token_id(0)
    return tokens_of(texts, tokenizer, len(tokens))

def main():
    out = {}
    for name, kind in KINDS.items():
        pieces = trained(kind["options"], kind["defined"])
        tokens, scores, types = entries(pieces)
        space = kind["options"]["add_dummy_prefix"]
        texts = PROBES + TEXTS[:30]
        found = by_llama_cpp(tokens, scores, types, space, texts)
        special = [t for t, k in zip(tokens, types) if k in (2, 3, 4)]
        same = 0
        for text, ids in zip(texts, found):
            # sentencepiece takes the mark of a space for a space.
            if "▁" not in text and not any(one in text for one in special):
                own = pieces.encode(text)
                assert [1] + own == ids, (name, text, own, ids)
                same += 1
        print(f"{name}: {len(tokens)} tokens, {same} of {len(texts)} texts without special tokens, as sentencepiece has them")
        out[name] = dict(tokens=tokens, scores=scores, types=types, add_space_prefix=space, texts=texts, ids=found)
    json.dump(out, open(os.path.join(HERE, "pieces.json"), "w"), ensure_ascii=False)
    print(os.path.getsize(os.path.join(HERE, "pieces.json")) // 1024, "KiB")

main()
