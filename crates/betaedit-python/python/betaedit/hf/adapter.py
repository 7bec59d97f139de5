"""A model of transformers as an adapter: keys, residuals and targets of requests."""

import hashlib
import json

import numpy as np
import torch

from ..adapter import Adapter
from ..errors import ModelError
from .contrast import Nearest
from .forward import Run
from .request import Request


class ModelAdapter(Adapter):
    """What a session asks of a model: see `llm::ModelAdapter` in the Rust library, whose rules these are.

    The edited matrices are changed in place. Of a matrix that is not in float32, a float32 copy takes the updates, and the model gets it
    rounded: small updates are not lost. The unedited matrices are kept, in the model's numbers, on the CPU.
    """

    def __init__(self, layout, encoder, layers, surroundings, search, sensitivity=None):
        self.layout, self.encoder, self.layers = layout, encoder, list(layers)
        self.surroundings, self.search, self.sensitivity = surroundings, search, sensitivity
        if not self.layers or self.layers != sorted(set(self.layers)) or not 0 <= self.layers[0] <= self.layers[-1] < len(layout.blocks):
            raise ModelError(f"layers {self.layers}: expected ascending numbers below {len(layout.blocks)}")
        if layout.norm_behind and (len(self.layers) > 1 or search.site == "block"):
            raise ModelError("a norm stands behind every MLP of this model: edit one layer, with targets at the site `mlp`")
        self.nearest = Nearest(layout, encoder, self.layers[0])
        self.unedited = {layer: self._weight(layer).detach().cpu().clone() for layer in self.layers}
        self.exact = {
            layer: self._weight(layer).detach().float() for layer in self.layers if self._weight(layer).dtype != torch.float32
        }
        self.known, self.held = {}, {}
        self.batch = None
        self.identity = self._identity()

    @property
    def last(self):
        return self.layers[-1]

    def _weight(self, layer):
        return self.layout.down(layer).weight

    def _identity(self):
        """A hash of the configuration, the edited matrices and the embeddings' sums: the model before any edit."""
        digest = hashlib.blake2b(digest_size=16)
        config = self.layout.model.config.to_dict()
        config.pop("_name_or_path", None)
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for layer in self.layers:
            digest.update(self.unedited[layer].view(torch.uint8).numpy().tobytes())
        return f"transformers {digest.hexdigest()}"

    # What a session asks.

    def fingerprint(self):
        return self.identity

    def weight_shape(self, layer):
        if layer not in self.unedited:
            raise ModelError(f"layer {layer} is not edited; the layers are {self.layers}")
        return self.layout.shape(layer)

    def subject(self, request):
        return request.subject

    def encode(self, request):
        return json.dumps([request.subject, request.prompt, request.target, request.token]).encode()

    def decode(self, data):
        return Request(*json.loads(bytes(data)))

    def read_weight(self, layer):
        weight = self.exact.get(layer, self._weight(layer)).detach().float().cpu()
        return (weight.T if self.layout.inputs_first else weight).numpy()

    @torch.no_grad()
    def write_weight(self, layer, weight):
        # The session's arrays are in Fortran order: a transposed view of a tensor.
        given = torch.from_numpy(np.ascontiguousarray(weight))
        given = given.T if self.layout.inputs_first else given
        self._set(layer, given)
        self.batch = None

    @torch.no_grad()
    def apply(self, layer, update):
        weight = self.exact.get(layer, self._weight(layer))
        left = torch.from_numpy(np.ascontiguousarray(update.left)).to(weight.device)
        right = torch.from_numpy(np.ascontiguousarray(update.right)).to(weight.device)
        delta = right.T @ left.T if self.layout.inputs_first else left @ right
        self._set(layer, weight.detach().float() + delta)
        if self.batch is not None and not self.batch.outlives(layer):
            self.batch = None

    def _set(self, layer, weight):
        if layer in self.exact:
            self.exact[layer] = weight.to(self.exact[layer].device)
        to = self._weight(layer)
        to.copy_(weight.to(to.device, to.dtype))

    def is_unedited(self):
        """Whether the model has the matrices that it had at first."""
        return all(torch.equal(self._weight(layer).cpu(), weight) for layer, weight in self.unedited.items())

    @torch.no_grad()
    def restore(self):
        """Puts the unedited matrices back, bit for bit."""
        for layer, weight in self.unedited.items():
            self._weight(layer).copy_(weight)
            if layer in self.exact:
                self.exact[layer] = self._weight(layer).detach().float()
        self.batch = None

    def keys(self, layer, requests):
        rows, work = self._at(layer, requests)
        columns = [sum(weight * rows[row] for row, weight in self.surroundings.own_key(places)) for places in work.places]
        return torch.stack(columns, dim=1).cpu().numpy()

    def companions(self, layer, requests):
        rows, work = self._at(layer, requests)
        # Many facts that are written together share what is to stay.
        weight = self.surroundings.contrast_weight_among(len(self.held))
        columns, of = [], []
        for request, (places, contrast) in enumerate(zip(work.places, work.contrast, strict=True)):
            for row, scale, times in self.surroundings.further_keys(places, contrast, weight):
                columns.append(scale * rows[row])
                of.append((request, times))
        return (torch.stack(columns, dim=1).cpu().numpy(), of) if columns else None

    def residuals(self, layer, requests):
        _, work = self._at(layer, requests)
        if work.targets is None:
            work.targets = self._seek(requests)
        outputs = work.run.outputs(self.last, self.search.site, work.first)
        return (work.targets - outputs.T.cpu()).numpy()

    def find_targets(self, requests):
        if self.batch is not None and self.batch.requests == requests and self.batch.targets is not None:
            return self.batch.targets.numpy()
        return self._seek(requests).numpy()

    def hold_targets(self, requests, targets):
        self.held.update(zip(requests, torch.from_numpy(np.ascontiguousarray(targets)).T, strict=True))
        self.batch = None

    def release_targets(self):
        self.held.clear()
        self.batch = None

    # How it is found.

    def check(self, request):
        """Refuses a request that cannot be written into this model, without running the model."""
        written = [one for one, _ in self.surroundings.asked(self.encoder, request)]
        for one in written:
            if self.last + 1 == len(self.layout.blocks) and one.last + 1 < one.start:
                problem = f"layer {self.last} is the last one, and no later layer reads the subject's token: edit lower layers"
                raise ModelError(f"the request about `{request.subject}`: {problem}")
        for one in written + [one for one, _ in self.search.asked(self.encoder, self.surroundings, request)]:
            if len(one.tokens) > self.layout.context:
                problem = f"it has {len(one.tokens)} tokens, the model reads {self.layout.context}"
                raise ModelError(f"the request about `{request.subject}`: {problem}")

    def target(self, request):
        """Seeks the target of a request on the model as it is now."""
        return self.search.run(self.layout, self.encoder, self.surroundings, self.last, request, self.sensitivity)

    def _seek(self, requests):
        return torch.stack([self._target_of(request) for request in requests], dim=1)

    def _target_of(self, request):
        for known in (self.held, self.known):
            if request in known:
                return known[request]
        found = self.target(request)
        if torch.equal(found.value, found.start) and found.likelihood >= self.search.enough:
            problem = (
                f"the search found no output of layer {self.last} that makes `{request.target}` more probable (its mean -log p stays at "
                f"{found.likelihood:.2f}): edit lower layers, or change the settings of the search"
            )
            raise ModelError(f"the request about `{request.subject}`: {problem}")
        return found.value.cpu()

    def _at(self, layer, requests):
        """The keys of a batch at a layer, a row a sequence, and the batch."""
        if self.batch is None or not self.batch.goes_on(layer, requests):
            self.batch = self._begin(requests)
        return self.batch.keys(layer), self.batch

    def _begin(self, requests):
        asked = [self.surroundings.asked(self.encoder, request) for request in requests]
        beside = list(self.held) or requests
        contrast = self.nearest.about(requests, beside, self.surroundings.contrast)
        sequences, places, others, first = [], [], [], []
        for of_one, about in zip(asked, contrast, strict=True):
            first.append((len(sequences), of_one[0][0].first))
            # Nothing after the fact's last token matters here.
            places.append([(len(sequences) + at, weight) for at, (_, weight) in enumerate(of_one)])
            sequences += [list(one.tokens[: one.last + 1]) for one, _ in of_one]
            others.append(list(range(len(sequences), len(sequences) + len(about))))
            sequences += about
        return _Batch(list(requests), Run(self.layout, sequences), places, others, first)


class _Batch:
    """A batch of requests on its way up through the model.

    places: for each request, the rows of its keys with their weights. contrast: the rows of other subjects. first: the first of the fact's
    tokens in the first place, where the residual is measured.
    """

    def __init__(self, requests, run, places, contrast, first):
        self.requests, self.run, self.places, self.contrast, self.first = requests, run, places, contrast, first
        self.targets, self.changed, self.at, self.rows = None, -1, None, None

    def goes_on(self, layer, requests):
        return self.requests == requests and self.run.layer <= layer and self.changed < layer

    def outlives(self, layer):
        self.changed = max(self.changed, layer)
        return self.run.layer <= layer

    def keys(self, layer):
        if self.at != layer:
            self.rows, self.at = self.run.keys(layer), layer
        return self.rows
