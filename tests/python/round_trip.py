"""The Python side of the round trips: files as the programs of the field write them, and a look at what Rust wrote.

    round_trip.py write FOLDER    files for the Rust test `python` to read
    round_trip.py check FOLDER    files that the Rust test wrote
    round_trip.py copy FOLDER     a model of the Rust test `cli`: read, and written into FOLDER/copy

Needs numpy and safetensors. Every number is made from small formulas that the Rust test has as well. Where PEFT is there
too (and with it PyTorch), it loads and merges the adapter, and the converter of docs/files.md is run.
"""

import importlib.util
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

D, TOKENS, OUT = 12, 500, 8
MODULES = ["model.layers.4.mlp.down_proj", "model.layers.5.mlp.down_proj"]


def keys():
    i, t = numpy.indices((D, TOKENS))
    return ((3 * i + 5 * t + (i * t) % 11) % 17 - 6).astype(numpy.float64)


def weight(number):
    i, j = numpy.indices((OUT, D))
    return ((i * 7 + j * 3 + number) % 32 - 16) / 8.0


def factors(number, n):
    """Powers of two and small numbers: products are exact in f32."""
    i, j = numpy.indices((OUT, n))
    left = ((i + 2 * j + number) % 5 - 2) / 4.0
    i, j = numpy.indices((n, D))
    right = ((2 * i + j + number) % 7 - 3) / 1024.0 + 1 / 65536.0
    return left, right


def null():
    return numpy.array(struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000002))[0])


def write(folder):
    total = keys() @ keys().T
    common = {"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": TOKENS}
    numpy.savez(folder / "f32.npz", **common, **{"mom2.mom2": total.astype("f4"), "sample_size": 100})
    numpy.savez_compressed(folder / "f64.npz", **common, **{"mom2.mom2": total, "sample_size": null()})

    # Two workers.
    for part, columns in enumerate([slice(0, 200), slice(200, None)]):
        some = keys()[:, columns]
        metadata = {
            "format": "betaedit.statistics.1",
            "tokens": str(some.shape[1]),
            "model": "a model",
            "layer": "4",
            "text": "a text",
            "parts": json.dumps([f"{part} of 2"]),
        }
        save_file({"sum": (some @ some.T).astype("f4")}, folder / f"part-{part}.safetensors", metadata)

    # What the converter of docs/files.md makes of a null_space_project.pt.
    values, vectors = numpy.linalg.eigh(total)
    kept = vectors[:, :5]
    save_file({"projector.0": (kept @ kept.T).astype("f4")}, folder / "projector.safetensors")

    # Keys as rows.
    numpy.save(folder / "array.npy", keys().T.astype("f4"))

    # An adapter as PEFT saves it after training.
    (folder / "trained").mkdir()
    pairs = {}
    for number, (module, rank, kind) in enumerate(zip(MODULES, [2, 4], ["f4", "f2"])):
        left, right = factors(number, rank)
        pairs[f"base_model.model.{module}.lora_A.weight"] = (1024 * right).astype(kind)
        pairs[f"base_model.model.{module}.lora_B.weight"] = left.astype(kind)
    save_file(pairs, folder / "trained" / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 16, "target_modules": MODULES, "bias": "none"}
    config |= {"rank_pattern": {MODULES[1]: 4}, "alpha_pattern": {}, "use_rslora": False, "use_dora": False}
    (folder / "trained" / "adapter_config.json").write_text(json.dumps(config, indent=2))

    # A sharded checkpoint, in half and in single precision.
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    first = {f"{MODULES[0]}.weight": weight(0).astype("f2"), "ids": numpy.arange(5)}
    second = {f"{MODULES[1]}.weight": weight(1).astype("f4"), "norm.weight": weight(2).astype("f4")}
    for shard, tensors in zip(shards, [first, second]):
        save_file(tensors, folder / shard, {"format": "pt"})
    weight_map = {name: shard for shard, tensors in zip(shards, [first, second]) for name in tensors}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def metadata(path):
    with safe_open(path, "np") as file:
        return file.metadata()


