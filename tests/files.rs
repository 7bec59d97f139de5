//! Statistics, spectra, projectors, deltas and adapters as files, read back by the format's own library.

use betaedit_core::error::{FileError, NumericsError};
use betaedit_core::faer::{Mat, MatRef, Par, Scale};
use betaedit_core::format::{Fingerprint, Precision, Statistics, Updates, delta, lora, spectrum};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::update::Compressed;
use betaedit_core::update::Compression;
use betaedit_core::{
    AlphaEdit, EditBatch, Editor, Error, Method, Orientation, Scalar, SecondMoment, Spectrum, Threshold, Update,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{distance, safetensors_file};

const SEQ: Par = Par::Seq;

fn keys(d: usize, n: usize) -> Mat<f64> {
    Mat::from_fn(d, n, |i, j| ((i * 37 + j * 11) as f64 * 0.7).sin() + 0.3 * ((i + 3 * j) as f64).cos())
}

fn moment(d: usize, n: usize) -> SecondMoment {
    let mut moment = SecondMoment::new(d);
    moment.observe(keys(d, n).as_ref(), SEQ).unwrap();
    moment
}

fn fingerprint() -> Fingerprint {
    Fingerprint { model: "a model".to_owned(), layer: 13, text: "some \"text\" é".to_owned() }
}

fn update<T: Scalar>(d_out: usize, d_in: usize, n: usize) -> Update<T> {
    let entry = |i: usize, j: usize| T::from_f64(((i * 13 + j * 7) as f64).sin());
    Update::from_factors(Mat::from_fn(d_out, n, entry), Mat::from_fn(n, d_in, |i, j| entry(j + 5, i))).unwrap()
}

/// A tensor of a file, by the format's own library.
fn stored(bytes: &[u8], name: &str) -> Mat<f64> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let numbers: Vec<f64> = match tensor.dtype() {
        Dtype::F64 => tensor.data().as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect(),
        Dtype::F32 => tensor.data().as_chunks().0.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect(),
        other => panic!("{other}"),
    };
    let [rows, cols] = tensor.shape() else { panic!("{:?}", tensor.shape()) };
    MatRef::from_row_major_slice(&numbers, *rows, *cols).to_owned()
}

fn metadata(bytes: &[u8], key: &str) -> String {
    SafeTensors::read_metadata(bytes).unwrap().1.metadata().as_ref().unwrap()[key].clone()
}

#[test]
fn statistics_come_back_bit_for_bit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("statistics.safetensors");
    let moment = moment(37, 150);
    let written = Statistics::from_moment(&moment, fingerprint(), "1 of 1", SEQ).unwrap();
    written.write(&path).unwrap();
    let read = Statistics::read(&path).unwrap();
    assert_eq!(read, written);
    assert_eq!(read.sum(), moment.to_sum(SEQ).unwrap());
    assert_eq!((read.tokens(), read.fingerprint(), read.d_in()), (150, Some(&fingerprint()), 37));

    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(stored(&bytes, "sum"), moment.to_sum(SEQ).unwrap());
    let [format, tokens, layer, model] = ["format", "tokens", "layer", "model"].map(|key| metadata(&bytes, key));
    assert_eq!([&format, &tokens, &layer, &model], ["betaedit.statistics.1", "150", "13", "a model"]);
    assert_eq!(serde_json::from_str::<Value>(&metadata(&bytes, "parts")).unwrap(), serde_json::json!(["1 of 1"]));
    // Equal statistics, equal bytes.
    read.write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);

    let witness = keys(37, 3);
    assert_eq!(read.moment(witness.as_ref()).unwrap().to_mean(SEQ).unwrap(), moment.to_mean(SEQ).unwrap());
    // A mean that poses as a sum.
    let mean = moment.to_mean(SEQ).unwrap();
    let mut a_million = SecondMoment::from_mean(mean.as_ref(), Some(1_000_000), witness.as_ref()).unwrap();
    a_million.observe(witness.as_ref(), SEQ).unwrap();
    assert!(matches!(
        SecondMoment::from_sum(mean.as_ref(), 1_000_000, witness.as_ref()),
        Err(NumericsError::Scale { .. })
    ));
}

