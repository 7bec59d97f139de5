"""The editor of a model of transformers."""

import os
import weakref
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from .. import KeyStatistics, Method, Session, Spectrum, Statistics, Update, shipped
from .._checks import function, number, of_kind, whole
from .._checks import texts as _texts
from .._core import _check_guards
from ..errors import FileError, ModelError, NumericsError, SessionError
from ..files import read_spectrum, write_lora, write_spectrum
from ..methods import method as method_by_name
from .adapter import ModelAdapter
from .begun import read_begun, write_begun
from .collect import gradients, moments, share_in_chats, windows
from .contexts import generated
from .evaluate import evaluate, perplexity
from .layout import Layout
from .request import Encoder, Request
from .surroundings import Surroundings
from .target import TargetSearch, sensitivity

#: The width below which a model is small: the published weights suit the keys of models with billions of parameters.
_SMALL = 1600
#: The editor whose session a model has: each takes the matrices that it finds for the unedited ones, or puts back those it keeps.
_OWNERS = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Written:
    """What became of one fact. id: for `undo`. applied: it is written; whether the model says it, `evaluate` tells. reason: why it is not.
    layers: what was done to each layer, as dictionaries: see `betaedit.Session.edit`. conflicts: the edits that its batch contradicts."""

    request: Request
    id: int
    applied: bool
    reason: "str | None"
    layers: list = field(repr=False)
    conflicts: list = field(default_factory=list, repr=False)


