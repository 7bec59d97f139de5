//! The commands for matrices: `solve`, `project`, `merge`.

use std::path::{Path, PathBuf};

use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, MatRef, Par, Scale};
use betaedit_core::format::lora::{self, LoraAdapter};
use betaedit_core::format::{Checkpoint, Precision, Statistics, Updates, npy};
use betaedit_core::{Orientation, Update};
use tempfile::TempDir;

use crate::setting::{Setting, betaedit, done, json, model_directory, read, refused};

const LINEAR: Orientation = Orientation::OutputsByInputs;
const DOWN: &str = "model.layers.1.mlp.down_proj";

fn wave(rows: usize, cols: usize, seed: f64) -> Mat<f64> {
    Mat::from_fn(rows, cols, |i, j| (seed + 3.7 * i as f64 + 1.3 * j as f64 * (1.0 + seed)).sin())
}

fn weight(path: &Path, name: &str) -> Mat<f64> {
    Checkpoint::open(path).unwrap().weight(name, LINEAR).unwrap()
}

fn near(found: MatRef<'_, f64>, expected: MatRef<'_, f64>, bound: f64) {
    let error = (found - expected).norm_l2() / expected.norm_l2();
    assert!(error < bound, "{error:e}");
}

fn inverse(A: &Mat<f64>) -> Mat<f64> {
    A.partial_piv_lu().solve(Mat::<f64>::identity(A.nrows(), A.nrows()))
}

/// A folder with a model's file of weights and arrays for its tensor `DOWN`.
struct Arrays {
    folder: TempDir,
    weights: PathBuf,
    d_in: usize,
    d_out: usize,
}

impl Arrays {
    fn new() -> Self {
        let model = model_directory("llama");
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("weights.safetensors");
        std::fs::copy(model.path().join("model.safetensors"), &weights).unwrap();
        let (d_out, d_in) = weight(&weights, &format!("{DOWN}.weight")).shape();
        let arrays = Self { folder, weights, d_in, d_out };
        arrays.write("K.npy", &wave(3, d_in, 0.1));
        arrays.write("A.npy", &wave(3, d_in, 0.2));
        arrays.write("one.npy", &wave(1, d_in, 0.3));
        arrays.write("V.npy", &wave(3, d_out, 0.4));
        arrays.write("P.npy", &wave(20, d_in, 0.5));
        arrays
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, rows: &Mat<f64>) {
        npy::write(self.path(name), rows.as_ref(), Precision::F64).unwrap();
    }

    fn solve(&self, tensors: &[&str], flags: &[&str]) -> std::process::Command {
        let mut solve = betaedit();
        solve.arg("solve").current_dir(self.folder.path()).args(["--weights", "weights.safetensors"]);
        if !flags.contains(&"--keys") {
            solve.args(["--keys", "K.npy"]);
        }
        for tensor in tensors {
            solve.args(["--tensor", tensor]);
        }
        solve.args(flags).args(["--out", "edited.safetensors"]);
        solve
    }
}

#[test]
fn a_weight_is_solved_as_uce_has_it() {
    let arrays = Arrays::new();
    let name = format!("{DOWN}.weight");
    let flags = ["--values", "V.npy", "--preserve", "P.npy", "--ridge", "0.2", "--edit-weight", "2"];
    let result = json(&mut arrays.solve(&[&name], &flags));
    let W = weight(&arrays.weights, &name);
    let (K, V, C) = (wave(3, arrays.d_in, 0.1), wave(3, arrays.d_out, 0.4), wave(20, arrays.d_in, 0.5));
    let CC = C.transpose() * &C;
    let numerator = &W * Scale(0.2) + V.transpose() * &K * Scale(2.0) + &W * &CC;
    let system = Mat::<f64>::identity(arrays.d_in, arrays.d_in) * Scale(0.2) + K.transpose() * &K * Scale(2.0) + CC;
    let expected = numerator * inverse(&system);
    near(weight(&arrays.path("edited.safetensors"), &name).as_ref(), expected.as_ref(), 1e-6);

    let reported = |field: &str| result["tensors"][0][field].as_f64().unwrap();
    let residual = V.transpose() - &W * K.transpose();
    let missed = (V.transpose() - &expected * K.transpose()).norm_l2() / residual.norm_l2();
    let change = &expected - &W;
    assert!((reported("write_error") - missed).abs() < 1e-9);
    assert!((reported("change") / change.norm_l2() - 1.0).abs() < 1e-9);
    let leakage = (&change * C.transpose()).squared_norm_l2() / 20.0;
    assert!((reported("leakage") / leakage - 1.0).abs() < 1e-6);
    let outputs = (&W * C.transpose()).squared_norm_l2() / 20.0;
    assert!((reported("preserved_output") / outputs - 1.0).abs() < 1e-9);

    // Nothing else in the file is another byte.
    let (before, after) = (read(&arrays.weights), read(&arrays.path("edited.safetensors")));
    assert_eq!(before.len(), after.len());
    let differ = before.iter().zip(&after).filter(|(one, two)| one != two).count();
    assert!(differ > 0 && differ <= 4 * arrays.d_in * arrays.d_out);
    // An output that is there is replaced.
    done(&mut arrays.solve(&[&name], &flags));
}

