"""Facts to write, and their prompts as tokens."""

from dataclasses import dataclass

from ..errors import ModelError
from .texts import chat_lead, separator

#: True of any subject, and no hint of any target.
_ASIDE = ", as everyone knows,"
#: Stands for the message while a chat template is rendered.
_MARK = "betaedit-message"


@dataclass(frozen=True)
class Request:
    """A fact to write: after the prompt about the subject, the model should say the target.

    prompt: a text with one `{}` in the place of the subject. token: where the fact is written, "subject-last" or "prompt-last".
    """

    subject: str
    prompt: str
    target: str
    token: str = "subject-last"

    def __post_init__(self):
        for name in ("subject", "prompt", "target"):
            if not isinstance(getattr(self, name), str):
                raise ModelError(f"a fact's {name} is {getattr(self, name)!r}: expected a text")
        if not self.subject.strip() or not self.target.strip():
            raise ModelError(f"the request about `{self.subject}`: subject and target must not be empty")
        if self.prompt.count("{}") != 1:
            problem = f"the prompt `{self.prompt}` has {self.prompt.count('{}')} places `{{}}` for the subject, expected 1"
            raise ModelError(f"the request about `{self.subject}`: {problem}")
        if self.token not in ("subject-last", "prompt-last"):
            raise ModelError(f"token `{self.token}`: expected subject-last or prompt-last")

    @classmethod
    def of(cls, fact, token="subject-last"):
        """From a request, a dictionary as in files of facts, or (subject, prompt, target)."""
        if isinstance(fact, cls):
            return fact
        if isinstance(fact, dict):
            fact = fact.get("requested_rewrite", fact)
            named = [name for name in ("target_new", "target") if name in fact]
            if not named or "subject" not in fact or "prompt" not in fact:
                raise ModelError(f"a fact needs `subject`, `prompt` and `target` (or `target_new`); this one has {sorted(fact)}")
            target = fact[named[0]]
            if len(named) == 2 and target != fact["target"]:
                raise ModelError(f"a fact has two targets: `target_new` is {target!r}, `target` is {fact['target']!r}")
            if isinstance(target, dict):
                if "str" not in target:
                    raise ModelError(f"a fact's {named[0]} is {target!r:.60}: expected a text, or a dictionary with it as `str`")
                target = target["str"]
            return cls(fact["subject"], fact["prompt"], target, token)
        if not isinstance(fact, (tuple, list)) or len(fact) != 3:
            raise ModelError(f"{fact!r} is no fact: expected a dictionary, or (subject, prompt, target)")
        return cls(*fact, token)

    def text(self):
        """The prompt with the subject in it."""
        return self.prompt.replace("{}", self.subject)

    def about(self, subject):
        """The same of another subject."""
        return Request(subject, self.prompt, self.target, self.token)

    def around_subject(self):
        before, after = self.prompt.split("{}")
        return before, after

    def with_aside(self):
        """With an aside after the subject, where words of the prompt follow it; else None."""
        before, after = self.around_subject()
        if not after.startswith(" ") or not after.strip():
            return None
        return Request(self.subject, f"{before}{{}}{_ASIDE}{after}", self.target, self.token)