#[test]
fn parts_of_many_workers_are_the_whole() {
    let folder = TempDir::new().unwrap();
    let (d, n, workers) = (20, 210, 7);
    let keys = keys(d, n);
    let paths: Vec<_> = (0..workers)
        .map(|worker| {
            let mut moment = SecondMoment::new(d);
            moment.observe(keys.as_ref().subcols(worker * n / workers, n / workers), SEQ).unwrap();
            let path = folder.path().join(format!("{worker}.safetensors"));
            Statistics::from_moment(&moment, fingerprint(), &format!("{worker} of {workers}"), SEQ)
                .unwrap()
                .write(&path)
                .unwrap();
            path
        })
        .collect();
    let merged = Statistics::read_parts(&paths).unwrap();
    assert_eq!(merged.tokens(), n as u64);
    assert_eq!(merged.parts().count(), workers);
    let expected = &keys * keys.transpose();
    assert!(distance(merged.sum(), expected.as_ref()) < 1e-14);

    // A part that is there already, another layer, another length: nothing is added.
    let mut merged = merged;
    let before = merged.clone();
    let again = Statistics::read(&paths[3]).unwrap();
    assert!(matches!(merged.merge(&again), Err(Error::File(FileError::CountedAlready { part })) if part == "3 of 7"));
    let other = Fingerprint { layer: 14, ..fingerprint() };
    let other = Statistics::from_moment(&moment(d, 10), other, "new", SEQ).unwrap();
    let text = merged.merge(&other).unwrap_err().to_string();
    assert!(text.contains("layer 13") && text.contains("layer 14"), "{text}");
    let shorter = Statistics::from_moment(&moment(d - 1, 10), fingerprint(), "new", SEQ).unwrap();
    assert!(matches!(merged.merge(&shorter), Err(Error::Numerics(NumericsError::Shape { argument: "other", .. }))));
    assert_eq!(merged, before);
    assert!(matches!(Statistics::read_parts([&paths[0], &paths[0]]), Err(Error::File(FileError::Format { .. }))));
    let none: [&std::path::Path; 0] = [];
    assert!(matches!(
        Statistics::read_parts(none),
        Err(Error::Numerics(NumericsError::Empty { argument: "paths", .. }))
    ));
}

#[test]
fn statistics_of_nothing_or_of_an_unknown_number_are_not_written() {
    let nothing = Statistics::from_moment(&SecondMoment::new(3), fingerprint(), "1", SEQ);
    assert!(matches!(nothing, Err(Error::Numerics(NumericsError::Empty { argument: "moment", .. }))));
    let unknown =
        SecondMoment::from_mean(moment(3, 40).to_mean(SEQ).unwrap().as_ref(), None, keys(3, 9).as_ref()).unwrap();
    let unknown = Statistics::from_moment(&unknown, fingerprint(), "1", SEQ);
    assert!(matches!(unknown, Err(Error::Numerics(NumericsError::UnknownTokenCount { argument: "moment" }))));
}

