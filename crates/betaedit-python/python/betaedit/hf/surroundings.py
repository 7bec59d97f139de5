"""The places in which a fact is asked for, and the subjects beside it that must stay."""

from dataclasses import dataclass, field

from .._checks import number, positive, whole
from ..errors import ModelError
from .request import in_answer, in_question, in_text

#: From this number of facts on that are written together, they share the weight of the subjects that must stay.
_ALONE = 1.5


@dataclass
class Surroundings:
    """Where a fact is written. `docs/experiments.md` has what each of these gives and costs.

    places: names ("plain", "context", "user", "answer") with the weights of their keys. keys: "each", or "mean" as in the published
    programs. contrast: how many subjects that must stay are written with each fact. contrast_weight: the weight of their keys.
    contexts: texts to put before a prompt.
    """

    contexts: list = field(default_factory=list)
    places: dict = field(default_factory=lambda: {"plain": 1.0, "context": 1.5, "answer": 0.5})
    keys: str = "each"
    contrast: int = 16
    contrast_weight: float = 10.0

    def __post_init__(self):
        known = ("plain", "context", "user", "answer")
        named = isinstance(self.places, dict) and len(self.places) > 0 and all(place in known for place in self.places)
        if not named:
            raise ModelError(f"places {self.places}: expected a dictionary of some of {', '.join(known)}, with their weights")
        for place, weight in self.places.items():
            positive(f"the weight of {place}", weight)
        whole("contrast", self.contrast)
        number("contrast_weight", self.contrast_weight)
        if self.keys not in ("each", "mean"):
            raise ModelError(f"keys `{self.keys}`: expected each or mean")

    def contrast_weight_among(self, facts):
        """The weight of the keys of subjects that must stay, beside so many facts that are written together."""
        return self.contrast_weight * min(_ALONE / facts, 1.0) if facts else self.contrast_weight

    def asked(self, encoder, request, most=None, worded=None):
        """A request in its places, with their weights; of the contexts at most `most`, the first of them in other words."""
        openings = [f"{text}. " for text in self.contexts[:most]]
        asked = []
        for place, weight in self.places.items():
            if place == "plain":
                asked.append((in_text(encoder, "", request), weight))
            elif place == "context":
                for at, opening in enumerate(openings):
                    one = worded if worded is not None and at == 0 else request
                    asked.append((in_text(encoder, opening, one), weight / len(openings)))
            elif encoder.frame is not None:
                inside = in_question if place == "user" else in_answer
                asked.append((inside(encoder, request), weight))
        # The key of the first token is the same for all subjects: a fact that is written there would be one about all of them.
        if any(one.first > 0 for one, _ in asked):
            asked = [(one, weight) for one, weight in asked if one.first > 0]
        if not asked:
            problem = "there is no place to write it (chats need a chat template, contexts need texts)"
            raise ModelError(f"the request about `{request.subject}`: {problem}")
        return asked

    def own_key(self, rows):
        """The rows of a request's own key, with their weights in it. rows: (row, weight) of its places."""
        used = rows[:1] if self.keys == "each" else rows
        whole = sum(weight for _, weight in used)
        return [(row, weight / whole) for row, weight in used]

    def further_keys(self, rows, contrast, contrast_weight):
        """Further rows: (row, scale, multiple of the residual). A key that counts `w` times as often is scaled by `sqrt(w)`."""
        own = rows[0][1]
        further = [(row, (weight / own) ** 0.5, (weight / own) ** 0.5) for row, weight in rows[1:] if self.keys == "each"]
        return further + [(row, contrast_weight**0.5, 0.0) for row in contrast]
