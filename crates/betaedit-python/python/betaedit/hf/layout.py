"""Where things are in a model of transformers: its blocks, the matrices that are edited, its head."""

import re
from dataclasses import dataclass

import torch

from ..errors import ModelError

#: The output projections of MLPs, by their names in a block, and whether they store d_in x d_out.
_PROJECTIONS = (
    "mlp.down_proj", "mlp.c_proj", "mlp.fc_out", "mlp.fc2", "mlp.dense_4h_to_h", "mlp.w2", "mlp.wo",
    "feed_forward.w2", "feed_forward.down_proj", "ffn.down_proj", "fc2",
)  # fmt: skip
#: Norms behind an MLP: what is behind one is not linear in the edited matrix.
_NORMS_BEHIND = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_feedforward_norm")
_ATTENTION = ("self_attn", "self_attention", "attention", "attn")


@dataclass
class Layout:
    """The parts of a model. blocks: the decoder's blocks, in order. projection: the name of the edited module in a block."""

    model: torch.nn.Module
    prefix: str
    blocks: torch.nn.ModuleList
    projection: str
    #: Whether blocks return tuples; known after the first run.
    returns_tuples: bool = False

    @classmethod
    def of(cls, model, module=None):
        """module: the name of the edited modules with `{}` for the number of the block, if it is not one of the usual ones."""
        head = getattr(model, "get_output_embeddings", lambda: None)
        if not isinstance(model, torch.nn.Module) or not hasattr(model, "config") or head() is None:
            raise ModelError(f"{type(model).__name__} is no model of transformers with a head: give one as `AutoModelForCausalLM` loads it")
        if any(one.is_meta for one in model.parameters()):
            raise ModelError("weights of the model are not in memory: load it without moving any to a disk")
        if module is not None:
            prefix, _, projection = module.partition(".{}.")
            if not projection:
                raise ModelError(f"module `{module}`: write it with `.{{}}.` for the number, as `model.layers.{{}}.mlp.down_proj`")
            try:
                return cls(model, prefix, model.get_submodule(prefix), projection).checked()
            except AttributeError as error:
                names = ", ".join(name for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList))
                inside = "the model has the lists of blocks"
                raise ModelError(f"module `{module}`: {error}; {inside} {names}; `print(model)` shows what is in a block") from error
        layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        for name, part in model.named_modules():
            if isinstance(part, torch.nn.ModuleList) and len(part) == layers:
                inside = dict(part[0].named_modules())
                found = next((known for known in _PROJECTIONS if known in inside), None)
                if found is not None:
                    return cls(model, name, part, found).checked()
        advice = "name them, as `module='model.layers.{}.mlp.down_proj'`"
        raise ModelError(f"the output projections of the model's MLPs were not found: {advice}")

    def checked(self):
        width = self.model.get_input_embeddings().weight.shape[1]
        hidden = getattr(self.model.config.get_text_config(), "hidden_size", width)
        for layer in range(len(self.blocks)):
            weight = getattr(self.down(layer), "weight", None)
            if weight is None or weight.ndim != 2:
                raise ModelError(f"`{self.module(layer)}` has no matrix: it is no output projection of an MLP")
            if not weight.is_floating_point():
                raise ModelError(f"the matrix of `{self.module(layer)}` has no floating point numbers: load the model without quantization")
            outputs = self.shape(layer)[0]
            if outputs != hidden:
                raise ModelError(f"`{self.module(layer)}` has {outputs} outputs: the output projection of an MLP has those of the hidden state")
        return self

    def module(self, layer):
        """The name of a layer's edited module."""
        return f"{self.prefix}.{layer}.{self.projection}"

    def down(self, layer):
        """A layer's edited module."""
        return self.blocks[layer].get_submodule(self.projection)

    @property
    def inputs_first(self):
        """Whether weights are stored d_in x d_out, as GPT-2's Conv1D does."""
        return type(self.down(0)).__name__ == "Conv1D"

    def shape(self, layer):
        """(d_out, d_in)."""
        rows, cols = self.down(layer).weight.shape
        return (cols, rows) if self.inputs_first else (rows, cols)

    @property
    def norm_behind(self):
        """Whether a norm stands behind the MLPs."""
        return any(hasattr(self.blocks[0], name) for name in _NORMS_BEHIND)

    def attention(self, layer):
        """A block's attention."""
        found = next((getattr(self.blocks[layer], name) for name in _ATTENTION if hasattr(self.blocks[layer], name)), None)
        if found is None:
            raise ModelError("the model's attention was not found: use the sites `block` or `mlp`")
        return found

    @property
    def hidden(self):
        return self.shape(0)[0]

    @property
    def context(self):
        """The largest number of tokens that the model reads."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048

    def usual_layers(self):
        """The layers that are edited by default: the published ones for models of a published depth, else at the same relative depth."""
        n = len(self.blocks)
        learned = bool(re.match("gpt2|gpt_bigcode", str(self.model.config.model_type)))
        parallel = str(self.model.config.model_type) in ("gptj", "gpt_neox", "phi", "falcon", "cohere")
        if learned and n == 48:
            layers = range(13, 18)
        elif parallel and n == 28:
            layers = range(3, 9)
        elif n in (28, 32, 36):
            layers = range(4, 9)
        else:
            layers = range(n // 6, min(n // 3, n - 1) + 1)
        return [layers[-1]] if self.norm_behind else list(layers)