#[test]
fn a_spectrum_serves_every_threshold() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("spectrum.safetensors");
    let written = Spectrum::new(&moment(48, 300), SEQ).unwrap();
    spectrum::write(&path, &written, &fingerprint()).unwrap();
    let (read, of) = spectrum::read(&path, SEQ).unwrap();
    assert_eq!((read.values(), read.vectors(), of), (written.values(), written.vectors(), fingerprint()));
    let (read, written) = (std::sync::Arc::new(read), std::sync::Arc::new(written));
    for threshold in [Threshold::Absolute(1e-3), Threshold::KeptEnergy(0.2), Threshold::Directions(5)] {
        let [ours, theirs] = [&read, &written]
            .map(|of| ProjectorBuilder::new(of).threshold(threshold).build(SEQ).unwrap().to_dense(SEQ));
        assert_eq!(ours, theirs);
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(stored(&bytes, "vectors").transpose(), written.vectors());

    // One wrong number in the vectors is found.
    let mut bytes = bytes;
    let at = bytes.len() - 8;
    bytes[at..].copy_from_slice(&0.9_f64.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let Error::File(FileError::Numbers { error, .. }) = spectrum::read(&path, SEQ).unwrap_err() else { panic!() };
    assert!(matches!(*error, NumericsError::NotOrthonormal { argument: "vectors", .. }), "{error:?}");
}

#[test]
fn a_dense_projector_edits_as_its_spectrum_does() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("projector.safetensors");
    let d = 40;
    let spectrum = std::sync::Arc::new(Spectrum::new(&moment(d, 25), SEQ).unwrap());
    let threshold = Threshold::Directions(22);
    let ours = ProjectorBuilder::new(&spectrum).threshold(threshold).build(SEQ).unwrap();
    let write = |P: &Mat<f64>| {
        let bytes = P.row_iter().flat_map(|row| row.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect::<Vec<_>>());
        let file = safetensors_file(&[("projector.0", Dtype::F32, vec![d, d], bytes.collect())]);
        std::fs::write(&path, file).unwrap();
    };
    let P = ours.to_dense(SEQ);
    write(&P);
    let read = spectrum::read_projector(&path, "projector.0", SEQ).unwrap();
    assert_eq!((read.kept(), read.dim()), (22, d));
    assert!((read.to_dense(SEQ) - &P).norm_l2() < 1e-6);
    // What we write is what others read, and comes back.
    for (precision, dtype, exact) in [(Precision::F32, Dtype::F32, 1e-6), (Precision::F64, Dtype::F64, 1e-13)] {
        spectrum::write_projector(&path, "model.3", &ours, precision, SEQ).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("model.3").unwrap();
        assert_eq!((tensors.len(), tensor.dtype(), tensor.shape()), (1, dtype, &[d, d][..]));
        assert!((stored(&bytes, "model.3") - &P).norm_l2() <= exact, "{precision}");
        let read = spectrum::read_projector(&path, "model.3", SEQ).unwrap();
        assert_eq!((read.kept(), read.dim()), (22, d));
        assert!((read.to_dense(SEQ) - &P).norm_l2() < exact, "{precision}");
    }
    let before = std::fs::read(&path).unwrap();
    for precision in [Precision::F16, Precision::Bf16] {
        let refused = spectrum::write_projector(&path, "model.3", &ours, precision, SEQ).unwrap_err();
        assert!(matches!(refused, Error::Numerics(NumericsError::Unsupported { .. })), "{refused:?}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let method = AlphaEdit::default();
    // Keys that the text does not have.
    let k = Mat::from_fn(d, 2, |i, j| ((i * i + 7 * j) as f64).sin());
    let r = keys(30, 2);
    let batch = EditBatch::new(k.as_ref(), r.as_ref()).unwrap();
    let edit = |spectrum, threshold| {
        let editor = method.with_threshold(threshold).editor::<f64>(spectrum, SEQ).unwrap();
        editor.propose(&batch).unwrap().update().to_dense(SEQ)
    };
    let [theirs, ours] = [edit(read.spectrum(), Threshold::Absolute(0.5)), edit(&spectrum, threshold)];
    assert!(distance(theirs.as_ref(), ours.as_ref()) < 1e-5);

    // Half a projector is none.
    write(&(P * betaedit_core::faer::Scale(0.5)));
    let text = spectrum::read_projector(&path, "projector.0", SEQ).unwrap_err().to_string();
    assert!(text.contains("is no projector") && text.contains("0.5"), "{text}");
    write(&Mat::zeros(d, d));
    let Error::File(FileError::Numbers { error, .. }) =
        spectrum::read_projector(&path, "projector.0", SEQ).unwrap_err()
    else {
        panic!()
    };
    assert!(matches!(*error, NumericsError::NothingKept { .. }), "{error:?}");
}

#[test]
fn deltas_come_back_bit_for_bit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("delta.safetensors");
    let updates =
        Updates::from([("a.weight".to_owned(), update::<f32>(5, 7, 2)), ("b.left.weight".to_owned(), update(3, 4, 1))]);
    delta::write(&path, &updates).unwrap();
    let read = delta::read::<f32>(&path).unwrap();
    assert_eq!(read.len(), 2);
    for (name, update) in &updates {
        assert_eq!((read[name].left(), read[name].right()), (update.left(), update.right()));
    }
    let bytes = std::fs::read(&path).unwrap();
    let product = stored(&bytes, "a.weight.left") * stored(&bytes, "a.weight.right");
    assert!((product - updates["a.weight"].cast::<f64>().unwrap().to_dense(SEQ)).norm_l2() < 1e-14);
    assert!(matches!(
        delta::write::<f32>(&path, &Updates::new()),
        Err(Error::Numerics(NumericsError::Empty { argument: "updates", .. }))
    ));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn an_adapter_is_the_edits() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("new/adapter");
    let names = ["model.layers.4.mlp.down_proj.weight", "model.layers.5.mlp.down_proj.weight"];
    let updates =
        Updates::from([(names[0].to_owned(), update::<f32>(6, 9, 4)), (names[1].to_owned(), update::<f32>(6, 9, 3))]);
    lora::write(&path, &updates, "org/model", Orientation::InputsByOutputs).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(path.join("adapter_config.json")).unwrap()).unwrap();
    let bytes = std::fs::read(path.join("adapter_model.safetensors")).unwrap();
    assert_eq!(metadata(&bytes, "format"), "pt");
    assert_eq!((&config["peft_type"], &config["fan_in_fan_out"]), (&"LORA".into(), &true.into()));
    for name in names {
        let module = name.strip_suffix(".weight").unwrap();
        let [A, B] = ["A", "B"].map(|side| stored(&bytes, &format!("base_model.model.{module}.lora_{side}.weight")));
        // What PEFT computes: alpha / r of the module, times B A.
        let of =
            |pattern: &str, default: &str| config[pattern].get(module).unwrap_or(&config[default]).as_f64().unwrap();
        let (alpha, r) = (of("alpha_pattern", "lora_alpha"), of("rank_pattern", "r"));
        assert_eq!((A.nrows() as f64, B.ncols() as f64), (r, r));
        let delta = B * A * betaedit_core::faer::Scale(alpha / r);
        assert!(distance(delta.as_ref(), updates[name].cast::<f64>().unwrap().to_dense(SEQ).as_ref()) < 1e-15);
        assert!(config["target_modules"].as_array().unwrap().contains(&module.into()));
    }
    let bias = Updates::from([("model.layers.4.bias".to_owned(), update::<f32>(6, 9, 4))]);
    let error = lora::write(&path, &bias, "org/model", Orientation::OutputsByInputs).unwrap_err();
    assert!(error.to_string().contains("model.layers.4.bias"), "{error}");
    assert_eq!(std::fs::read(path.join("adapter_model.safetensors")).unwrap(), bytes);
}

