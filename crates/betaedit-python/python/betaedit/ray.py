"""Statistics and targets on many machines, by Ray.

    import ray, betaedit.ray

    ray.init()                                              # or the address of a cluster
    moments = betaedit.ray.collect(texts, "some/model", [5, 6, 7], folder="stats")
    targets = betaedit.ray.find_targets(facts, "some/model", [5, 6, 7], folder="targets")

What is finished is in `folder`, on the machine of the program or on a disk that it shares: a run that was interrupted, started again with
the same arguments, goes on where it was. A machine that is lost costs what it was working on. Needs ray, torch and transformers
(`pip install betaedit[ray]`).
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib import import_module

import numpy as np

from ._core import SecondMoment, Statistics
from .errors import ModelError

__all__ = ["collect", "find_targets"]

#: Partial sums that are merged at a time.
_FAN_IN = 4
#: How often a task is tried again after its machine was lost.
_RETRIES = 10

_loaded: dict = {}


def _ray():
    try:
        # This module has the name of the one that it needs.
        return import_module("ray")
    except ImportError as error:
        raise ImportError("betaedit.ray needs ray, torch and transformers: `pip install betaedit[ray]`") from error


def _model(source):
    """A model and its tokenizer in this process: loaded once. source: a path or name, or a function that returns both."""
    key = source if isinstance(source, str) else (source.__module__, source.__qualname__)
    if key not in _loaded:
        _loaded.clear()
        if isinstance(source, str):
            transformers = import_module("transformers")
            model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
            _loaded[key] = model, transformers.AutoTokenizer.from_pretrained(source)
        else:
            _loaded[key] = source()
    return _loaded[key]


def _count(source, module, layers, chats, texts):
    """The moments of some texts, by layer."""
    from .hf import Encoder, Layout
    from .hf.collect import moments, share_in_chats, windows

    model, tokenizer = _model(source)
    layout, encoder = Layout.of(model, module), Encoder(tokenizer)
    chats = share_in_chats(encoder) if chats is None else chats
    return moments(layout, layers, windows(layout, encoder, texts, chats))[0]


def _merge(*parts):
    """The sum of partial moments, in their order."""
    whole = {layer: SecondMoment(moment.d_in) for layer, moment in parts[0].items()}
    for part in parts:
        for layer, moment in part.items():
            whole[layer].merge(moment)
    return whole


def collect(texts, model, layers, *, folder, at_once=64, chats=None, module=None, progress=None, **resources):
    """The second moments of a model's keys over texts, by layer. Also written to `folder`, as statistics files.

    texts: strings, or a dataset of Ray with a column `text`. model: a name or path for `from_pretrained`, the same on every machine, or a
    function that returns a model and its tokenizer. layers: numbers of blocks. at_once: texts that a task reads. chats: the share of the
    tokens that are read in chats. module: as of `betaedit.hf.Editor`. progress: called with (texts done, texts in all). resources: of each
    task, such as `num_gpus=1`.

    The sums are those of one process, to rounding.
    """
    ray = _ray()
    texts = [row["text"] for row in texts.iter_rows()] if hasattr(texts, "iter_rows") else list(texts)
    if not texts:
        raise ModelError("there are no texts: nothing can be collected")
    os.makedirs(folder, exist_ok=True)
    name = model if isinstance(model, str) else "a model of a function"
    of = f"blake2 {_hash([*texts, str(at_once), str(chats), str(list(layers))])}"
    size = at_once * _FAN_IN
    groups = [texts[at : at + size] for at in range(0, len(texts), size)]
    path = lambda group, layer: os.path.join(folder, f"group-{group:06}.layer-{layer:02}.safetensors")  # noqa: E731

    def finished(group):
        """Whether the file of a group is there and of this run."""
        there = all(os.path.exists(path(group, layer)) for layer in layers)
        return there and all(Statistics.read(path(group, layer)).fingerprint == (name, layer, of) for layer in layers)

    options = {"max_retries": _RETRIES, **resources}
    count = ray.remote(_count).options(**options)
    merge = ray.remote(_merge).options(max_retries=_RETRIES, num_cpus=0.1)
    done = 0
    waiting = {}
    for group, of_group in enumerate(groups):
        if finished(group):
            done += len(of_group)
            continue
        parts = [of_group[at : at + at_once] for at in range(0, len(of_group), at_once)]
        waiting[merge.remote(*[count.remote(model, module, list(layers), chats, part) for part in parts])] = group
    if progress is not None:
        progress(done, len(texts))
    for group, found in _as_completed(ray, waiting):
        for layer, moment in found.items():
            Statistics(moment, model=name, layer=layer, text=of, part=f"group {group} of {len(groups)}").write(path(group, layer))
        done += len(groups[group])
        if progress is not None:
            progress(done, len(texts))
    # In the order of the groups, whatever the order in which they came: equal runs have equal bits.
    whole = {}
    for layer in layers:
        statistics = Statistics.read_parts([path(group, layer) for group in range(len(groups))])
        statistics.write(os.path.join(folder, f"layer-{layer:02}.statistics.safetensors"))
        whole[layer] = statistics.moment()
    return whole


def _as_completed(ray, waiting):
    """What tasks are for and their results, as they come. What is left is cancelled if the caller is interrupted."""
    left = list(waiting)
    try:
        while left:
            ready, left = ray.wait(left, num_returns=1)
            yield waiting[ready[0]], ray.get(ready[0])
    finally:
        for task in left:
            ray.cancel(task, force=True)


def _editor(source, layers, settings, gradients):
    from .hf import Editor, sensitivity

    model, tokenizer = _model(source)
    editor = Editor(model, tokenizer, layers, **settings)
    if gradients is not None:
        editor.runtime.sensitivity = sensitivity(gradients)
    return editor


def _contexts(source, layers, settings):
    """Texts that a model generates to put before prompts: on one machine, for all."""
    return list(_editor(source, layers, settings, None).contexts)


def _search(source, layers, settings, gradients, requests):
    """The targets of some facts on the unedited model, hidden x n, float32, and why those without one have none."""
    runtime = _editor(source, layers, settings, gradients).runtime
    columns, problems = [], []
    for request in requests:
        try:
            runtime.check(request)
            columns.append(runtime._target_of(request).numpy())
            problems.append("")
        except ModelError as error:
            columns.append(np.full(runtime.layout.hidden, np.nan, dtype=np.float32))
            problems.append(str(error))
    return np.stack(columns, axis=1), problems


def find_targets(facts, model, layers, *, folder, at_once=8, gradients=None, settings=None, progress=None, **resources):
    """The targets of facts on the unedited model, by request: for `Editor.edit(facts, targets=...)`.

    facts: as of `Editor.edit`. model, layers, progress, resources: as of `collect`. at_once: facts that a task seeks. gradients: the
    `SecondMoment` of the loss's gradients at the last layer, by which the search avoids what the model is sensitive to. settings: keywords
    of `betaedit.hf.Editor`, such as `search` and `contexts`.

    Every fact is sought alone, so the targets do not depend on how many machines there are, nor on the order. Facts without a target are
    left out; `folder` has the reasons.
    """
    from .hf import Request

    ray = _ray()
    requests = [Request.of(fact) for fact in facts]
    os.makedirs(folder, exist_ok=True)
    settings = dict(settings or {})
    options = {"max_retries": _RETRIES, **resources}
    if "contexts" not in settings or isinstance(settings["contexts"], int):
        generate = ray.remote(_contexts).options(**options)
        settings["contexts"] = _kept(folder, "contexts.json", lambda: ray.get(generate.remote(model, list(layers), settings)))
    search = ray.remote(_search).options(**options)
    sensed = None if gradients is None else ray.put(gradients)
    name = model if isinstance(model, str) else "a model of a function"
    parts = [requests[at : at + at_once] for at in range(0, len(requests), at_once)]
    said = [_hash([name, str(list(layers)), json.dumps(settings, default=str), *(repr(one) for one in part)]) for part in parts]
    path = lambda at: os.path.join(folder, f"targets-{said[at]}.npz")  # noqa: E731
    missing = [at for at in range(len(parts)) if not os.path.exists(path(at))]
    waiting = {search.remote(model, list(layers), settings, sensed, parts[at]): at for at in missing}
    done = len(requests) - sum(len(parts[at]) for at in waiting.values())
    if progress is not None:
        progress(done, len(requests))
    for at, (targets, problems) in _as_completed(ray, waiting):
        # Whole or not at all.
        with open(path(at) + ".new", "wb") as file:
            np.savez(file, targets=targets, problems=np.array(problems))
        os.replace(path(at) + ".new", path(at))
        done += len(parts[at])
        if progress is not None:
            progress(done, len(requests))
    found = {}
    for at, part in enumerate(parts):
        with np.load(path(at)) as arrays:
            targets = arrays["targets"]
        for request, target in zip(part, targets.T, strict=True):
            if np.isfinite(target).all():
                found[request] = np.ascontiguousarray(target)
    return found


def _kept(folder, name, make):
    """What an earlier run has made, or what is made now."""
    path = os.path.join(folder, name)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    made = make()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(made, file)
    return made


def _hash(parts):
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()
