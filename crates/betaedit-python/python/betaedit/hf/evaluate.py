"""What a model says at the prompts of facts."""

from collections.abc import Iterable

import torch

from ..errors import ModelError
from .forward import AT_ONCE, at_rest, call, hooked, padded
from .request import Request
from .texts import separator

#: Queries that are run at once, at most.
_QUERIES = 32


def evaluate(layout, encoder, facts):
    """Rates of the answers to facts, as dictionaries in files of facts have them.

    efficacy: at the prompt, every token of the new target is the argmax; generality: the same at paraphrases; specificity: at neighborhood
    prompts, every token of the true target. With `_prob`: the one target is more probable than the other. None where there is nothing to
    measure.
    """
    queries, meaning = [], []
    for fact in facts:
        request = Request.of(fact)
        fact = fact if isinstance(fact, dict) else {}
        truth = fact.get("target_true")
        truth = truth["str"] if isinstance(truth, dict) else truth
        for name, prompts in (("efficacy", [request.text()]), ("generality", fact.get("paraphrase_prompts", []))):
            for prompt in _list("paraphrases", prompts):
                _ask(queries, meaning, name, prompt, request.target, truth)
        for near in _list("neighborhood prompts", fact.get("neighborhood_prompts", [])):
            prompt, wanted = (near["prompt"], near["target_true"]) if isinstance(near, dict) else (near, truth)
            if wanted is not None:
                _ask(queries, meaning, "specificity", prompt, wanted, request.target)
    answers = score(layout, encoder, queries)
    rates = {}
    for name in ("efficacy", "generality", "specificity"):
        said = [answers[wanted][1] for kind, wanted, _ in meaning if kind == name]
        won = [answers[wanted][0] > answers[rival][0] for kind, wanted, rival in meaning if kind == name and rival is not None]
        rates[name] = sum(said) / len(said) if said else None
        rates[f"{name}_prob"] = sum(won) / len(won) if won else None
    return rates


def _list(what, prompts):
    if isinstance(prompts, (str, dict)) or not isinstance(prompts, Iterable):
        raise ModelError(f"the {what} of a fact are {prompts!r:.60}: expected a list")
    return prompts


def _ask(queries, meaning, name, prompt, wanted, rival):
    meaning.append((name, len(queries), None if rival is None else len(queries) + 1))
    queries += [(prompt, target) for target in (wanted, rival) if target is not None]


@torch.no_grad()
def score(layout, encoder, queries):
    """For each (prompt, target): the mean log-probability of the target's tokens, and whether each is the argmax."""
    encoded = []
    for prompt, target in queries:
        before = encoder.encode(prompt)
        whole = encoder.encode(f"{prompt}{separator(prompt)}{target.strip()}")
        start = next((at for at, (a, b) in enumerate(zip(before, whole)) if a != b), min(len(before), len(whole)))
        if not 0 < start < len(whole):
            raise ModelError(f"the tokenizer cannot tell the target `{target}` from the prompt `{prompt}`")
        encoded.append((whole, start))
    # Sequences of one length are run together.
    order = sorted(range(len(encoded)), key=lambda at: len(encoded[at][0]))
    answers = [None] * len(encoded)
    while order:
        at_once = max(1, min(_QUERIES, AT_ONCE // len(encoded[order[-1]][0])))
        part, order = order[:at_once], order[at_once:]
        for at, answer in zip(part, _score_part(layout, [encoded[at] for at in part]), strict=True):
            answers[at] = answer
    return answers


def _score_part(layout, encoded):
    model = layout.model
    tokens, mask = padded([whole[:-1] for whole, _ in encoded], model.get_input_embeddings().weight.device)
    rows = [row for row, (whole, start) in enumerate(encoded) for _ in range(start, len(whole))]
    at = [place - 1 for whole, start in encoded for place in range(start, len(whole))]
    wanted = torch.tensor([token for whole, start in encoded for token in whole[start:]])

    def select(_head, args):
        return (args[0][torch.tensor(rows, device=args[0].device), torch.tensor(at, device=args[0].device)][None],)

    with at_rest(model), hooked((model.get_output_embeddings().register_forward_pre_hook, select)):
        logits = torch.log_softmax(call(model, tokens, mask).logits[0].float(), -1).cpu()
    scores = logits[torch.arange(len(wanted)), wanted]
    right = logits.argmax(-1) == wanted
    done = 0
    for whole, start in encoded:
        count = len(whole) - start
        yield float(scores[done : done + count].mean()), bool(right[done : done + count].all())
        done += count


@torch.no_grad()
def perplexity(layout, encoder, text, tokens=4096):
    """The perplexity of a text's first tokens, in windows of 256."""
    own = encoder.bare(text)[:tokens]
    if len(own) < 2:
        raise ModelError(f"the text has {len(own)} tokens: the perplexity of 2 or more is measured")
    size = min(256, layout.context) - max(len(encoder.start), 1)
    begins = encoder.start or [encoder.tokenizer.bos_token_id or encoder.tokenizer.eos_token_id or own[0]]
    loss = count = 0
    for at in range(0, len(own), size):
        window = begins + own[at : at + size]
        ids, mask = padded([window], layout.model.get_input_embeddings().weight.device)
        with at_rest(layout.model):
            logits = call(layout.model, ids, mask).logits[0, :-1].float()
        wanted = torch.tensor(window[1:], device=logits.device)
        loss += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        count += len(window) - 1
    return float(torch.exp(torch.tensor(loss / count)))
