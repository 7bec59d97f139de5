"""Subjects that must stay when a fact about another one is written."""

import torch

from ..errors import ModelError
from ..shipped import contrast_names
from .forward import Run
from .request import Request, prompt_tokens
from .texts import plain


class Nearest:
    """Finds the names whose keys are most like a subject's, at the lowest edited layer: no edit changes them there."""

    def __init__(self, layout, encoder, layer):
        self.layout, self.encoder, self.layer = layout, encoder, layer
        self.known = None

    def about(self, requests, beside, count):
        """For each request, the tokens of its bare prompt about `count` other subjects.

        beside: all requests that these names must not be in.
        """
        if count == 0:
            return [[] for _ in requests]
        said = plain(" | ".join(text for one in beside for text in (one.subject, one.target)))
        names, keys = self._known()
        free = torch.tensor([plain(name) not in said for name in names], device=keys.device)
        return [self._about_one(request, names, keys, free, count) for request in requests]

    def _about_one(self, request, names, keys, free, count):
        own = self._to_fact(Request(request.subject, "The name is {}", "so"))
        if own is None:
            return []
        cosines = keys @ self._unit([own])[0]
        order = torch.argsort(cosines, descending=True, stable=True).tolist()
        found = []
        for at in order:
            tokens = self._to_fact(request.about(names[at])) if free[at] else None
            if tokens is not None:
                found.append(tokens)
            if len(found) == count:
                break
        return found

    def _known(self):
        """The names, and their unit keys in a neutral text."""
        if self.known is None:
            texts = [(name, self._to_fact(Request(name, "The name is {}", "so"))) for name in contrast_names()]
            texts = [(name, tokens) for name, tokens in texts if tokens is not None]
            self.known = [name for name, _ in texts], self._unit([tokens for _, tokens in texts])
        return self.known

    def _unit(self, sequences):
        return torch.nn.functional.normalize(Run(self.layout, sequences).keys(self.layer), dim=1)

    def _to_fact(self, request):
        """The tokens up to the fact's. None if that would be the first of the text, or the model cannot read them."""
        try:
            tokens, position = prompt_tokens(self.encoder, "", request)
        except ModelError:
            return None
        return tokens[: position + 1] if 0 < position < self.layout.context else None