class Editor:
    """Edits facts in a model of transformers, in place.

        editor = Editor(model, tokenizer)
        editor.collect()
        editor.edit([{"subject": "Lyon", "prompt": "The city of {} is located in the country of", "target": "Germany"}])

    model: any causal model whose MLPs end in a matrix. layers: numbers of blocks; by default the published ones, or blocks at the same
    depth. method: a name in the table of methods, with `hyperparameters`, or a `Method`. module: the name of the edited modules, with `{}`
    for the number, if they are not found. contexts: texts to put before prompts, or how many to generate. search, surroundings: settings,
    as objects or dictionaries. consolidate_every: from how many edits on the weights are derived anew from all of them; 0 = never.
    directory: keeps the session there, to go on after the program has ended: give the same layers, method and statistics again, and the
    edits are in the model as soon as the statistics are there; contexts are those of the directory. guards, conflicts: as of
    `betaedit.Session`. at_rest: a folder on a disk for statistics and states of layers between their turns: for large models, of which one
    layer is in memory at a time.

    Weights that are not float32 (bf16, f16) keep a float32 copy of the edited matrices. The model may be spread over devices.
    """

    def __init__(
        self, model, tokenizer, layers=None, method="betaedit", *, hyperparameters=None, module=None, contexts=3, context_length=10,
        seed=0, search=None, surroundings=None, sensitivity=0.5, consolidate_every=None, directory=None, guards=None,
        conflicts="report", at_rest=None, threads=0,
    ):  # fmt: skip
        self.model, self.tokenizer, self._at_rest, self._session, self._closed = model, tokenizer, at_rest, None, False
        self.threads, self._exponent = whole("threads", threads), number("sensitivity", sensitivity)
        if consolidate_every is not None:
            whole("consolidate_every", consolidate_every)
        if guards is not None:
            _check_guards(guards)
        self.layout = Layout.of(model, module)
        _check_tokenizer(tokenizer, model)
        self._owns()
        self.encoder = Encoder(tokenizer)
        self.layers = _numbers(layers) if layers is not None else self.layout.usual_layers()
        self.method = self._method(method, hyperparameters)
        if conflicts not in _CONFLICTS:
            raise SessionError(f"conflicts `{conflicts}`: expected one of {', '.join(_CONFLICTS)}")
        if at_rest:
            os.makedirs(at_rest, exist_ok=True)
        search = of_kind("search", {} if search is None else search, (dict, TargetSearch), "a dictionary, or a `TargetSearch`")
        if isinstance(search, dict):
            behind, halved = self.layout.norm_behind, self.method.name.startswith("pmet")
            site = "pmet" if halved else "mlp" if behind else "block"
            search = _made(TargetSearch, "search", {"site": site, **search})
        self._directory, self._guards, self._conflicts = directory, guards, conflicts
        contexts = self._contexts(contexts, context_length, seed)
        surroundings = {} if surroundings is None else surroundings
        of_kind("surroundings", surroundings, (dict, Surroundings), "a dictionary, or `Surroundings`")
        if isinstance(surroundings, dict):
            surroundings = _made(Surroundings, "surroundings", {"contexts": contexts, **surroundings})
        self.consolidate_every = consolidate_every if consolidate_every is not None else 100 * (self.method.name == "betaedit")
        self.runtime = ModelAdapter(self.layout, self.encoder, self.layers, surroundings, search)
        self._statistics, self._gradients = None, None
        # All settings are in order.
        write_begun(self._directory, self.layers, self.contexts)

    def _method(self, method, hyperparameters):
        of_kind("method", method, (str, Method), "a name, or a method as `betaedit.AlphaEdit()`")
        if not isinstance(method, str):
            if hyperparameters:
                raise NumericsError("`hyperparameters` are for a method that is given by its name: give them to the method itself")
            return method
        given = dict(of_kind("hyperparameters", hyperparameters or {}, dict, "a dictionary"))
        small = self.layout.hidden < _SMALL
        lambda1 = given.get("lambda1", 600.0 if small else 3000.0)
        refresh = {"every": {"edits": 1000, "rule": {"full": {"mean": {"lambda1": lambda1}}}}}
        usual = {
            "lambda": 1500.0 if small else 15000.0, "lambda1": lambda1, "lambda2": 3.0 if small else 10.0,
            "threshold": 0.05 if small else 0.02, "refresh": refresh,
        }  # fmt: skip
        takes = method_by_name(method).hyperparameters
        return method_by_name(method, **{**{name: value for name, value in usual.items() if name in takes}, **given})

    def _contexts(self, contexts, length, seed):
        """Texts to put before prompts: those of the session in the directory, given, or generated by the model."""
        generate = isinstance(contexts, (int, float, np.number))
        contexts = whole("contexts", contexts) if generate else _texts("contexts", contexts)
        length, seed = whole("context_length", length, 1), whole("seed", seed)
        begun = read_begun(self._directory)
        if begun is not None:
            if begun["layers"] != self.layers:
                raise SessionError(f"the session in `{self._directory}` edits the layers {begun['layers']}, not {self.layers}")
            return begun["contexts"]
        return generated(self.model, self.tokenizer, self.encoder, contexts, length, seed) if generate else contexts

    @property
    def contexts(self):
        """The texts that are put before prompts."""
        return self.runtime.surroundings.contexts

    # Statistics.

    def collect(self, texts=None, *, tokens=None, chats=None, gradients_over=None, progress=None):
        """Collects the statistics of the layers' keys over texts, and of the gradients of the loss, on the unedited model.

        texts: strings like those that the model was trained on; the shipped text if not given. tokens: how many are read, ten for each
        dimension of a key by default, and those in chats. chats: the share of the tokens that are read in chats, a third by default where
        the tokenizer has a template. gradients_over: tokens for the gradients, by which the search avoids what the model is sensitive to;
        0 for none. progress: called with (what, tokens so far, tokens in all).
        """
        self._untouched("collect statistics")
        read = [shipped.statistics_text()] if texts is None else [texts] if isinstance(texts, str) else _texts("texts", texts)
        chats = share_in_chats(self.encoder) if chats is None else number("chats", chats)
        if not chats < 1:
            raise NumericsError(f"chats is {chats}: expected a share below 1")
        function("progress", progress)
        if gradients_over is not None:
            whole("gradients_over", gradients_over)
        if tokens is not None:
            whole("tokens", tokens, 1)
        else:
            tokens = int(np.ceil(10 * max(self.layout.shape(layer)[1] for layer in self.layers) / (1 - chats)))
        tell = progress or (lambda *_: None)
        again = lambda: windows(self.layout, self.encoder, read, chats)  # noqa: E731
        found, _ = moments(self.layout, self.layers, again(), tokens, lambda done: tell("keys", min(done, tokens), tokens))
        wanted = 10 * self.layout.hidden if gradients_over is None else gradients_over
        sensed = None
        if wanted and self._exponent:
            sensed = gradients(self.layout, self.layers, again(), wanted, lambda done: tell("gradients", min(done, wanted), wanted))
        self.use(found, sensed)
        return self

    def use(self, moments, gradients=None):
        """Uses known statistics: a `SecondMoment` or `KeyStatistics` for each layer, and the gradients' `SecondMoment` for each."""
        self._untouched("change the statistics")
        missing = [layer for layer in self.layers if layer not in moments]
        if missing:
            raise ModelError(f"there are no statistics of the layers {missing}")
        return self._take({layer: self._rested(moments[layer]) for layer in self.layers}, gradients)

    def _take(self, statistics, gradients):
        for layer, one in statistics.items():
            if one.d_in != self.layout.shape(layer)[1]:
                d_in = self.layout.shape(layer)[1]
                raise ModelError(f"the statistics of layer {layer} are for keys of {one.d_in} numbers, the model's have {d_in}")
        # Copies have the bits that files give back: a session in a directory is opened again with either.
        gradients = {layer: deepcopy(gradients[layer]) for layer in self.layers} if gradients else None
        turned = sensitivity(gradients[self.layers[-1]], self._exponent) if gradients and self._exponent else None
        self._statistics, self._gradients, self._session, self.runtime.sensitivity = statistics, gradients, None, turned
        if self._state() and os.path.exists(self._state()):
            _ = self.session
        return self

    def _state(self):
        """Where the session is kept."""
        return os.path.join(self._directory, "state") if self._directory else None

    def _rested(self, one):
        """Statistics of a layer, on disk if the editor keeps them there."""
        known = one if isinstance(one, KeyStatistics) else KeyStatistics(deepcopy(one), threads=self.threads)
        return known.at_rest(self._at_rest) if self._at_rest else known

    def save_statistics(self, folder):
        """Writes the statistics, one file a layer, in the format and under the names of `betaedit stats`."""
        self._collected()
        os.makedirs(folder, exist_ok=True)
        for layer, one in self._statistics.items():
            of = {"model": self.runtime.fingerprint(), "layer": layer, "text": "texts of a Python program"}
            Statistics(one.moment, part="all", **of).write(_path(folder, layer, "statistics"))
            write_spectrum(_path(folder, layer, "spectrum"), one.spectrum, **of)
            if self._gradients:
                Statistics(self._gradients[layer], part="gradients", **of).write(_path(folder, layer, "gradients"))
        return self

    def load_statistics(self, folder):
        """Reads statistics that `save_statistics` or `betaedit stats` wrote. Their scale is checked by keys of this model."""
        self._untouched("change the statistics")
        witness, _ = moments(self.layout, self.layers, windows(self.layout, self.encoder, [shipped.held_out_text()], 0.0), 256)
        found, sensed = {}, {}
        for layer in self.layers:
            if not os.path.exists(_path(folder, layer, "statistics")):
                there = sorted(name for name in os.listdir(folder) if name.endswith(".statistics.safetensors")) if os.path.isdir(folder) else []
                raise ModelError(f"there are no statistics of layer {layer} in `{folder}`, which has {', '.join(there) or 'none'}")
            statistics = Statistics.read(_path(folder, layer, "statistics"))
            if statistics.fingerprint[1] != layer:
                raise ModelError(f"the statistics in {_path(folder, layer, 'statistics')} are those of layer {statistics.fingerprint[1]}")
            # A key of the witnesses' mean norm is enough for the scale.
            key = np.zeros((statistics.d_in, 1))
            key[0] = witness[layer].trace ** 0.5
            moment = statistics.moment(key)
            path = _path(folder, layer, "spectrum")
            spectrum = read_spectrum(path)[0] if os.path.exists(path) else Spectrum(moment, threads=self.threads)
            found[layer] = self._rested(KeyStatistics(moment, spectrum))
            path = _path(folder, layer, "gradients")
            if os.path.exists(path):
                sensed[layer] = Statistics.read(path).moment()
        return self._take(found, sensed if len(sensed) == len(self.layers) else None)

    def _collected(self):
        if self._statistics is None:
            raise ModelError("there are no statistics yet: call `collect`, or `load_statistics`")

    def _untouched(self, what):
        self._owns()
        if self._session is not None and self._session.applied > 0:
            raise SessionError(f"the model is edited: {what} before the first edit, or after `restore`")

    # Edits.

    @property
    def session(self):
        """The session that the edits are written in: its state, gauges, report. It is opened when it is first needed, and the edits that are in
        its directory are in the model from then on."""
        self._owns()
        if self._session is None:
            self._collected()
            self._session = Session(
                self.runtime, self.method, self._statistics, guards=self._guards, conflicts=self._conflicts,
                gradients=self._gradients, at_rest=self._at_rest, threads=self.threads,
                directory=self._state(),
            )  # fmt: skip
        return self._session

    def _owns(self):
        """Refuses a model that has another editor's edits, also of one that was closed since this one was made."""
        if self._closed:
            raise SessionError("the editor was closed: make a new one, for the model as it is now")
        owner = _OWNERS.get(self.model, lambda: None)()
        edits = 0 if owner in (None, self) or owner._session is None else owner._session.applied
        if edits:
            problem = f"another `Editor` has {edits} edits in this model"
            raise SessionError(f"{problem}: go on with it, `restore` the model by it, or `close` it to build on the edited model")
        if owner is not self and hasattr(self, "runtime") and not self.runtime.is_unedited():
            raise SessionError("the model was edited since this `Editor` was made: make a new one, for the model as it is now")
        _OWNERS[self.model] = weakref.ref(self)

    def edit(self, facts, *, batch=1, token="subject-last", targets=None, progress=None):
        """Writes facts, `batch` at a time, each batch as a whole or not at all. Returns a `Written` for each fact.

        Facts that the tokenizer or the model cannot take raise before the first is written.

        What `progress` raises ends the call; the batches that it was told of are written.

        facts: dictionaries with `subject`, `prompt` (with `{}` for the subject) and `target` (or `target_new`), (subject, prompt, target)s,
        or `Request`s. token: where they are written, "subject-last" or "prompt-last". targets: known ones, from `betaedit.ray`. progress:
        called with each `Written`, after its batch.
        """
        whole("batch", batch, 1)
        function("progress", progress)
        of_kind("targets", {} if targets is None else targets, dict, "a dictionary of requests and their targets")
        facts = [facts] if isinstance(facts, (dict, Request)) else facts
        requests = [Request.of(fact, token) for fact in of_kind("facts", facts, Iterable, "a list of facts")]
        session, done = self.session, []
        for request in requests:
            self.runtime.check(request)
        for known, target in (targets or {}).items():
            self.runtime.known[Request.of(known, token)] = torch.as_tensor(target, dtype=torch.float32)
        for at in range(0, len(requests), batch):
            part = requests[at : at + batch]
            outcome = session.edit(part)
            for request, id in zip(part, outcome["ids"], strict=True):
                reason, found = outcome.get("reason"), outcome.get("conflicts", [])
                # A later edit of the batch may have replaced it.
                holds = outcome["applied"] and session.holds(id)
                if outcome["applied"] and not holds:
                    reason = "another edit of its batch contradicts it and stays"
                one = Written(request, id, holds, reason, outcome.get("layers", []), found)
                done.append(one)
                if progress is not None:
                    progress(one)
            if self.consolidate_every and session.applied >= self.consolidate_every <= session.unconsolidated:
                session.consolidate()
        return done

    def undo(self, *ids):
        """Takes edits out of the model: `id`s, what `edit` returned, or lists of these. When none is left, the model has the bits it had before
        the first. Returns what `betaedit.Session.undo` does. Edits that were consolidated are derived anew, which takes
        as long as `consolidate`."""
        several = lambda given: isinstance(given, Iterable) and not isinstance(given, (str, bytes))  # noqa: E731
        ids = [one for given in ids for one in (given if several(given) else [given])]
        undone = self.session.undo([one.id if isinstance(one, Written) else one for one in ids])
        if self.session.applied == 0:
            self.runtime.restore()
        return undone

    def restore(self):
        """Takes all edits out and puts the unedited matrices back, bit for bit. A session in a directory keeps its edits: with the next use of
        `session`, they are in the model again."""
        self._owns()
        self.runtime.restore()
        self._session = None

    def close(self):
        """Closes the editor. Its edits stay in the model, as part of it. Another editor can open its directory, on the unedited model."""
        self._session, self._closed = None, True

    def consolidate(self):
        """Derives the weights anew from the unedited ones and all edits, in one solve for each layer."""
        return self.session.consolidate()

    def evaluate(self, facts):
        """Rates of the model's answers to facts: see `betaedit.hf.evaluate`."""
        facts = [facts] if isinstance(facts, (dict, Request)) else facts
        return evaluate(self.layout, self.encoder, list(of_kind("facts", facts, Iterable, "a list of facts")))

    def perplexity(self, text=None, tokens=4096):
        """The perplexity of a text, by default the shipped one that is not in the statistics."""
        whole("tokens", tokens, 2)
        of_kind("text", "" if text is None else text, str, "one text")
        return perplexity(self.layout, self.encoder, shipped.held_out_text() if text is None else text, tokens)

    # What is written.

    def save_pretrained(self, folder):
        """Writes the edited model and the tokenizer, as `from_pretrained` reads them."""
        if os.path.isfile(folder):
            raise FileError(f"{folder}: is a file, expected a folder")
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def updates(self, *, rank=None, tolerance=1e-5):
        """All edits together, by the names of the edited parameters: an `Update` for each, of the smallest rank that misses at most the
        share `tolerance` of its norm, 1e-6 to 1, or of at most `rank`."""
        if rank is not None:
            whole("rank", rank, 1)
        if not 1e-6 <= number("tolerance", tolerance) <= 1:
            raise NumericsError(f"tolerance is {tolerance}: expected 1e-6 to 1")
        if self._session is None or self._session.applied == 0:
            return {}
        found = {}
        for layer in self.layers:
            # The sum of the updates: that of the weights has their rounding, which no low rank holds.
            total = self._session.total(layer)
            if not total.any():
                continue
            update, _ = Update.from_dense(total, tolerance=tolerance if rank is None else 1e-6, threads=self.threads)
            update = update if rank is None else update.compressed(rank=rank, threads=self.threads)[0]
            update = Update(update.left.astype(np.float32), update.right.astype(np.float32))
            found[f"{self.layout.module(layer)}.weight"] = update
        return found

    def adapter(self, folder, *, rank=None, tolerance=1e-5):
        """Writes all edits as a LoRA adapter, which PEFT loads on the unedited model. rank, tolerance: as of `updates`."""
        updates = self.updates(rank=rank, tolerance=tolerance)
        if not updates:
            raise ModelError("the model has no edits: there is nothing to write into an adapter")
        base = self.model.config.name_or_path or ""
        orientation = "inputs-by-outputs" if self.layout.inputs_first else "outputs-by-inputs"
        write_lora(folder, updates, base, orientation)


