"""What a session in a directory began with."""

import json
import os

from ..errors import FileError

#: The file, and its form.
_NAME, _FORMAT = "editor.json", "betaedit.hf.editor.1"


def read_begun(directory):
    """The `layers` and `contexts` of the session in a directory. None if there is no directory, or nothing in it."""
    path = os.path.join(directory, _NAME) if directory else None
    if path is None or not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            begun = json.load(file)
        if begun["format"] != _FORMAT:
            raise KeyError("format")
        return {"layers": begun["layers"], "contexts": begun["contexts"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path}: is not what an `Editor` wrote, or damaged") from error


def write_begun(directory, layers, contexts):
    """Writes it as a whole, unless it is there."""
    if not directory or read_begun(directory) is not None:
        return
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, _NAME)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, "layers": layers, "contexts": contexts}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
