"""Runs of a model's blocks, by hooks: keys and outputs at some tokens, from a block on, up to a block."""

import contextlib

import torch

#: Numbers of tokens, with padding, that are run at once.
AT_ONCE = 4096


class Reached(Exception):
    """The layer that was asked for has been reached: the rest of the model is not run."""


def first_of(output):
    """The hidden states in what a block takes or returns."""
    return output[0] if isinstance(output, tuple) else output


def with_first(output, hidden):
    """What a block or a part of it returns, with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextlib.contextmanager
def hooked(*hooks):
    """Hooks for as long as a run takes: pairs of a method that registers one, and the hook."""
    handles = []
    try:
        for register, hook in hooks:
            handles.append(register(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def at_rest(model):
    """The model without dropout, as long as it is asked."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextlib.contextmanager
def passed_over(layout, count, hidden):
    """The first `count` blocks do nothing, and the last of them returns `hidden()`: a run goes on from a known state."""
    blocks = list(layout.blocks[:count])
    # An object's own `forward`, as accelerate sets it, is put back; else that of its class shows again.
    own = [block.__dict__.get("forward") for block in blocks]
    try:
        for at, block in enumerate(blocks):
            block.forward = _passing(layout, hidden if at == count - 1 else None)
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward


def _passing(layout, hidden):
    def forward(*args, **kwargs):
        passed = (args[0] if args else kwargs["hidden_states"]) if hidden is None else hidden()
        return (passed,) if layout.returns_tuples else passed

    return forward


def learn_returns(layout):
    """The hook that finds out whether blocks return tuples, which depends on the version of transformers."""

    def learn(_block, _args, output):
        layout.returns_tuples = isinstance(output, tuple)

    return (layout.blocks[0].register_forward_hook, learn)


def padded(sequences, device):
    """Sequences as a batch, padded on the right, with its mask: what stands behind a token has no effect on it."""
    length = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), length, dtype=torch.long)
    mask = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
    return tokens.to(device), mask.to(device)


def call(model, tokens, mask):
    """Runs a model."""
    return model(input_ids=tokens, attention_mask=mask, use_cache=False)


def chunks(sequences):
    """Ranges of sequences that are run at once."""
    start, longest = 0, 0
    for at, sequence in enumerate(sequences):
        longest = max(longest, len(sequence))
        if at > start and longest * (at + 1 - start) > AT_ONCE:
            yield range(start, at)
            start, longest = at, len(sequence)
    if sequences:
        yield range(start, len(sequences))


class Run:
    """Some sequences on their way up through the blocks. What is below the present layer is not run again."""

    def __init__(self, layout, sequences):
        self.layout = layout
        self.device = layout.model.get_input_embeddings().weight.device
        self.parts = [
            _Part(*padded([sequences[at] for at in part], self.device), [len(sequences[at]) for at in part])
            for part in chunks(sequences)
        ]
        self.layer = 0

    @torch.no_grad()
    def keys(self, layer):
        """The keys at the last token of every sequence: the input of the layer's edited matrix, n x d_in, float32."""
        found = []
        for part in self.parts:
            seen = {}

            def key(_module, args, seen=seen):
                seen["key"] = args[0]
                raise Reached

            def state(_block, args, kwargs, seen=seen):
                seen["state"] = args[0] if args else kwargs["hidden_states"]

            hooks = [(self.layout.down(layer).register_forward_pre_hook, key)]
            if layer > 0:
                register = self.layout.blocks[layer].register_forward_pre_hook
                hooks.append((lambda hook, register=register: register(hook, with_kwargs=True), state))
            self._go(part, hooks)
            if layer > 0:
                part.state = seen["state"]
            found.append(seen["key"][part.rows.to(seen["key"].device), part.last.to(seen["key"].device)].float())
        self.layer = layer
        return torch.cat([one.to(self.device) for one in found])

    @torch.no_grad()
    def outputs(self, last, site, places):
        """What the last edited layer puts out at some places, n x hidden, float32.

        places: (sequence, token), in the order of the sequences.
        """
        found, first = [], 0
        for part in self.parts:
            inside = [(row - first, at) for row, at in places if first <= row < first + len(part.tokens)]
            first += len(part.tokens)
            if not inside:
                continue
            seen = {}

            def output(_module, _args, output, seen=seen):
                seen["output"] = first_of(output)
                raise Reached

            module = self.layout.blocks[last] if site == "block" else self.layout.down(last)
            self._go(part.some([row for row, _ in inside]), [(module.register_forward_hook, output)])
            out = seen["output"]
            at = torch.tensor([at for _, at in inside], device=out.device)
            found.append(out[torch.arange(len(inside), device=out.device), at].float().to(self.device))
        return torch.cat(found)

    def _go(self, part, hooks):
        count = self.layer if part.state is not None else 0
        if count == 0:
            hooks = [learn_returns(self.layout), *hooks]
        with at_rest(self.layout.model), hooked(*hooks), passed_over(self.layout, count, lambda: part.state):
            with contextlib.suppress(Reached):
                call(self.layout.model, part.tokens, part.mask)


class _Part:
    """Sequences that are run at once. state: the input of the present layer, if that is above the lowest."""

    def __init__(self, tokens, mask, lengths, state=None):
        self.tokens, self.mask, self.lengths, self.state = tokens, mask, lengths, state
        self.rows = torch.arange(len(lengths), device=tokens.device)
        self.last = torch.tensor(lengths, device=tokens.device) - 1

    def some(self, rows):
        """Some of the sequences."""
        state = self.state[rows] if self.state is not None else None
        return _Part(self.tokens[rows], self.mask[rows], [self.lengths[row] for row in rows], state)