#[test]
fn all_layers_that_read_the_same_keys_are_edited_at_once() {
    let arrays = Arrays::new();
    for method in ["uce", "speed", "alphaedit", "betaedit", "memit"] {
        let mut flags = vec!["--anchors", "one.npy", "--preserve", "P.npy", "--method", method];
        flags.extend(if method == "memit" { ["--ridge", "0.1"] } else { ["--ridge", "0.01"] });
        if method == "speed" {
            flags.extend(["--invariant", "A.npy"]);
        }
        let said = done(&mut arrays.solve(&["model.layers.*.down_proj.weight"], &flags));
        assert!(said.contains("layers.0.mlp.down_proj.weight") && said.contains("layers.2.mlp"), "{said}");
        let edited = arrays.path("edited.safetensors");
        // The same right factor in all of them: W (A - K) directionsᵀ.
        let moved = |layer: usize| {
            let name = format!("model.layers.{layer}.mlp.down_proj.weight");
            let W = weight(&arrays.weights, &name);
            (weight(&edited, &name) - &W, W)
        };
        let (K, one) = (wave(3, arrays.d_in, 0.1), wave(1, arrays.d_in, 0.3));
        let differences = Mat::from_fn(arrays.d_in, 3, |i, j| one[(0, i)] - K[(j, i)]);
        let ((first, W0), (second, W2)) = (moved(0), moved(2));
        let directions = |Delta: &Mat<f64>, W: &Mat<f64>| {
            let R = W * &differences;
            inverse(&(R.transpose() * &R)) * R.transpose() * Delta
        };
        assert!(first.norm_l2() > 0.0, "{method}");
        near(directions(&second, &W2).as_ref(), directions(&first, &W0).as_ref(), 1e-3);
        if method == "speed" {
            let kept = (&first * wave(3, arrays.d_in, 0.2).transpose()).norm_l2();
            assert!(kept < 1e-4 * first.norm_l2(), "{kept}");
        }
    }
}

#[test]
fn bad_arrays_and_flags_are_named() {
    let arrays = Arrays::new();
    let name = format!("{DOWN}.weight");
    let refuse = |flags: &[&str], expected: &[&str]| {
        refused(&mut arrays.solve(&[&name], flags), expected);
        assert!(!arrays.path("edited.safetensors").exists());
    };
    let transposed = wave(arrays.d_in, 3, 0.1);
    arrays.write("T.npy", &transposed);
    arrays.write("two.npy", &wave(2, arrays.d_out, 0.1));
    std::fs::write(arrays.path("text.npy"), "1 2 3").unwrap();
    std::fs::copy(crate::setting::of_the_library("data/npy/nan.npy"), arrays.path("nan.npy")).unwrap();
    refuse(&["--values", "V.npy", "--keys", "T.npy"], &["T.npy", "each sample is a row", &name]);
    refuse(&["--values", "two.npy"], &["two.npy", "2 rows", "K.npy", "3 rows"]);
    refuse(&["--values", "A.npy"], &["A.npy", "outputs of tensor"]);
    refuse(&["--anchors", "V.npy"], &["V.npy", "as in `K.npy`"]);
    refuse(&["--values", "V.npy", "--preserve", "V.npy"], &["V.npy", "as in `K.npy`"]);
    refuse(&["--values", "nan.npy"], &["nan.npy", "NaN"]);
    refuse(&["--values", "text.npy"], &["text.npy"]);
    refuse(&["--values", "none.npy"], &["none.npy"]);
    refuse(&["--values", "V.npy", "--threshold", "1"], &["--threshold", "speed"]);
    refuse(&["--values", "V.npy", "--method", "speed"], &["--preserve"]);
    refuse(&["--values", "V.npy", "--ridge=-1"], &["ridge"]);
    refuse(&["--values", "V.npy", "--tensor", "model.norm.weight"], &["model.norm.weight", "expected 2"]);
    refuse(&["--values", "V.npy", "--tensor", "no.such*"], &["no.such*", "embed_tokens"]);
    let mut other = betaedit();
    other
        .arg("solve")
        .current_dir(arrays.folder.path())
        .args(["--keys", "K.npy", "--values", "V.npy", "--tensor", &name]);
    let mut onto_itself = betaedit();
    onto_itself.arg("solve").current_dir(arrays.folder.path()).args([
        "--weights",
        "weights.safetensors",
        "--tensor",
        &name,
    ]);
    onto_itself.args(["--keys", "K.npy", "--values", "V.npy", "--out", "weights.safetensors"]);
    refused(&mut onto_itself, &["weights.safetensors", "another path"]);
    refused(other.args(["--weights", ".", "--out", "edited.safetensors"]), &["not a .safetensors file"]);
}

