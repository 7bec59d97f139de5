"""Models of `transformers`, edited in place.

    from betaedit.hf import Editor

    editor = Editor(model, tokenizer)
    editor.collect()
    done = editor.edit([{"subject": "Lyon", "prompt": "The city of {} is located in the country of", "target": "Germany"}])
    editor.undo(done[0].id)

The semantics are those of the Rust runtime: where facts are written (`Surroundings`), how targets are sought (`TargetSearch`), how what is
missing is shared among layers. Keys and targets are computed on the model's own devices, by hooks. Needs torch and transformers
(`pip install betaedit[hf]`).
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("betaedit.hf needs torch and transformers: `pip install betaedit[hf]`") from error

from .adapter import ModelAdapter
from .editor import Editor, Written
from .evaluate import evaluate
from .layout import Layout
from .request import Encoder, Request
from .surroundings import Surroundings
from .target import Target, TargetSearch, sensitivity

__all__ = [
    "Editor",
    "Encoder",
    "Layout",
    "ModelAdapter",
    "Request",
    "Surroundings",
    "Target",
    "TargetSearch",
    "Written",
    "evaluate",
    "sensitivity",
]