def _path(folder, layer, kind):
    return os.path.join(folder, f"layer-{layer:02}.{kind}.safetensors")


#: What to do about edits that contradict each other.
_CONFLICTS = ("report", "reject", "merge", "last-wins")


def _made(settings, name, given):
    """Settings from a dictionary."""
    known = [one.name for one in fields(settings)]
    unknown = [one for one in given if one not in known]
    if unknown:
        raise NumericsError(f"{name} has no setting `{unknown[0]}`; there are {', '.join(known)}")
    return settings(**given)


def _numbers(layers):
    """Numbers of blocks."""
    layers = layers if isinstance(layers, (int, str)) else list(layers)
    if isinstance(layers, (int, str)) or not all(isinstance(one, (int, np.integer)) for one in layers):
        raise ModelError(f"layers {layers!r}: expected numbers of blocks, as [5, 6, 7]")
    return [int(one) for one in layers]


def _check_tokenizer(tokenizer, model):
    """Refuses what is no tokenizer, and one with more tokens than the model."""
    if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
        raise ModelError(f"{type(tokenizer).__name__} is no tokenizer: `Editor(model, tokenizer)` wants one as `AutoTokenizer` loads it")
    known, rows = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if known > rows:
        raise ModelError(f"the tokenizer has {known} tokens, the model {rows}: it is that of another model")