/// `tr(D C Dᵀ)` with the mean of a file of statistics.
fn dense_leakage(update: &Update<f64>, statistics: &Statistics) -> f64 {
    let D = update.to_dense(Par::Seq);
    let C = statistics.sum() * Scale(1.0 / statistics.tokens() as f64);
    (0..D.nrows()).map(|i| D.row(i) * &C * D.row(i).transpose()).sum()
}

#[test]
fn an_adapter_leaves_what_the_model_knows() {
    let setting = Setting::with_statistics("llama");
    let (d_out, d_in) = weight(setting.model.path(), &format!("{DOWN}.weight")).shape();
    let update = |seed| Update::from_factors(wave(d_out, 2, seed), wave(2, d_in, seed + 1.0)).unwrap();
    let module = |layer| format!("model.layers.{layer}.mlp.down_proj");
    let updates = Updates::from([1, 2].map(|layer| (format!("{}.weight", module(layer)), update(layer as f64))));
    let (trained, projected) = (setting.path("trained"), setting.path("projected"));
    lora::write(&trained, &updates, "org/model", LINEAR).unwrap();
    std::fs::write(trained.join("README.md"), "a page").unwrap();
    let project = |out: &Path| {
        let mut project = betaedit();
        project.arg("project").arg("--lora").arg(&trained).arg("--stats").arg(setting.path("stats"));
        project.args(["--threshold", "0.01"]).arg("--out").arg(out);
        project
    };
    let result = json(&mut project(&projected));
    let [before, after] = [&trained, &projected].map(|folder| LoraAdapter::read(folder).unwrap());
    for (i, layer) in [1, 2].into_iter().enumerate() {
        let statistics = setting.path("stats").join(format!("layer-{layer:02}.statistics.safetensors"));
        let statistics = Statistics::read(statistics).unwrap();
        let reported = |field: &str| result["modules"][i][field].as_f64().unwrap();
        let dense = dense_leakage(&before.update(&module(layer)).unwrap(), &statistics);
        assert!((reported("leakage_before") / dense - 1.0).abs() < 1e-9);
        let left = dense_leakage(&after.update(&module(layer)).unwrap(), &statistics);
        assert!((reported("leakage_after") - left).abs() < 1e-7 * dense);
        // Every direction that is kept has an eigenvalue below the threshold.
        assert!(left <= 0.01 * after.update(&module(layer)).unwrap().frobenius_norm().powi(2) && left < dense);
        let kept = reported("kept_directions");
        assert!(kept > 0.0 && kept < d_in as f64);
    }
    for file in ["adapter_config.json", "README.md"] {
        assert_eq!(read(&trained.join(file)), read(&projected.join(file)));
    }

    // What it wrote itself it replaces, and nothing else.
    done(&mut project(&projected));
    std::fs::write(projected.join("notes.txt"), "mine").unwrap();
    refused(&mut project(&projected), &["notes.txt", "not ours to replace"]);
    refused(&mut project(&trained), &["is the input"]);
    let others = Updates::from([
        (format!("{DOWN}.weight"), update(1.0)),
        ("model.layers.1.self_attn.q_proj.weight".to_owned(), update(1.0)),
    ]);
    lora::write(&trained, &others, "org/model", LINEAR).unwrap();
    refused(&mut project(&setting.path("refused")), &["q_proj", "--others keep"]);
    assert!(!setting.path("refused").exists());
    let said = done(project(&setting.path("kept")).args(["--others", "keep"]));
    assert!(said.contains("1 modules without statistics"), "{said}");
    let [before, after] = [&trained, &setting.path("kept")].map(|folder| LoraAdapter::read(folder).unwrap());
    let q_proj = |adapter: &LoraAdapter| adapter.update("model.layers.1.self_attn.q_proj").unwrap().to_dense(Par::Seq);
    assert_eq!(q_proj(&before), q_proj(&after));
}

