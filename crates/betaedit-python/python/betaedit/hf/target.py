"""The search for a target: an output of a block, or of its MLP, that makes the model give the new answer.

The loss, the descent and their settings are those of `llm::TargetSearch` in the Rust library:

    mean -log p(target)  +  naming mean -log p(subject)  +  divergence KL(p(next | subject) now || before)  +  decay |delta| / |v|²

Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, equation 16 and the published program. Two vectors (site "pmet"): Li et
al., "PMET: Precise Model Editing in a Transformer", AAAI 2024.
"""

from dataclasses import dataclass

import torch

from .. import NumericsError, Spectrum
from .._checks import number, positive, whole
from ..errors import ModelError
from .forward import at_rest, call, first_of, hooked, learn_returns, padded, passed_over, with_first
from .request import Request, prompt_tokens

#: Part of the median eigenvalue that is added to all, for directions without any gradient in a small sample.
_DAMPING = 0.3


@dataclass
class TargetSearch:
    """Settings of the search for a target.

    site: "block", "mlp" or "pmet". steps: evaluations at most. descent: "steepest" in steps of `step |v|`, or "adam" with `rate`, as the
    published programs. decay, divergence, naming: weights of the terms. clamp: bound on `|delta| / |v|`. enough: the first two terms at
    which the search ends. margin: the share by which the vector is lengthened. contexts: how many of the contexts are used. wording:
    "aside" or "as-given", after the first context.
    """

    site: str = "block"
    steps: int = 20
    descent: str = "steepest"
    step: float = 0.08
    rate: float = 0.5
    decay: float = 0.8
    divergence: float = 0.0625
    naming: float = 0.04
    clamp: float = 0.75
    enough: float = 0.05
    margin: float = 0.0
    contexts: int = 1
    wording: str = "aside"

    def __post_init__(self):
        words = {"site": ("block", "mlp", "pmet"), "descent": ("steepest", "adam"), "wording": ("aside", "as-given")}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise NumericsError(f"{name} `{getattr(self, name)}`: expected one of {', '.join(known)}")
        for name in ("step", "rate", "clamp"):
            positive(name, getattr(self, name))
        for name in ("decay", "divergence", "naming", "enough", "margin"):
            number(name, getattr(self, name))
        whole("steps", self.steps, 1)
        whole("contexts", self.contexts)

    def asked(self, encoder, surroundings, request):
        """A request in the places of a search."""
        worded = request.with_aside() if self.wording == "aside" else None
        return surroundings.asked(encoder, request, self.contexts, worded)

    def run(self, layout, encoder, surroundings, layer, request, sensitivity=None):
        """Finds the target of a request at a layer, on the model as it is now."""
        asked = [one for one, _ in self.asked(encoder, surroundings, request)]
        anchor = None
        if self.divergence > 0:
            about = Request(request.subject, "{} is a", request.target, request.token)
            tokens, position = prompt_tokens(encoder, "", about)
            anchor = (tokens[: position + 1], self.divergence)
        steering = Steering(layout, layer, self.site, asked, self.naming, anchor)
        return self._descend(steering, sensitivity)

    def _descend(self, steering, sensitivity):
        start = steering.outputs
        sizes = start.norm(dim=1)
        vectors = torch.zeros_like(start)
        best, reached, likelihood, losses = vectors.clone(), float("inf"), float("inf"), []
        slopes = torch.where(sizes > 0, self.decay / sizes.square(), torch.zeros_like(sizes))
        adam = _Adam(vectors, self.rate) if self.descent == "adam" else None
        while True:
            values, gradient = steering.evaluate(vectors, last=len(losses) + 1 == self.steps, enough=self.enough)
            lengths = vectors.norm(dim=1)
            loss = sum(values) + float((slopes * lengths).sum())
            if not abs(loss) < float("inf"):
                raise ModelError("the search for a target left the range of numbers: load the model in float32 or bfloat16")
            losses.append(loss)
            if values[0] + values[1] < reached:
                reached, likelihood, best = values[0] + values[1], values[0], vectors.clone()
            if reached < self.enough or len(losses) == self.steps:
                break
            inside = lengths > 0
            gradient[inside] += (slopes / lengths.clamp_min(1e-38))[inside, None] * vectors[inside]
            if adam is not None:
                vectors = adam.step(vectors, gradient)
            else:
                if sensitivity is not None:
                    gradient = gradient @ sensitivity.to(gradient.device)
                # The gradient by `delta / |v|`, in which vectors of outputs of any size are alike.
                length = float((sizes * gradient.norm(dim=1)).norm())
                if not length > 0:
                    break
                vectors = vectors - (self.step * sizes * (sizes / length))[:, None] * gradient
            vectors = self._bounded(vectors, sizes, 1.0)
        best = self._bounded(best, sizes, 1.0 + self.margin)
        return Target(start[0] + best[0], start[0], likelihood, losses)

    def _bounded(self, vectors, sizes, factor):
        """Vectors times a factor, or the factor that reaches their bounds if that is smaller."""
        lengths = vectors.norm(dim=1)
        bounds = self.clamp * sizes / lengths.clamp_min(1e-38)
        factors = torch.where(lengths > 0, bounds.clamp_max(factor), torch.ones_like(lengths))
        return vectors * factors[:, None]


