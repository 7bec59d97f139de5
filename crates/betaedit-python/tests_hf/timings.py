"""How long one fact takes, beside a plain transcription of the published search and solve; and the drop-in beside the dense solve.

    timings.py MODEL [--drop-in D]

Ratios of one process. The transcription is that of `compute_z` and of the solving line of the AlphaEdit program: 25 steps of Adam through
the whole model, and one dense solve a layer.
"""

import argparse
import time

import numpy as np
import torch

from betaedit import Spectrum, shipped
from betaedit.dropin import Solver


def timed(work, times):
    """The median of some runs, in seconds."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def drop_in(d_in, d_out=1024, device="cpu"):
    """The dense solve and ours, on keys of a layer with a null space of half of its directions."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d_in, d_in, generator=generator, dtype=torch.float64))[0]
    values = np.sort(np.where(np.arange(d_in) < d_in // 2, 0.001, 1.0))
    solver = Solver.from_statistics(Spectrum.from_parts(values, basis.numpy()), dtype="float32")
    kept = basis[:, : d_in // 2].float().to(device)
    P, cache_c = kept @ kept.T, torch.zeros(d_in, d_in, device=device)
    ks = torch.randn(d_in, 1, generator=generator).to(device)
    resid = torch.randn(d_out, 1, generator=generator).to(device)

    def dense():
        A = P @ (ks @ ks.T + cache_c) + 10.0 * torch.eye(d_in, device=device)
        return torch.linalg.solve(A, P @ ks @ resid.T)

    # With one key and no history, the solution is known in closed form (Sherman and Morrison).
    Pk = basis[:, : d_in // 2] @ (basis[:, : d_in // 2].T @ ks.cpu().double())
    exact = Pk @ resid.cpu().double().T / (10.0 + float(ks.cpu().double().T @ Pk))
    errors = [float((found.cpu() - exact).norm() / exact.norm()) for found in (dense(), solver.solve(ks, resid))]
    # A number on the CPU ends the work of a GPU.
    theirs, ours = timed(lambda: dense().sum().item(), 3), timed(lambda: solver.solve(ks, resid).sum().item(), 15)
    ratio = f"{theirs:.3f} s and {ours:.5f} s, {theirs / ours:.0f} times"
    print(f"drop-in, d_in {d_in}, d_out {d_out}, {device}: {ratio}; errors {errors[0]:.1e} and {errors[1]:.1e}")
    assert errors[1] < 1e-5


def published_fact(model, tokenizer, editor, request, projectors):
    """`compute_z` and the solving line of the AlphaEdit program, transcribed: with the contexts of the editor."""
    layers, blocks = editor.layers, editor.layout.blocks
    texts = [request.prompt] + [f"{text}. {request.prompt}" for text in editor.contexts]
    target = tokenizer(" " + request.target, add_special_tokens=False)["input_ids"]
    prompts = [tokenizer(text.format(request.subject))["input_ids"] for text in texts]
    about = tokenizer(f"{request.subject} is a")["input_ids"]
    ends = [len(tokenizer(text[: text.index("{}")] + request.subject)["input_ids"]) - 1 for text in texts]
    ends.append(len(tokenizer(request.subject)["input_ids"]) - 1)
    rows = [prompt + target[:-1] for prompt in prompts] + [about]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    last = layers[-1]
    delta, start, kl_before = torch.zeros(model.config.hidden_size, requires_grad=True), None, None

    def add(_block, _args, output):
        nonlocal start
        hidden = output[0] if isinstance(output, tuple) else output
        start = hidden[0, ends[0]].detach().clone() if start is None else start
        places = torch.zeros(*hidden.shape[:2], 1)
        places[range(len(ends)), ends] = 1
        hidden = hidden + places * delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    adam = torch.optim.Adam([delta], lr=0.5)
    handle = blocks[last].register_forward_hook(add)
    for _ in range(25):
        adam.zero_grad()
        logits = torch.log_softmax(model(ids, attention_mask=mask).logits, -1)
        now = logits[-1, ends[-1]]
        kl_before = now.detach().clone() if kl_before is None else kl_before
        said = torch.stack([-logits[row, len(prompts[row]) - 1 : len(rows[row])].gather(1, torch.tensor(target)[:, None]).mean()
                            for row in range(len(prompts))]).mean()  # fmt: skip
        kl = torch.nn.functional.kl_div(kl_before, now, log_target=True, reduction="sum")
        loss = said + 0.0625 * kl + 0.5 * delta.norm() / start.norm() ** 2
        if loss < 0.05:
            break
        loss.backward()
        adam.step()
        with torch.no_grad():
            delta *= min(1.0, float(0.75 * start.norm() / delta.norm()))
    handle.remove()
    z = start + delta.detach()
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        seen = {}
        hooks = [
            editor.layout.down(layer).register_forward_pre_hook(lambda _m, args: seen.__setitem__("key", args[0])),
            blocks[last].register_forward_hook(lambda _m, _a, out: seen.__setitem__("out", out[0] if isinstance(out, tuple) else out)),
        ]
        with torch.no_grad():
            model(ids, attention_mask=mask)
            [hook.remove() for hook in hooks]
            ks = seen["key"][range(len(prompts)), ends[:-1]].mean(0)[:, None]
            resid = (z - seen["out"][0, ends[0]])[:, None] / left
            P = projectors[layer]
            A = P @ (ks @ ks.T) + 10.0 * torch.eye(len(P))
            editor.layout.down(layer).weight += torch.linalg.solve(A, P @ ks @ resid.T).T


def one_fact(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from betaedit import Projector
    from betaedit.hf import Editor, Request

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    editor = Editor(model, tokenizer).collect(tokens=4000, gradients_over=1000)
    projectors = {layer: torch.from_numpy(Projector(one.spectrum, 0.05).to_dense()).float() for layer, one in editor._statistics.items()}
    requests = [Request.of(fact) for fact in shipped.facts()[:5]]
    # Keys of the names that must stay are computed once.
    editor.edit(requests[:1])
    ours = [timed(lambda one=one: editor.edit([one]), 1) for one in requests[1:]]
    editor.restore()
    theirs = [timed(lambda one=one: published_fact(model, tokenizer, editor, one, projectors), 1) for one in requests[1:]]
    editor.restore()
    ours, theirs = float(np.median(ours)), float(np.median(theirs))
    print(f"one fact: {ours:.2f} s here, {theirs:.2f} s by the transcription, {theirs / ours:.1f} times")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model", nargs="?")
    arguments.add_argument("--drop-in", type=int, default=4096)
    given = arguments.parse_args()
    drop_in(given.drop_in)
    if torch.cuda.is_available():
        drop_in(given.drop_in, device="cuda")
    if given.model:
        one_fact(given.model)


if __name__ == "__main__":
    main()