#[test]
fn models_are_merged_by_their_statistics_and_the_rest_is_averaged() {
    let (one, two) = (Setting::with_statistics("llama"), Setting::new("llama"));
    let names = [1, 2].map(|layer| format!("model.layers.{layer}.mlp.down_proj.weight"));
    let query = "model.layers.0.self_attn.q_proj.weight";
    // The second model is another one in three of its weights.
    let checkpoint = Checkpoint::open(two.model.path()).unwrap();
    for name in names.iter().map(String::as_str).chain([query]) {
        let W = checkpoint.weight::<f64>(name, LINEAR).unwrap();
        let other = &W + wave(W.nrows(), W.ncols(), 0.7) * Scale(0.1);
        checkpoint.replace(name, other.as_ref(), LINEAR).unwrap();
    }
    done(two.command("stats").args(["--layers", "1-2", "--tokens", "500", "--out"]).arg(two.path("stats")));
    let merge = |settings: &[&Setting], out: &Path| {
        let mut merge = betaedit();
        merge.arg("merge");
        for setting in settings {
            merge.arg("--model").arg(setting.model.path()).arg("--stats").arg(setting.path("stats"));
        }
        merge.arg("--out").arg(out);
        merge
    };
    let out = one.path("merged");
    let result = json(&mut merge(&[&one, &two], &out));
    assert_eq!(result["layers"].as_array().unwrap().len(), 2);
    for (i, (layer, name)) in [1, 2].into_iter().zip(&names).enumerate() {
        let (mut numerator, mut total) = (None::<Mat<f64>>, None::<Mat<f64>>);
        for setting in [&one, &two] {
            let path = setting.path("stats").join(format!("layer-{layer:02}.statistics.safetensors"));
            let statistics = Statistics::read(path).unwrap();
            let share = |i, j| if i == j { 1.0 } else { 0.9 } / statistics.tokens() as f64;
            let G = Mat::from_fn(statistics.d_in(), statistics.d_in(), |i, j| share(i, j) * statistics.sum()[(i, j)]);
            let WG = weight(setting.model.path(), name) * &G;
            numerator = Some(numerator.map_or(WG.clone(), |sum| sum + &WG));
            total = Some(total.map_or(G.clone(), |sum| sum + &G));
        }
        let expected = numerator.unwrap() * inverse(&total.unwrap());
        near(weight(&out, name).as_ref(), expected.as_ref(), 1e-6);
        let reported = |field: &str| result["layers"][i][field].as_f64().unwrap();
        assert!(reported("merged_error") < reported("average_error"), "{result}");
    }
    let average = (weight(one.model.path(), query) + weight(two.model.path(), query)) * Scale(0.5);
    near(weight(&out, query).as_ref(), average.as_ref(), 1e-7);
    assert_eq!(read(&out.join("tokenizer.json")), read(&one.model.path().join("tokenizer.json")));

    // A model merged with itself is itself.
    let same = one.path("same");
    let (output, _, notes) = crate::setting::run(&mut merge(&[&one, &one], &same));
    assert!(output.status.success() && notes.contains("statistics of the same model"), "{notes}");
    assert_eq!(read(&same.join("model.safetensors")), read(&one.model.path().join("model.safetensors")));

    done(&mut merge(&[&one, &two], &out));
    std::fs::remove_file(out.join("betaedit.json")).unwrap();
    refused(&mut merge(&[&one, &two], &out), &["config.json", "not ours to replace"]);
    refused(&mut merge(&[&one], &one.path("alone")), &["two or more"]);
    refused(
        merge(&[&one, &two], &one.path("refused")).args(["--off-diagonal", "2"]),
        &["off_diagonal", "between 0 and 1"],
    );
    let foreign = Setting::with_statistics("gpt2");
    refused(&mut merge(&[&one, &foreign], &one.path("refused")), &["there is no tensor"]);
    std::fs::remove_file(two.path("stats").join("layer-01.statistics.safetensors")).unwrap();
    std::fs::remove_file(two.path("stats").join("layer-02.statistics.safetensors")).unwrap();
    refused(&mut merge(&[&one, &two], &one.path("refused")), &["no layer", "betaedit stats"]);
    assert!(!one.path("refused").exists());
}
