"""Writes the .npy fixtures of tests/data/npy with numpy itself. Needs numpy."""

import pathlib

import numpy

folder = pathlib.Path(__file__).parent.parent / "data" / "npy"
folder.mkdir(exist_ok=True)
# Sixteenths, so that every type holds them exactly.
i, j = numpy.indices((4, 3))
matrix = (7 * i - 5 * j + 2) / 16


def save(name, array, version=None):
    with open(folder / name, "wb") as file:
        numpy.lib.format.write_array(file, array, version=version, allow_pickle=False)


save("f64.npy", matrix.astype("<f8"))
save("f32-fortran.npy", numpy.asfortranarray(matrix.astype("<f4")))
save("f16.npy", matrix.astype("<f2"))
save("f64-big-endian-fortran.npy", numpy.asfortranarray(matrix.astype(">f8")))
save("f32-big-endian-v2.npy", matrix.astype(">f4"), version=(2, 0))
save("vector-v3.npy", matrix[:, 0].astype("<f4"), version=(3, 0))
# Refused.
save("integers.npy", i.astype("<i8"))
save("three-dimensions.npy", matrix.astype("<f4").reshape(2, 2, 3))
save("nothing.npy", numpy.zeros((0, 3), "<f4"))
save("scalar.npy", numpy.array(1.0))
save("nan.npy", numpy.where(i + j == 2, numpy.nan, matrix).astype("<f4"))
save("beyond-f32.npy", numpy.where(i + j == 2, 1e300, matrix))