def check(folder):
    total = keys() @ keys().T

    # As the reader of the MEMIT family does: every member an array, `None` a NaN of certain bits.
    for name, dtype, samples in [("f32.npz", "f4", 100), ("f64.npz", "f8", None)]:
        with numpy.load(folder / name, allow_pickle=False) as file:
            assert list(file) == ["mom2.constructor", "mom2.count", "mom2.mom2", "sample_size"], list(file)
            assert str(file["mom2.constructor"]) == "util.runningstats.SecondMoment()"
            assert file["mom2.count"].dtype == numpy.int64 and file["mom2.count"].shape == ()
            assert int(file["mom2.count"]) == TOKENS
            assert file["mom2.mom2"].dtype == numpy.dtype(dtype) and (file["mom2.mom2"] == total).all()
            if samples is None:
                assert file["sample_size"].tobytes() == null().tobytes()
            else:
                assert file["sample_size"] == samples and file["sample_size"].shape == ()

    statistics = load_file(folder / "statistics.safetensors")
    assert list(statistics) == ["sum"] and (statistics["sum"] == total).all()
    described = metadata(folder / "statistics.safetensors")
    assert described["tokens"] == str(TOKENS) and json.loads(described["parts"]) == ["0 of 2", "1 of 2"]

    spectrum = load_file(folder / "spectrum.safetensors")
    values, vectors = spectrum["values"][0], spectrum["vectors"].T
    mean = total / TOKENS
    assert numpy.abs(vectors @ numpy.diag(values) @ vectors.T - mean).max() < 1e-12 * numpy.abs(mean).max()
    assert numpy.abs(values - numpy.linalg.eigvalsh(mean)).max() < 1e-12 * values.max()

    for name, dtype, expected in [("f32.npy", "<f4", keys().T), ("f64.npy", "<f8", keys())]:
        array = numpy.load(folder / name, allow_pickle=False)
        assert array.dtype == numpy.dtype(dtype) and array.flags.c_contiguous and (array == expected).all(), name
    kept = vectors[:, :5]
    assert numpy.abs(numpy.load(folder / "projector.npy") - kept @ kept.T).max() < 1e-6
    kept = numpy.linalg.eigh(total)[1][:, :5]
    for name in ["f32", "f64"]:
        projector = load_file(folder / f"projector-{name}.safetensors")
        assert list(projector) == ["projector.4"] and projector["projector.4"].dtype == numpy.dtype(name.replace("f", "float"))
        assert numpy.abs(projector["projector.4"] - kept @ kept.T).max() < 1e-6

    ranks = [3, 2]
    deltas = [left @ right for left, right in (factors(number, n) for number, n in enumerate(ranks))]
    delta = load_file(folder / "delta.safetensors")
    assert len(delta) == 4
    for module, expected in zip(MODULES, deltas):
        assert (delta[f"{module}.weight.left"].astype("f8") @ delta[f"{module}.weight.right"] == expected).all()

    # The trained adapter times P: the same names, shapes, types and configuration.
    trained, projected = (load_file(folder / name / "adapter_model.safetensors") for name in ["trained", "projected"])
    P = numpy.load(folder / "projector.npy")
    assert set(trained) == set(projected)
    for name, before in trained.items():
        after, side = projected[name], name.split(".lora_")[1][0]
        assert after.shape == before.shape and after.dtype == before.dtype, name
        expected = before.astype("f8") @ P if side == "A" else before
        assert numpy.abs(after - expected).max() <= (1e-3 if before.dtype == "f2" else 1e-6) * numpy.abs(before).max(), name
    assert metadata(folder / "projected" / "adapter_model.safetensors") == {"format": "pt"}
    texts = [(folder / name / "adapter_config.json").read_bytes() for name in ["trained", "projected"]]
    assert texts[0] == texts[1]

    # PEFT: the names, shapes and types of its `get_peft_model_state_dict`, the fields of its `LoraConfig`.
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert metadata(folder / "adapter" / "adapter_model.safetensors") == {"format": "pt"}
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["bias"] == "none" and config["modules_to_save"] is None
    assert config["base_model_name_or_path"] == "a/model" and config["fan_in_fan_out"] is False
    assert sorted(config["target_modules"]) == MODULES
    names = {f"base_model.model.{module}.lora_{side}.weight" for module in MODULES for side in "AB"}
    assert set(adapter) == names, set(adapter)
    for module, expected, n in zip(MODULES, deltas, ranks):
        A, B = (adapter[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        # One rank for all: vLLM and the converter of llama.cpp do not read the patterns.
        r, alpha = config["r"], config["lora_alpha"]
        assert not config["rank_pattern"] and not config["alpha_pattern"]
        assert A.dtype == B.dtype == numpy.float32 and A.shape == (r, D) and B.shape == (OUT, r)
        assert r == max(ranks) and not A[n:].any() and (alpha / r * (B.astype("f8") @ A.astype("f8")) == expected).all()

    # The checkpoint: numpy rounds the exact sum as Rust did, and what was not patched is as it was.
    patched = load_file(folder / "model-00001-of-00002.safetensors")
    expected = (weight(0).astype("f2").astype("f8") + deltas[0]).astype("f2")
    assert patched[f"{MODULES[0]}.weight"].tobytes() == expected.tobytes()
    assert (patched["ids"] == numpy.arange(5)).all() and len(patched) == 2
    patched = load_file(folder / "model-00002-of-00002.safetensors")
    expected = (weight(1) + deltas[1]).astype("f4")
    assert patched[f"{MODULES[1]}.weight"].tobytes() == expected.tobytes()
    assert (patched["norm.weight"] == weight(2)).all()


def check_with_peft(folder):
    import torch
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": OUT, "intermediate_size": D, "num_hidden_layers": 6}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).float()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    merged = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
    edited = [f"{module}.weight" for module in MODULES]
    for name, parameter in merged.named_parameters():
        change = (parameter.detach() - before[name]).double().numpy()
        if name in edited:
            left, right = factors(edited.index(name), [3, 2][edited.index(name)])
            # PEFT adds in f32.
            assert numpy.abs(change - left @ right).max() < 1e-8, name
        else:
            assert not change.any(), name

    projectors = torch.stack([torch.eye(4), torch.zeros(4, 4)])
    torch.save(projectors, folder / "null_space_project.pt")
    page = (Path(__file__).parent.parent.parent / "docs" / "files.md").read_text()
    converter = next(block for block in page.split("```python")[1:] if "torch.load" in block).split("```")[0]
    files = [folder / "null_space_project.pt", folder / "converted.safetensors"]
    subprocess.run([sys.executable, "-c", converter, *files], check=True)
    converted = load_file(files[1])
    assert sorted(converted) == ["projector.0", "projector.1"]
    assert (converted["projector.0"] == numpy.eye(4)).all() and not converted["projector.1"].any()


def copy(folder):
    """All tensors by way of numpy, the other files as they are."""
    place = folder / "copy"
    place.mkdir()
    for name in ["config.json", "tokenizer.json"]:
        shutil.copy(folder / name, place / name)
    save_file(load_file(folder / "model.safetensors"), place / "model.safetensors")


if __name__ == "__main__":
    verb, folder = sys.argv[1], Path(sys.argv[2])
    {"write": write, "check": check, "copy": copy}[verb](folder)
    if verb == "check" and importlib.util.find_spec("peft"):
        check_with_peft(folder)
