"""Texts to put before prompts, written by the model itself."""

import torch

from .forward import at_rest

#: How they begin, in turn.
_BEGINNINGS = ("The", "Therefore", "Because", "I", "You")


@torch.no_grad()
def generated(model, tokenizer, encoder, count, length, seed):
    """Texts of about `length` tokens, each token one of the five most probable."""
    chance = torch.Generator().manual_seed(seed)
    ends = model.generation_config.eos_token_id if model.can_generate() else tokenizer.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    texts = []
    for at in range(count):
        tokens = encoder.encode(_BEGINNINGS[at % len(_BEGINNINGS)])
        device = model.get_input_embeddings().weight.device
        for _ in range(length - 1):
            with at_rest(model):
                logits = model(input_ids=torch.tensor([tokens], device=device), use_cache=False).logits[0, -1]
            best = logits.float().cpu().topk(5)
            token = int(best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=chance)])
            if token in ends:
                break
            tokens.append(token)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        # Braces would be taken for the place of the subject elsewhere, and lines end texts.
        texts.append(" ".join(text.replace("{", " ").replace("}", " ").split()))
    return texts
