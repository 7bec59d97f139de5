"""Files, written and read back, and against numpy."""

import json

import numpy as np
import pytest

import betaedit
from betaedit import FileError, Statistics, Update, files, shipped


def test_statistics_are_parts_that_add_up(problem, tmp_path):
    half = problem.text.shape[1] // 2
    parts = []
    for at, text in enumerate((problem.text[:, :half], problem.text[:, half:])):
        moment = betaedit.SecondMoment(problem.d_in)
        moment.observe(text)
        part = Statistics(moment, model="m", layer=3, text="t", part=f"{at + 1} of 2")
        parts.append(tmp_path / f"{at}.safetensors")
        part.write(parts[-1])
    whole = Statistics.read_parts(parts)
    assert (whole.tokens, whole.parts, whole.fingerprint) == (2 * half, ["1 of 2", "2 of 2"], ("m", 3, "t"))
    assert np.linalg.norm(whole.sum - problem.text @ problem.text.T) < 1e-8
    with pytest.raises(FileError, match="already"):
        whole.merge(Statistics.read(parts[0]))
    moment = whole.moment(problem.text[:, :4])
    assert np.linalg.norm(moment.mean() - problem.C) < 1e-12
    with pytest.raises(betaedit.Error):
        Statistics.read(tmp_path / "nothing")


def test_npz_files_are_those_of_numpy(problem, tmp_path):
    path = tmp_path / "stats.npz"
    Statistics(problem.moment, model="m", layer=0, text="t", part="all").write_npz(path, "f64", 100)
    with np.load(path) as arrays:
        assert arrays["mom2.count"] == 4000
        assert np.linalg.norm(arrays["mom2.mom2"] / 4000 - problem.C) < 1e-12
    assert Statistics.read_npz(path).tokens == 4000


def test_updates_come_back(rng, tmp_path):
    updates = {f"model.layers.{i}.mlp.down_proj.weight": Update(rng.standard_normal((4, 2)), rng.standard_normal((2, 6))) for i in range(2)}
    files.write_delta(tmp_path / "delta.safetensors", updates)
    read = files.read_delta(tmp_path / "delta.safetensors")
    assert list(read) == sorted(updates)
    for name, update in updates.items():
        assert np.array_equal(read[name].left, update.left)
    files.write_lora(tmp_path / "lora", updates, "some/model")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/model"
    adapter = files.LoraAdapter.read(tmp_path / "lora")
    name = adapter.modules[0]
    assert np.allclose(adapter.update(name).to_dense(), updates[f"{name}.weight"].to_dense())
    with pytest.raises(betaedit.Error, match="weight"):
        files.write_lora(tmp_path / "other", {"bias": Update(np.ones((2, 1)), np.ones((1, 2)))}, "m")


def test_spectra_come_back(problem, tmp_path):
    files.write_spectrum(tmp_path / "s.safetensors", problem.spectrum, model="m", layer=2, text="t")
    spectrum, of = files.read_spectrum(tmp_path / "s.safetensors")
    assert np.array_equal(spectrum.values, problem.spectrum.values)
    assert of == ("m", 2, "t")


def test_what_is_shipped_is_there():
    assert len(shipped.facts()) >= 20
    assert {"subject", "prompt", "target_new"} <= set(shipped.facts()[0])
    assert len(shipped.statistics_text()) > 100_000
    assert len(shipped.held_out_text()) > 10_000
    assert "Paris" not in shipped.contrast_names() or len(shipped.contrast_names()) > 100