#[test]
fn many_updates_are_one() {
    let updates = [update::<f64>(5, 8, 1), update(5, 8, 3), update(5, 8, 2)];
    let stacked = Update::stacked(&updates).unwrap();
    assert_eq!(stacked.rank(), 6);
    let sum = updates.iter().fold(Mat::zeros(5, 8), |sum, update| sum + update.to_dense(SEQ));
    assert!(distance(stacked.to_dense(SEQ).as_ref(), sum.as_ref()) < 1e-15);
    assert!(matches!(Update::stacked(&[update::<f64>(5, 8, 1), update(8, 5, 1)]), Err(NumericsError::Shape { .. })));
    assert!(matches!(Update::<f64>::stacked(&[]), Err(NumericsError::Empty { .. })));
}

/// No update of that rank is nearer than what the tail of the singular values says (Eckart, Young), here by nalgebra.
#[test]
fn a_compressed_update_is_the_nearest_of_its_rank_and_says_how_near() {
    for (d_out, d_in, n) in [(30, 50, 12), (20, 12, 40), (9, 9, 1), (300, 200, 60)] {
        // Singular values that fall by some orders of magnitude.
        let entry = |i: usize, j: usize| ((i * 31 + j * 17 + i * j) as f64).sin() * 0.7_f64.powi(j as i32) * 3.0;
        let left = Mat::from_fn(d_out, n, entry);
        let right = Mat::from_fn(n, d_in, |i, j| entry(j + 2, i));
        let update = Update::from_factors(left, right).unwrap();
        let exact = update.to_dense(SEQ);
        let svd = nalgebra::DMatrix::from_fn(d_out, d_in, |i, j| exact[(i, j)]).singular_values();
        let mut values: Vec<f64> = svd.iter().copied().collect();
        values.sort_by(|a, b| b.total_cmp(a));
        let tail = |rank: usize| values[rank..].iter().map(|s| s * s).sum::<f64>().sqrt();
        let norm = exact.norm_l2();

        for rank in [1, 2, 5, n, n + 3] {
            let Compressed { update: compressed, error: bound, .. } =
                update.compressed(Compression::Rank(rank), SEQ).unwrap();
            let expected = rank.min(n).min(d_out).min(d_in);
            assert_eq!(compressed.rank(), expected);
            let error = (compressed.to_dense(SEQ) - &exact).norm_l2();
            assert!(error <= bound, "{error:e} {bound:e}");
            assert!((error - tail(expected)).abs() < 1e-12 * norm && bound < tail(expected) + 1e-10 * norm);
        }
        let single = update.cast::<f32>().unwrap();
        let exact_single = single.cast::<f64>().unwrap().to_dense(SEQ);
        for tolerance in [0.3, 1e-2, 1e-5, 0.0] {
            let Compressed { update: compressed, error: bound, .. } =
                update.compressed(Compression::Tolerance(tolerance), SEQ).unwrap();
            assert!(tail(compressed.rank()) <= tolerance * norm + 1e-12 * norm);
            assert!(compressed.rank() == 1 || tail(compressed.rank() - 1) > tolerance * norm);
            assert!((compressed.to_dense(SEQ) - &exact).norm_l2() <= bound);
            // Rounded factors are part of the bound.
            let Compressed { update: compressed, error: bound, .. } =
                single.compressed(Compression::Tolerance(tolerance), SEQ).unwrap();
            let error = (compressed.cast::<f64>().unwrap().to_dense(SEQ) - &exact_single).norm_l2();
            assert!(error <= bound && bound <= (tolerance + 1e-5) * norm, "{error:e} {bound:e}");
        }
    }
    let zero = Update::from_factors(Mat::<f32>::zeros(4, 2), Mat::zeros(2, 5)).unwrap();
    let Compressed { update: compressed, error, .. } = zero.compressed(Compression::Tolerance(0.1), SEQ).unwrap();
    assert_eq!((compressed.rank(), error, compressed.frobenius_norm()), (1, 0.0, 0.0));
    assert!(matches!(
        zero.compressed(Compression::Rank(0), SEQ),
        Err(NumericsError::Parameter { parameter: "rank", .. })
    ));
    for tolerance in [-0.1, 1.1, f64::NAN] {
        let refused = zero.compressed(Compression::Tolerance(tolerance), SEQ);
        assert!(matches!(refused, Err(NumericsError::Parameter { parameter: "tolerance", .. })));
    }
}