@dataclass
class Target:
    """A target, and the course of its search. value: the output that is sought; start: the present one; both hidden numbers, float32.

    likelihood: the smallest mean `-log p` of the target's tokens. losses: of each evaluation.
    """

    value: torch.Tensor
    start: torch.Tensor
    likelihood: float
    losses: list


class _Adam:
    """Adam, as in the published programs."""

    def __init__(self, vectors, rate):
        self.mean, self.square, self.rate, self.steps = torch.zeros_like(vectors), torch.zeros_like(vectors), rate, 0

    def step(self, vectors, gradient):
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.999**self.steps)
        return vectors - self.rate * mean / (square.sqrt() + 1e-8)


class Steering:
    """The model above a block's output as a function of vectors that are added there, at some tokens of some sequences."""

    def __init__(self, layout, layer, site, asked, naming, anchor):
        self.layout, self.layer, self.site = layout, layer, site
        if site == "block" and layout.norm_behind:
            raise ModelError("a norm stands behind the MLP, so a block's output cannot be written into its matrix: use the site `mlp`")
        # The last token of a continuation predicts nothing.
        sequences = [list(one.tokens[:-1]) for one in asked] + ([list(anchor[0])] if anchor else [])
        model = layout.model
        self.tokens, self.mask = padded(sequences, model.get_input_embeddings().weight.device)
        self.closed = site == "block" or (site == "mlp" and not layout.norm_behind)
        self._places(asked, sequences, anchor)
        self._terms(asked, naming, anchor, len(sequences))
        self._prepare(asked, anchor)

    def _places(self, asked, sequences, anchor):
        """1 where vectors are added."""
        self.places = torch.zeros(*self.tokens.shape, 1)
        for row, one in enumerate(asked):
            self.places[row, list(one.positions)] = 1
        if anchor:
            self.places[-1, len(sequences[-1]) - 1] = 1

    def _terms(self, asked, naming, anchor, rows):
        """The tokens whose probability counts: row, place of the token before, token, weight; first those of the continuations."""
        terms = []
        for row, one in enumerate(asked):
            weight = 1 / len(asked) / (len(one.tokens) - one.start)
            terms += [(row, at - 1, one.tokens[at], weight) for at in range(one.start, len(one.tokens))]
        self.continued = len(terms)
        named = [(row, one) for row, one in enumerate(asked) if one.name[0] < one.name[1] and naming > 0]
        for row, one in named:
            weight = naming / len(named) / (one.name[1] - one.name[0])
            terms += [(row, at - 1, one.tokens[at], weight) for at in range(*one.name)]
        self.wanted = torch.tensor([token for _, _, token, _ in terms])
        self.weights = torch.tensor([weight for _, _, _, weight in terms])
        self.rows = [row for row, _, _, _ in terms] + ([rows - 1] if anchor else [])
        self.at = [at for _, at, _, _ in terms] + ([len(anchor[0]) - 1] if anchor else [])
        self.divergence = anchor[1] if anchor else 0.0

    @torch.no_grad()
    def _prepare(self, asked, anchor):
        seen = {}
        block, down = self.layout.blocks[self.layer], self.layout.down(self.layer)

        def keep(name):
            return lambda _module, _args, output: seen.__setitem__(name, first_of(output))

        def state(_block, args, kwargs):
            seen["input"] = args[0] if args else kwargs["hidden_states"]

        before = block.register_forward_pre_hook
        hooks = [learn_returns(self.layout), (block.register_forward_hook, keep("block")), (down.register_forward_hook, keep("mlp"))]
        hooks.append((lambda hook: before(hook, with_kwargs=True), state))
        if self.site == "pmet":
            hooks.append((self.layout.attention(self.layer).register_forward_hook, keep("attention")))
        with at_rest(self.layout.model), hooked(*hooks):
            logits = self._logits(None)
        self.below = seen["block"] if self.closed else seen["input"]
        device = seen["block"].device
        at = asked[0].first
        names = {"block": ["block"], "mlp": ["mlp"], "pmet": ["mlp", "attention"]}[self.site]
        self.outputs = torch.stack([seen[name][0, at].to(device).float() for name in names])
        self.places = self.places.to(device)
        self.reference = torch.log_softmax(logits[-1], -1) if anchor else None

    def _logits(self, _vectors):
        """The logits at the places of the terms, n x vocabulary, float32."""
        head = self.layout.model.get_output_embeddings()

        def select(_head, args):
            rows = torch.tensor(self.rows, device=args[0].device)
            return (args[0][rows, torch.tensor(self.at, device=args[0].device)][None],)

        with hooked((head.register_forward_pre_hook, select)):
            return call(self.layout.model, self.tokens, self.mask).logits[0].float()

    def evaluate(self, vectors, last=False, enough=0.0):
        """Likelihood, naming and divergence, and the gradient of their sum by the vectors, unless the search ends here."""
        vectors = vectors.detach().requires_grad_()

        def added(which, hidden):
            return hidden + (self.places.to(hidden.device) * vectors[which].to(hidden.device)).to(hidden.dtype)

        hooks, count, state = [], self.layer, lambda: self.below
        if self.closed:
            count, state = self.layer + 1, lambda: added(0, self.below)
        else:
            hooks.append((self.layout.down(self.layer).register_forward_hook, lambda _m, _a, out: added(0, out)))
            if self.site == "pmet":
                shift = lambda _m, _a, out: with_first(out, added(1, first_of(out)))  # noqa: E731
                hooks.append((self.layout.attention(self.layer).register_forward_hook, shift))
        with torch.enable_grad(), at_rest(self.layout.model), hooked(*hooks), passed_over(self.layout, count, state):
            logits = torch.log_softmax(self._logits(vectors), -1)
            device = logits.device
            wanted = self.wanted.to(device)
            terms = -self.weights.to(device) * logits[torch.arange(len(wanted), device=device), wanted]
            likelihood, naming = terms[: self.continued].sum(), terms[self.continued :].sum()
            divergence = logits.new_zeros(())
            if self.reference is not None:
                now = logits[-1]
                divergence = self.divergence * (now.exp() * (now - self.reference.to(device))).sum()
            values = [float(part.detach()) for part in (likelihood, naming, divergence)]
            if last or values[0] + values[1] < enough:
                return values, torch.zeros_like(vectors)
            (gradient,) = torch.autograd.grad(likelihood + naming + divergence, vectors)
        return values, gradient.detach()


def sensitivity(gradients, exponent=0.5):
    """`(G + e I)^-exponent` with a mean eigenvalue of about 1, hidden x hidden, float32: where the model is sensitive.

    gradients: the `SecondMoment` of the loss's gradients by the output. e is 0.3 times the median eigenvalue.
    """
    spectrum = Spectrum(gradients)
    values, vectors = torch.from_numpy(spectrum.values), torch.from_numpy(spectrum.vectors)
    damping, mean = _DAMPING * values[len(values) // 2], values.mean()
    if not mean > 0:
        raise NumericsError("the gradients are all zero: collect them over a text that the model can read")
    factors = ((values.clamp_min(0) + damping) / (mean + damping)) ** -exponent
    return ((vectors * factors) @ vectors.T).float()
