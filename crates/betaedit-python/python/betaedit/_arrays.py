"""Arrays from whatever holds numbers: tensors, lists, arrays with gaps. No library but numpy is imported here."""

import numpy as np

from .errors import NumericsError


def _on_the_cpu(values):
    """A tensor of torch, or of a library like it, where numpy can read it."""
    if hasattr(values, "detach"):
        values = values.detach()
        if hasattr(values, "cpu"):
            values = values.cpu()
        # numpy has no such type.
        if str(getattr(values, "dtype", "")).endswith("bfloat16"):
            values = values.float()
    return values


def as_array(values):
    """An array of float32 or float64 in C or Fortran order, without a copy where the layout allows."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise NumericsError("an array with masked numbers: fill them, or leave them out")
    values = _on_the_cpu(values)
    if not hasattr(values, "__array__") and hasattr(values, "__dlpack__"):
        array = np.from_dlpack(values)
    else:
        array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise NumericsError(f"an array of {array.dtype}: expected real numbers")
    if array.dtype not in (np.float32, np.float64):
        # float16 and types like it have no more digits than float32.
        array = array.astype(np.float32 if array.dtype.kind == "f" and array.dtype.itemsize < 4 else np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not (array.flags.c_contiguous or array.flags.f_contiguous) or not array.flags.aligned:
        array = np.ascontiguousarray(array)
    return array


def in_place(values):
    """The array behind a numpy array or a tensor on the CPU, to be changed where it lies."""
    array = values
    if not isinstance(values, np.ndarray):
        device = getattr(getattr(values, "device", None), "type", "cpu")
        if not hasattr(values, "detach") or device != "cpu":
            raise NumericsError("only a numpy array or a tensor on the CPU is changed in place: add `left @ right` on its device")
        try:
            array = values.detach().numpy()
        except TypeError as error:
            raise NumericsError(f"the tensor cannot be changed in place: {error}") from error
    if array.dtype not in (np.float32, np.float64) or array.ndim != 2:
        raise NumericsError(f"a weight of {array.dtype} with {array.ndim} dimensions: expected float32 or float64 with two")
    return array
