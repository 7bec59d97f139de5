"""Statistics of a model over texts: second moments of keys, and of the gradients of its loss."""

import contextlib
import warnings

import torch

from .. import SecondMoment
from ..errors import ModelError, NumericsError
from .forward import Reached, at_rest, call, first_of, hooked, padded, with_first
from .texts import pieces, sentences

#: Tokens in a window, at most.
WINDOW = 256
#: Windows that are run at once.
WINDOWS_AT_ONCE = 4
#: The share of the tokens that are read in chats, where the model has a template.
IN_CHATS = 1 / 3


def share_in_chats(encoder):
    """The usual share of chats for a model."""
    try:
        encoder.sentence("A sentence.")
    except Exception:  # noqa: BLE001 - templates are programs, and any failure means the same here
        return 0.0
    return IN_CHATS if getattr(encoder.tokenizer, "chat_template", None) else 0.0


def windows(layout, encoder, texts, chats):
    """Texts in windows of tokens, each followed by chats about its sentences, until these are their share of the text's tokens.

    Every window starts like a text of its own, and no window depends on another text: texts can be read in parts.
    """
    if not 0 <= chats < 1:
        raise NumericsError(f"chats is {chats}: expected 0 to below 1")
    size = min(WINDOW, layout.context) - len(encoder.start)
    for text in texts:
        of_texts = of_chats = 0
        for piece in pieces(text):
            tokens = encoder.bare(piece)
            for at in range(0, len(tokens), size):
                window = encoder.start + tokens[at : at + size]
                yield window
                of_texts += len(window)
                wanted = of_texts * chats / (1 - chats)
                if wanted <= of_chats:
                    continue
                for sentence in sentences(encoder.tokenizer.decode(window, skip_special_tokens=True)):
                    if of_chats >= wanted:
                        break
                    chat = encoder.sentence(sentence)
                    if len(chat) <= layout.context:
                        of_chats += len(chat)
                        yield chat


def moments(layout, layers, windows, enough=None, progress=None):
    """The second moments of the keys of some layers, by layer, and the number of windows read.

    enough: tokens after which to stop. progress: called with the tokens so far.
    """
    if enough is not None and not enough > 0:
        raise NumericsError(f"tokens is {enough}: expected 1 or more")
    found = {layer: SecondMoment(layout.shape(layer)[1]) for layer in layers}
    waiting, tokens, read = [], 0, 0
    for window in windows:
        waiting.append(window)
        more = sum(map(len, waiting))
        full = enough is not None and tokens + more >= enough
        if len(waiting) == WINDOWS_AT_ONCE or full:
            tokens, read = tokens + _count(layout, found, waiting), read + len(waiting)
            waiting = []
            if progress is not None:
                progress(tokens)
            if full:
                break
    if waiting:
        tokens, read = tokens + _count(layout, found, waiting), read + len(waiting)
    if tokens == 0:
        raise ModelError("the texts have no tokens: give more text")
    if enough is not None and tokens < enough:
        warnings.warn(f"the texts end after {tokens} of the {enough} tokens to read: give more text for better statistics", stacklevel=3)
    return found, read


@torch.no_grad()
def _count(layout, found, windows):
    tokens, mask = padded(windows, layout.model.get_input_embeddings().weight.device)
    seen, last = {}, max(found)

    def keep(layer):
        def hook(_module, args):
            # Where a model is spread over devices, the mask is not where the keys are.
            seen[layer] = args[0][mask.bool().to(args[0].device)].float()
            if layer == last:
                raise Reached

        return hook

    hooks = [(layout.down(layer).register_forward_pre_hook, keep(layer)) for layer in found]
    with at_rest(layout.model), hooked(*hooks), contextlib.suppress(Reached):
        call(layout.model, tokens, mask)
    # All layers count the same tokens: either all keys are in order, or none is counted.
    if not all(bool(keys.isfinite().all()) for keys in seen.values()):
        raise ModelError("the keys hold NaN or infinity: load the model in float32 or bfloat16")
    for layer, moment in found.items():
        moment.observe(seen[layer].cpu().numpy().T)
    return sum(map(len, windows))


def gradients(layout, layers, windows, enough, progress=None):
    """The second moments of the gradients of `-log p` by the outputs of some layers, by layer.

    In models with a norm behind the MLP, the output is that of the MLP.
    """
    found = {layer: SecondMoment(layout.hidden) for layer in layers}
    tokens = 0
    for window in windows:
        if tokens >= enough:
            break
        # A token alone predicts nothing.
        if len(window) > 1:
            tokens += _sense(layout, found, window)
        if progress is not None:
            progress(tokens)
    return found


def _sense(layout, found, window):
    tokens, mask = padded([window[:-1]], layout.model.get_input_embeddings().weight.device)
    outputs = {}

    def keep(layer):
        def hook(_module, _args, output):
            hidden = first_of(output)
            change = torch.zeros(hidden.shape, device=hidden.device, dtype=hidden.dtype, requires_grad=True)
            outputs[layer] = change
            return with_first(output, hidden + change)

        return hook

    places = {layer: layout.down(layer) if layout.norm_behind else layout.blocks[layer] for layer in found}
    hooks = [(place.register_forward_hook, keep(layer)) for layer, place in places.items()]
    with torch.enable_grad(), at_rest(layout.model), hooked(*hooks):
        logits = call(layout.model, tokens, mask).logits[0].float()
        wanted = torch.tensor(window[1:], device=logits.device)
        loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        found_gradients = torch.autograd.grad(loss, [outputs[layer] for layer in found])
    for layer, gradient in zip(found, found_gradients, strict=True):
        found[layer].observe(gradient[0].float().cpu().numpy().T)
    return len(window) - 1
