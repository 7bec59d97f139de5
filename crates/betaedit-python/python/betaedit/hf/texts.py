"""Words and continuations, in scripts with and without spaces."""

import io
import unicodedata

#: How the names of characters begin in scripts that put no spaces between words.
_WITHOUT_SPACES = (
    "CJK ", "HIRAGANA ", "KATAKANA", "BOPOMOFO ", "YI ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ",
    "JAVANESE ", "BALINESE ", "TAI LE ", "TAI THAM ", "HALFWIDTH KATAKANA",
)  # fmt: skip
_OPENING = "([{<“‘«‹„‚"
_MARKS = ".!?\n\u3002"
#: The length in bytes of a sentence that is neither very short nor very long.
_LENGTHS = range(40, 240)
#: Texts are read in pieces of whole lines of about so many bytes.
_PIECE = 1 << 16


def separator(prompt):
    """What stands between a prompt and its target: a space, or nothing where the prompt's script or last character wants none."""
    if not prompt:
        return ""
    last = prompt[-1]
    letter = next((c for c in reversed(prompt) if c.isalnum()), "")
    before = prompt[-2:-1]
    straight = last in "\"'" and (not before or before.isspace() or before in _OPENING)
    wide = "\u3000" <= last <= "\u303f" or "\uff00" <= last <= "\uff65"
    without = unicodedata.name(letter, "").startswith(_WITHOUT_SPACES) if letter else False
    return "" if last.isspace() or wide or without or last in _OPENING or straight else " "


def chat_lead(prompt):
    """What is said in front of a prompt in a chat. A question needs nothing."""
    return "" if prompt.rstrip().endswith(("?", "？", "؟")) else "Complete the sentence: "


def plain(text):
    """A text without differences of case, width, composition and spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def sentences(text):
    """The sentences of a text that are neither very short nor very long, without its first and its last, which may be cut."""
    ends = [at + 1 for at, c in enumerate(text) if c in _MARKS]
    for start, end in zip(ends, ends[1:]):
        sentence = text[start:end].strip()
        if len(sentence.encode()) in _LENGTHS:
            yield sentence


def pieces(text):
    """A text in parts of whole lines, so that only the part of a long text that is read is tokenized."""
    part, size = [], 0
    for line in io.StringIO(text, newline="\n"):
        part.append(line)
        size += len(line.encode())
        if size > _PIECE:
            yield "".join(part)
            part, size = [], 0
    if part:
        yield "".join(part)
