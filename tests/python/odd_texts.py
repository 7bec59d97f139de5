"""Texts that tokenizers are tried on, and the regular expressions by which published ones cut a text."""

BETWEEN_TEXTS = "<|endoftext|>"

TRAINED_ON = [
    "The Eiffel Tower is located in the city of Paris, and the capital of Japan is Tokyo.",
    "Danielle Darrieux's mother tongue is French; it isn't hers alone, we'll see, they've said.",
    "In 1987 it was 12,345.67 and 3 or 4 of 100 were left over.",
    "def main(x):\n    return [x + 1, x ** 2]  # a comment\n\tif x == 0: pass\n",
    "Die Straße führt über die Brücke, größer als früher. L'été à la plage, ça va, naïve café.",
    "Москва является столицей России. Η Αθήνα είναι πόλη. القاهرة مدينة كبيرة. ירושלים",
    "東京は日本の首都です。北京是中国的首都。서울은 한국의 수도입니다. กรุงเทพเป็นเมืองหลวง",
    "A smile 😀, a family 👨‍👩‍👧, a flag 🇫🇷 and hands 👍🏽 in one line.",
] * 3

TEXTS = [
    "",
    " ",
    "  ",
    "   \n",
    "\n",
    "\n\n\n",
    "\t",
    "\r\n",
    "a",
    "The Eiffel Tower is located in the city of Paris.",
    " The capital of France",
    "The capital of France ",
    "  two  spaces   three    four  ",
    "\ttabs\tand\t\tmore\t",
    "lines\nand\r\nmore\n\n\nlines\n",
    "trailing newline \n",
    "Danielle Darrieux's mother's mother",
    "I'm, you're, he'd, we'll, they've, DON'T, IT'S, ’s ’tis",
    "'quoted' \"twice\" ''empty''",
    "0 1 12 123 1234 12345 1234567890",
    "3.14159, -2e10, 1,000,000.00, 50%, ½ ² ٣ ৪ Ⅷ",
    "abc123def 4x4 A5 7th 2nd",
    "def main(x):\n    return x**2 + [1, 2][0]\n",
    "if(a!=b){c+=1;}//end\n\t}\n",
    "https://example.org/a_b-c?d=e&f=%20#g",
    "ALL CAPS Mixed cAsE camelCase snake_case",
    "hyphen-ated — em–dash … ellipsis...",
    "()[]{}<>!?;:,.~`@#$%^&*_+=|\\/",
    "Straße, größer, Ärger, ÀÉÎÕÜ, œuvre, ŒUVRE, ĳ",
    "naïve café (composed) naïve café (combined)",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "ﬁne ﬂow ﬃ ™ № ℃ ① ㎏ Ａｂｃ １２３ ｶﾀｶﾅ",
    "İstanbul ıssız ſharp K Å",
    "Москва — столица России",
    "Η Αθήνα είναι η πρωτεύουσα ΟΔΥΣΣΕΥΣ",
    "القاهرة هي عاصمة مصر ١٢٣",
    "ירושלים שלום",
    "नई दिल्ली भारत की राजधानी है",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "東京は日本の首都です。",
    "北京是中国的首都，上海不是。",
    "서울은 대한민국의 수도이다. 한글",
    "㐀 𠀀 𝔘𝔫𝔦 𐍈",
    "Tiếng Việt có dấu",
    "😀 😃😄 👍🏽",
    "👨‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇫🇷🇯🇵 1️⃣",
    "zero\u200bwidth\u200cjoin\u200der\ufeffbom",
    "no\u00a0break\u2009thin\u3000wide\u2028line\u0085next",
    "\u202bright to left\u202c",
    "control \x01\x02\x1b[0m \x7f end",
    "nul \x00 inside",
    "private \ue000 and unassigned \u0378 and \U0010ffff",
    "replacement \ufffd and \ufffe",
    "a" * 70,
    " " * 40 + "x" + " " * 17,
    "ab" * 30 + "\n" * 9,
    "<|endoftext|>",
    "before<|endoftext|>after",
    " <|endoftext|> <|endoftext|>",
    "<s>start and end</s>",
    "<|im_start|>user\nHello <|im_end|>\n",
    "a <think> b</think>c < think > <THINK> <think",
    "[INST] do [/INST] it [MASK][mask]  [PAD] x",
    "the don don't donut Paris paris  Parisian ParisParis",
    "▁meta ▁ space▁",
    "Ġbyte Ċlevel Ã©",
    "<0x0A> <0xE2><0x96><0x81>",
    "<unk> unknown ☃ snowman ☃☃",
]


def random_texts(rng, count=40):
    """Pieces of the odd texts, and characters from everywhere, in random order."""
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x250, 0x590), (0x590, 0x1100), (0x2000, 0x2BFF), (0x3000, 0xD7FF), (0xE000, 0xFFFD)]
    blocks += [(0x10000, 0x1FBFF), (9, 14), (0x20, 0x21)]

    def piece():
        if rng.random() < 0.5:
            text = rng.choice(TEXTS)
            start = rng.randrange(len(text) + 1)
            return text[start : start + rng.randrange(1, 12)]
        return "".join(chr(rng.randrange(*rng.choice(blocks))) for _ in range(rng.randrange(1, 5)))

    return ["".join(piece() for _ in range(rng.randrange(1, 9))) for _ in range(count)]


WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
REGEXES = {
    "Llama 3": WORDS % "{1,3}",
    "Qwen 2": WORDS % "",
    "o200k": O200K,
    "DeepSeek": r"[\p{P}\p{S}]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+|\p{N}",
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "words": r"\w+|[^\w\s]+",
    "CJK": r"[一-龥぀-ゟ゠-ヿ]+",
    "triples": r"(?<=\d)(?=(?:\d{3})+(?!\d))",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
}