class Encoder:
    """A tokenizer as facts need it: texts with what stands in front of every text, and without."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.start = self._start()
        self.frame = self._frame()

    def bare(self, text):
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, text):
        """A text with its start, without what a tokenizer puts behind it."""
        return self.start + self.bare(text)

    def _start(self):
        for probe in ("a", "x y", "1", "."):
            own, whole = self.bare(probe), list(self.tokenizer(probe)["input_ids"])
            places = [at for at in range(len(whole) + 1 - len(own)) if own and whole[at : at + len(own)] == own]
            # A text that is a special token itself tells nothing.
            if len(places) == 1:
                return whole[: places[0]]
        return []

    def chat(self, messages, answer_follows):
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=answer_follows, tokenize=False)
        return text if isinstance(text, str) else text[0]

    def _frame(self):
        """What a chat puts around a user's message, if there is a template that leaves a message as it is."""
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        try:
            text = self.chat([{"role": "user", "content": _MARK}], True)
        except Exception:  # noqa: BLE001 - templates are programs: one that refuses this has no use here
            return None
        before, mark, after = text.partition(_MARK)
        return (before, after) if mark and _MARK not in after else None

    def sentence(self, sentence):
        """The tokens of a chat in which a user begins a sentence and the model says the whole of it."""
        words = sentence.split()
        begun = " ".join(words[: (len(words) + 1) // 2])
        messages = [{"role": "user", "content": begun}, {"role": "assistant", "content": sentence}]
        return self.bare(self.chat(messages, False))

    def common(self, tokens, part):
        """How many of some tokens those of a part of their text have in common with them."""
        return _common(tokens, self.bare(part))

    def last_of(self, tokens, part):
        """The last token of a part of a text. Where its end and what follows share a token, that is the one."""
        own = self.bare(part)
        return min(_common(tokens, own), max(len(own) - 1, 0))


def _common(tokens, part):
    for at, (a, b) in enumerate(zip(tokens, part)):
        if a != b:
            return at
    return min(len(tokens), len(part))


@dataclass(frozen=True)
class Asked:
    """A request's prompt in one of its places, and its target behind it.

    positions: the fact's tokens, where vectors are added, ascending; the key is that of the last. start: where the target starts. name:
    the tokens of the subject's name, where the model says it itself.
    """

    tokens: tuple
    positions: tuple
    start: int
    name: tuple = (0, 0)

    @property
    def first(self):
        return self.positions[0]

    @property
    def last(self):
        return self.positions[-1]


def prompt_tokens(encoder, opening, request, continuation=""):
    """The tokens of a prompt between an opening and a continuation, and the index of the fact's token."""
    before, after = request.around_subject()
    before = opening + before
    tokens = encoder.encode(f"{before}{request.subject}{after}{continuation}")
    to_subject = encoder.encode(f"{before}{request.subject}")
    if len(to_subject) <= len(encoder.start):
        raise ModelError(f"the request about `{request.subject}`: the tokenizer makes no token of the subject")
    part = to_subject if request.token == "subject-last" else encoder.encode(f"{before}{request.subject}{after}")
    return tokens, min(_common(tokens, part), len(part) - 1)


def in_text(encoder, opening, request):
    """Behind an opening, as continued text."""
    prompt, target = encoder.encode(opening + request.text()), request.target.strip()
    tokens, position = prompt_tokens(encoder, opening, request, separator(request.text()) + target)
    start = _common(tokens, prompt)
    if start <= position or start >= len(tokens):
        raise ModelError(f"the request about `{request.subject}`: the tokenizer cannot tell the target from what is before it")
    return Asked(tuple(tokens), (position,), start)


def in_question(encoder, request):
    """In a user's message. The model answers with the target."""
    prompt, (before, after) = request.text(), encoder.frame
    user = before + chat_lead(prompt)
    answer = f"{user}{prompt}{after}"
    tokens = encoder.bare(answer + request.target.strip())
    return _checked(request, tokens, (_position(encoder, tokens, user, request),), encoder.common(tokens, answer))


def in_answer(encoder, request):
    """In a user's message, and again in the model's answer, which says the whole sentence. Questions are answered with the target."""
    prompt, (before, after) = request.text(), encoder.frame
    lead = chat_lead(prompt)
    if not lead:
        return in_question(encoder, request)
    user = before + lead
    answer = f"{user}{prompt}{after}"
    to_target = f"{answer}{prompt}{separator(prompt)}"
    tokens = encoder.bare(to_target + request.target.strip())
    said = _position(encoder, tokens, answer, request)
    name = (encoder.common(tokens, (answer + request.around_subject()[0]).rstrip(" ")), said + 1)
    positions = (_position(encoder, tokens, user, request), said)
    return _checked(request, tokens, positions, encoder.common(tokens, to_target.rstrip(" ")), name)


def _position(encoder, tokens, before, request):
    """The token of a request in a text, which has the prompt behind `before`."""
    opening, closing = request.around_subject()
    to = before + opening + request.subject
    return encoder.last_of(tokens, to if request.token == "subject-last" else to + closing)


def _checked(request, tokens, positions, start, name=(0, 0)):
    ascending = all(a < b for a, b in zip(positions, positions[1:]))
    if not (ascending and positions[-1] < start < len(tokens)):
        problem = "the tokenizer cannot tell the target from what is before it in a chat"
        raise ModelError(f"the request about `{request.subject}`: {problem}")
    return Asked(tuple(tokens), positions, start, name)