#[test]
fn a_matrix_becomes_an_update_of_its_rank() {
    for (d_out, d_in, n) in [(30, 50, 3), (50, 30, 12), (9, 9, 9), (300, 200, 60), (1, 7, 1)] {
        let entry = |i: usize, j: usize| ((i * 31 + j * 17 + i * j) as f64).sin() * 0.7_f64.powi((j % 12) as i32);
        let whole = Mat::from_fn(d_out, n, entry) * Mat::from_fn(n, d_in, |i, j| entry(j + 2, i));
        let svd = nalgebra::DMatrix::from_fn(d_out, d_in, |i, j| whole[(i, j)]).singular_values();
        let mut values: Vec<f64> = svd.iter().copied().collect();
        values.sort_by(|a, b| b.total_cmp(a));
        let tail = |rank: usize| values[rank..].iter().map(|s| s * s).sum::<f64>().sqrt();
        let norm = whole.norm_l2();
        for tolerance in [1e-6, 1e-3, 0.2] {
            let Compressed { update, error: bound, .. } = Update::from_dense(whole.as_ref(), tolerance, SEQ).unwrap();
            let error = (update.to_dense(SEQ) - &whole).norm_l2();
            assert!(error <= bound && bound <= tolerance * norm * (1.0 + 1e-9), "{error:e} {bound:e}");
            // At most a tenth is left unused.
            assert!(
                update.rank() == 1 || tail(update.rank() - 1) > 0.89 * tolerance * norm,
                "{} of {n}",
                update.rank()
            );

            let single = Mat::from_fn(d_out, d_in, |i, j| whole[(i, j)] as f32);
            let Compressed { update, error: bound, .. } = Update::from_dense(single.as_ref(), tolerance, SEQ).unwrap();
            let found = update.cast::<f64>().unwrap().to_dense(SEQ);
            let error = (found - Mat::from_fn(d_out, d_in, |i, j| f64::from(single[(i, j)]))).norm_l2();
            assert!(error <= bound && bound <= (tolerance + 1e-5) * norm, "{error:e} {bound:e}");
        }
    }
    // Rows of zeros, and numbers near the ends of the range.
    let rows = Mat::from_fn(60, 90, |i, j| if i % 3 == 0 { ((i * j) as f64).cos() } else { 0.0 });
    for scale in [1e-140, 1.0, 1e145] {
        let D = &rows * Scale(scale);
        let found = Update::from_dense(D.as_ref(), 1e-6, SEQ).unwrap();
        assert_eq!(found.update.rank(), 20);
        assert!((found.update.to_dense(SEQ) - &D).norm_l2() <= 1e-6 * D.norm_l2());
    }
    let large = Mat::<f32>::full(100, 100, 2e36);
    let found = Update::from_dense(large.as_ref(), 1e-6, SEQ).unwrap().update;
    assert!(distance(found.to_dense(SEQ).as_ref(), large.as_ref()) < 1e-5);
    assert!(Update::from_dense(Mat::<f64>::full(100, 100, 1e308).as_ref(), 1e-6, SEQ).is_err());
    let zero = Update::from_dense(Mat::<f32>::zeros(4, 5).as_ref(), 1e-6, SEQ).unwrap();
    assert_eq!((zero.update.rank(), zero.error, zero.update.frobenius_norm()), (1, 0.0, 0.0));
    for wrong in [0.0, 1e-7, 1.1, f64::NAN] {
        assert!(Update::from_dense(Mat::<f64>::identity(3, 3).as_ref(), wrong, SEQ).is_err());
    }
    assert!(Update::from_dense(Mat::<f64>::zeros(0, 3).as_ref(), 0.1, SEQ).is_err());
    assert!(Update::from_dense(Mat::<f64>::full(2, 2, f64::INFINITY).as_ref(), 0.1, SEQ).is_err());
}
