//! Damaged and inconsistent stream files: an error that says which tensor and what is wrong with it, never a panic.

#![cfg(feature = "safetensors")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use betaedit_core::adapter::{RecordedStream, write_delta};
use betaedit_core::error::{FileError, ModelError, NumericsError};
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::{Adapter, Error, Result, Scalar, Spectrum, Update};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::errors::{State, refused, unmoved};

const SEQ: Par = Par::Seq;
/// The valid stream: `d_in`, `d_out`, edits, and its layer.
const D: usize = 3;
const OUT: usize = 2;
const EDITS: usize = 4;
const LAYER: usize = 7;

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("stream.safetensors")
    }

    /// Opens these bytes as a stream.
    fn open<T: Scalar>(&self, bytes: &[u8]) -> Result<RecordedStream<T>> {
        // A new file each time: rewriting one makes some file systems flush.
        let _ = std::fs::remove_file(self.file());
        std::fs::write(self.file(), bytes).unwrap();
        RecordedStream::open(self.file(), SEQ)
    }

    /// Opens the valid stream with one tensor changed, in both number types; both have to say the same.
    fn changed(&self, name: &str, change: impl FnOnce(&mut Tensor)) -> Result<RecordedStream<f64>> {
        let mut tensors = tensors();
        change(tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
        let bytes = serialized(&tensors);
        let (single, double) = (self.open::<f32>(&bytes), self.open::<f64>(&bytes));
        assert_eq!(single.err().map(|e| e.to_string()), double.as_ref().err().map(ToString::to_string));
        double
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn new(name: &'static str, rows: usize, cols: usize, entry: impl Fn(usize, usize) -> f64) -> Self {
        let entry = &entry;
        let bytes = (0..rows).flat_map(|i| (0..cols).flat_map(move |j| entry(i, j).to_le_bytes())).collect();
        Self { name, dtype: Dtype::F64, shape: vec![rows, cols], bytes }
    }

    fn set(&mut self, i: usize, j: usize, value: f64) {
        let start = 8 * (i * self.shape[1] + j);
        self.bytes[start..start + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// The same numbers, cut or repeated, in another shape.
    fn reshape(&mut self, shape: &[usize]) {
        let len = 8 * shape.iter().product::<usize>();
        self.bytes = self.bytes.iter().copied().cycle().take(len).collect();
        self.shape = shape.to_vec();
    }
}

/// A valid stream.
fn tensors() -> [Tensor; 4] {
    let entry = |i: usize, j: usize| 0.5 + (i + 2 * j) as f64;
    [
        Tensor::new("second_moment", D, D, |i, j| if i == j { [1.0, 4.0, 0.5][i] } else { 0.25 }),
        Tensor::new("weight", OUT, D, entry),
        Tensor::new("keys", EDITS, D, entry),
        Tensor::new("residuals", EDITS, OUT, entry),
    ]
}

fn serialized(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (tensor.name, view.unwrap())
    });
    let metadata = HashMap::from([("layer".to_owned(), LAYER.to_string())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// A format error about the test's file whose text holds all of these.
#[track_caller]
fn malformed<V>(folder: &Folder, result: Result<V>, texts: &[&str]) {
    let Err(error) = result else { panic!("accepted, expected {texts:?}") };
    let Error::File(FileError::Format { path, .. }) = &error else { panic!("{error:?}, expected {texts:?}") };
    assert_eq!(path, &folder.file());
    let text = error.to_string();
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
    for expected in texts {
        assert!(text.contains(expected), "`{text}` does not say `{expected}`");
    }
}

fn io(path: &Path, kind: std::io::ErrorKind, error: Error) {
    let text = error.to_string();
    let Error::File(FileError::Io { path: found, error }) = error else { panic!("{error:?}") };
    assert_eq!((found.as_path(), error.kind()), (path, kind));
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
}

fn all_finite<T: Scalar>(matrix: MatRef<'_, T>) -> bool {
    matrix.col_iter().all(|column| column.iter().all(|x| x.to_f64().is_finite()))
}

/// Whatever a stream gives out.
fn is_sound<T: Scalar>(mut stream: RecordedStream<T>) -> bool {
    let (layer, all) = (stream.layers()[0], Vec::from_iter(0..stream.len()));
    let (K, R) = (stream.keys(layer, &all).unwrap(), stream.residuals(layer, &all).unwrap());
    let (d_out, d_in) = stream.weight_shape(layer).unwrap();
    assert_eq!((K.shape(), R.shape()), ((d_in, all.len()), (d_out, all.len())));
    assert_eq!(stream.second_moment().d_in(), d_in);
    let C = stream.second_moment().to_mean(SEQ).unwrap();
    all_finite(K.as_ref()) && all_finite(R.as_ref()) && all_finite(stream.weight()) && all_finite(C.as_ref())
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = Folder::new("missing");
    for path in [folder.file(), folder.0.join("no/folder/stream.safetensors")] {
        io(&path, std::io::ErrorKind::NotFound, RecordedStream::<f32>::open(&path, SEQ).unwrap_err());
    }
    let error = RecordedStream::<f64>::open(&folder.0, SEQ).unwrap_err();
    io(&folder.0, std::io::ErrorKind::IsADirectory, error);
}

#[test]
fn a_truncated_or_extended_file_is_refused_at_every_length() {
    let folder = Folder::new("truncated");
    let whole = serialized(&tensors());
    assert!(is_sound(folder.open::<f64>(&whole).unwrap()));
    for length in 0..whole.len() {
        malformed(&folder, folder.open::<f64>(&whole[..length]), &["not a readable safetensors file"]);
    }
    for more in [&[0_u8][..], &whole] {
        let bytes = [&whole, more].concat();
        malformed(&folder, folder.open::<f64>(&bytes), &["not a readable safetensors file"]);
    }
}

#[test]
fn a_file_with_a_flipped_byte_is_refused_or_sound() {
    let folder = Folder::new("flipped");
    let whole = serialized(&tensors());
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let (mut refused, mut opened) = (0, 0);
    for at in 0..whole.len() {
        // In the header to a neighbour, to other characters, to no character; in the numbers their exponents.
        let flips: &[u8] = if at < header { &[1, 4, 16, 32, 128, 255] } else { &[64, 127] };
        for flip in flips {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            match folder.open::<f64>(&bytes) {
                Ok(stream) => {
                    assert!(is_sound(stream), "byte {at} ^ {flip}");
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000 && opened > 100, "{refused} refused, {opened} opened");
}

#[test]
fn other_files_are_refused() {
    let folder = Folder::new("other");
    let with_header = |header: &str| [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    for bytes in [
        b"not a stream at all".to_vec(),
        vec![0; 1000],
        vec![255; 1000],
        with_header("{}["),
        with_header("[]"),
        with_header(r#"{"keys":{"dtype":"F64","shape":[18446744073709551615,2],"data_offsets":[0,0]}}"#),
        with_header(r#"{"keys":{"dtype":"F64","shape":[-1,2],"data_offsets":[0,0]}}"#),
        with_header(r#"{"keys":{"dtype":"F64","shape":[1,1],"data_offsets":[8,0]}}"#),
    ] {
        malformed(&folder, folder.open::<f64>(&bytes), &["not a readable safetensors file"]);
    }
    malformed(&folder, folder.open::<f64>(&with_header("{}")), &["`second_moment` is missing"]);
}

#[test]
fn a_missing_tensor_is_named() {
    let folder = Folder::new("absent");
    for absent in ["second_moment", "weight", "keys", "residuals"] {
        let rest: Vec<_> = tensors().into_iter().filter(|tensor| tensor.name != absent).collect();
        let mut texts = vec![format!("tensor `{absent}` is missing")];
        texts.extend(rest.iter().map(|tensor| tensor.name.to_owned()));
        malformed(
            &folder,
            folder.open::<f64>(&serialized(&rest)),
            &texts.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn tensors_of_the_wrong_shape_are_named_with_both_shapes() {
    let folder = Folder::new("shapes");
    // The others decide what a tensor has to be: `d_in` is the second moment's, `d_out` the weight's, `N` the keys'.
    for (name, found, wrong, expected) in [
        ("second_moment", [D - 1, D], "second_moment", [D, D]),
        ("second_moment", [D + 1, D], "second_moment", [D, D]),
        ("second_moment", [D, D + 1], "second_moment", [D + 1, D + 1]),
        ("weight", [OUT, D - 1], "weight", [OUT, D]),
        ("weight", [OUT, D + 1], "weight", [OUT, D]),
        ("weight", [D, OUT], "weight", [D, D]),
        ("keys", [EDITS, D - 1], "keys", [EDITS, D]),
        ("keys", [EDITS, D + 1], "keys", [EDITS, D]),
        ("keys", [D, EDITS], "keys", [D, D]),
        ("residuals", [EDITS - 1, OUT], "residuals", [EDITS, OUT]),
        ("residuals", [EDITS + 1, OUT], "residuals", [EDITS, OUT]),
        ("residuals", [EDITS, OUT - 1], "residuals", [EDITS, OUT]),
        ("residuals", [EDITS, OUT + 1], "residuals", [EDITS, OUT]),
        ("residuals", [OUT, EDITS], "residuals", [EDITS, OUT]),
    ] {
        let ([r, c], [er, ec]) = (found, expected);
        let text = format!("tensor `{wrong}` is {r} x {c}, expected {er} x {ec}");
        malformed(&folder, folder.changed(name, |tensor| tensor.reshape(&found)), &[&text]);
    }
    // Where one tensor is changed consistently with itself, the next one to disagree is named.
    for (name, found, text) in [
        ("second_moment", [D + 1, D + 1], "tensor `weight` is 2 x 3, expected 2 x 4"),
        ("weight", [OUT + 1, D], "tensor `residuals` is 4 x 2, expected 4 x 3"),
        ("keys", [EDITS + 1, D], "tensor `residuals` is 4 x 2, expected 5 x 2"),
    ] {
        malformed(&folder, folder.changed(name, |tensor| tensor.reshape(&found)), &[text]);
    }
    for name in ["second_moment", "weight", "keys", "residuals"] {
        for (shape, text) in [
            (vec![], "has 0 dimensions, expected 2"),
            (vec![6], "has 1 dimensions, expected 2"),
            (vec![1, 2, 3], "has 3 dimensions, expected 2"),
            (vec![0, 3], "is empty: 0 x 3"),
            (vec![3, 0], "is empty: 3 x 0"),
        ] {
            let text = format!("tensor `{name}` {text}");
            malformed(&folder, folder.changed(name, |tensor| tensor.reshape(&shape)), &[&text]);
        }
        for (dtype, bits) in [(Dtype::F8_E4M3, 8), (Dtype::I32, 32), (Dtype::I64, 64), (Dtype::U8, 8)] {
            let as_type = |tensor: &mut Tensor| {
                tensor.bytes.truncate(tensor.bytes.len() * bits / 64);
                tensor.dtype = dtype;
            };
            let text = format!("type {dtype:?}, expected F16, BF16, F32 or F64");
            malformed(&folder, folder.changed(name, as_type), &[&text]);
        }
    }
}

#[test]
fn numbers_that_are_none_are_refused_wherever_they_are() {
    let folder = Folder::new("nan");
    for (name, rows, cols) in
        [("second_moment", D, D), ("weight", OUT, D), ("keys", EDITS, D), ("residuals", EDITS, OUT)]
    {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for (i, j) in [(0, 0), (rows - 1, cols - 1)] {
                let outcome = cause(folder.changed(name, |tensor| tensor.set(i, j, bad)));
                let Error::Numerics(NumericsError::NonFinite { argument, row, col, value }) = outcome else {
                    panic!("{name}: {bad} gives {outcome}")
                };
                // The place is the one in the file.
                assert_eq!(((row, col), value.to_bits()), ((i, j), bad.to_bits()), "{name}");
                assert_eq!(argument, name);
            }
        }
    }
}

/// What is wrong with the numbers in the file.
fn cause<T>(outcome: Result<T>) -> Error {
    match outcome.map(drop).unwrap_err() {
        Error::File(FileError::Numbers { error, .. }) => (*error).into(),
        other => panic!("the file is not named: {other}"),
    }
}

#[test]
fn a_second_moment_that_is_none_is_refused() {
    let folder = Folder::new("moment");
    let changed = |change: fn(&mut Tensor)| folder.changed("second_moment", change);
    let asymmetric = changed(|C| C.set(0, 2, 0.75));
    assert!(matches!(
        cause(asymmetric),
        Error::Numerics(NumericsError::NotSymmetric { row: 2, col: 0, difference: 0.5, .. })
    ));
    let negative = changed(|C| (0..D).for_each(|i| C.set(i, i, -1.0)));
    assert!(matches!(cause(negative), Error::Numerics(NumericsError::NotPositiveSemidefinite { smallest: -1.0, .. })));
    let sum = changed(|C| (0..D).for_each(|i| C.set(i, i, 1e6)));
    assert!(matches!(cause(sum), Error::Numerics(NumericsError::Scale { claimed: "a mean", implied: 3e6, .. })));
    // Indefinite with a positive diagonal: seen by the decomposition.
    let indefinite = changed(|C| [(0, 1), (1, 0)].iter().for_each(|&(i, j)| C.set(i, j, 100.0))).unwrap();
    let spectrum = Spectrum::new(indefinite.second_moment(), SEQ);
    assert!(matches!(spectrum, Err(NumericsError::NotPositiveSemidefinite { argument: "second moment", .. })));
    // Keys of zero witness nothing.
    let nothing = folder.changed("keys", |K| K.bytes.fill(0));
    assert!(matches!(cause(nothing), Error::Numerics(NumericsError::Scale { witnessed: 0.0, .. })));
}

impl State for RecordedStream<f64> {
    fn bits(&self) -> String {
        format!("{self:?} {:?} {}", self.weight(), self.second_moment().bits())
    }
}

#[test]
fn a_stream_that_refuses_a_call_is_what_it_was() {
    let folder = Folder::new("calls");
    let mut stream = folder.open::<f64>(&serialized(&tensors())).unwrap();
    let update = |d_out, d_in| Update::from_factors(Mat::full(d_out, 1, 1.0), Mat::full(1, d_in, 1.0)).unwrap();
    assert_eq!((stream.layers(), stream.len()), (&[LAYER][..], EDITS));
    for layer in [0, LAYER - 1, LAYER + 1, usize::MAX] {
        let error = Error::Model(ModelError::UnknownLayer { layer, known: vec![LAYER] });
        refused(stream.weight_shape(layer), &error);
        unmoved(&mut stream, |stream| stream.keys(layer, &[0]), &error);
        unmoved(&mut stream, |stream| stream.residuals(layer, &[0]), &error);
        unmoved(&mut stream, |stream| stream.apply(layer, &update(OUT, D)), &error);
    }
    for index in [EDITS, EDITS + 1, usize::MAX] {
        let error = Error::Model(ModelError::UnknownRequest { index, len: EDITS });
        unmoved(&mut stream, |stream| stream.keys(LAYER, &[0, index]), &error);
        unmoved(&mut stream, |stream| stream.residuals(LAYER, &[index, 0]), &error);
    }
    for (d_out, d_in) in [(OUT - 1, D), (OUT + 1, D), (OUT, D - 1), (OUT, D + 1), (D, OUT)] {
        let (before, result) = (stream.bits(), stream.apply(LAYER, &update(d_out, d_in)));
        assert!(matches!(result, Err(Error::Numerics(NumericsError::Shape { .. }))), "{result:?}");
        assert_eq!(stream.bits(), before);
    }
    assert_eq!(stream.keys(LAYER, &[]).unwrap().shape(), (D, 0));
    stream.apply(LAYER, &update(OUT, D)).unwrap();
}

#[test]
fn a_delta_that_cannot_be_written_leaves_nothing_behind() {
    let folder = Folder::new("delta");
    let write = |path: &Path| write_delta(path, Mat::full(OUT, D, 1.0).as_ref(), HashMap::new());
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let nowhere = folder.0.join("no/delta.safetensors");
    io(&nowhere, std::io::ErrorKind::NotFound, write(&nowhere).unwrap_err());
    assert!(names().is_empty());

    // Written beside its place, but a folder is in that place.
    let taken = folder.0.join("taken");
    std::fs::create_dir(&taken).unwrap();
    io(&taken, std::io::ErrorKind::IsADirectory, write(&taken).unwrap_err());
    assert_eq!(names(), ["taken"]);

    // Nobody else's file is used on the way, and a link is replaced.
    let (path, link) = (folder.0.join("delta"), folder.0.join("link"));
    write(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(folder.0.join("delta.partial"), "mine").unwrap();
    std::fs::write(&path, "old").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    write(&link).unwrap();
    assert_eq!(std::fs::read(&link).unwrap(), whole);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert!(!link.is_symlink());
    assert_eq!(std::fs::read(folder.0.join("delta.partial")).unwrap(), b"mine");
    assert_eq!(names(), ["delta", "delta.partial", "link", "taken"]);
}

#[test]
fn errors_of_numbers_name_the_tensor_and_the_file() {
    let folder = Folder::new("named");
    for (name, value) in [
        ("second_moment", f64::NAN),
        ("second_moment", -1.0),
        ("second_moment", 1e9),
        ("weight", f64::NAN),
        ("keys", f64::NAN),
        ("residuals", f64::NAN),
    ] {
        let text = folder.changed(name, |tensor| tensor.set(0, 0, value)).unwrap_err().to_string();
        assert!(text.contains(&format!("`{name}`")), "{text}");
        assert!(text.contains(folder.file().to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_tensor_of_the_wrong_type_is_named() {
    let folder = Folder::new("type");
    for name in ["second_moment", "weight", "keys", "residuals"] {
        malformed(&folder, folder.changed(name, |tensor| tensor.dtype = Dtype::I64), &[&format!("`{name}`")]);
    }
}

#[test]
fn a_missing_tensor_has_one_message() {
    let folder = Folder::new("order");
    let bytes = serialized(&tensors()[..3]);
    let texts: Vec<_> = (0..20).map(|_| folder.open::<f64>(&bytes).unwrap_err().to_string()).collect();
    assert!(texts.iter().all(|text| text == &texts[0]), "{texts:?}");
}

#[test]
fn a_layer_that_is_no_number_is_refused() {
    let folder = Folder::new("layer");
    let text = String::from_utf8_lossy(&serialized(&tensors())).into_owned();
    let mut bytes = serialized(&tensors());
    bytes[text.find(r#""7""#).unwrap() + 1] = b'x';
    malformed(&folder, folder.open::<f64>(&bytes), &["layer", "x"]);
}

#[test]
fn numbers_beyond_f32_are_an_overflow() {
    let folder = Folder::new("beyond");
    for at in 1..4 {
        let mut tensors = tensors();
        tensors[at].set(0, 0, 1e100);
        let outcome = folder.open::<f32>(&serialized(&tensors));
        let Err(Error::File(FileError::Numbers { error, .. })) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(*error, NumericsError::Overflow { scalar: "f32", .. }), "{error:?}");
    }
}

#[test]
fn an_update_that_does_not_fit_is_named() {
    let folder = Folder::new("fit");
    let mut stream = folder.open::<f64>(&serialized(&tensors())).unwrap();
    let update = Update::from_factors(Mat::full(OUT + 1, 1, 1.0), Mat::full(1, D, 1.0)).unwrap();
    let (expected, found) = ((OUT, D).into(), (OUT + 1, D).into());
    refused(
        stream.apply(LAYER, &update),
        &Error::Numerics(NumericsError::Shape { argument: "update", expected, found }),
    );
}

#[test]
fn the_weight_of_a_stream_never_overflows() {
    let folder = Folder::new("overflow");
    let mut tensors = tensors();
    tensors[1].set(0, 0, 1.5e308);
    let mut stream = folder.open::<f64>(&serialized(&tensors)).unwrap();
    let update = Update::from_factors(Mat::full(OUT, 1, 9e153), Mat::full(1, D, 7e153)).unwrap();
    let applied = stream.apply(LAYER, &update);
    assert!(all_finite(stream.weight()) && matches!(applied, Err(Error::Numerics(NumericsError::Overflow { .. }))));
}

#[test]
fn a_delta_that_is_not_a_number_is_not_written() {
    let folder = Folder::new("nan-delta");
    for value in [f64::NAN, f64::INFINITY] {
        let written = write_delta(folder.file(), Mat::full(OUT, D, value).as_ref(), HashMap::new());
        refused(written, &Error::Numerics(NumericsError::NonFinite { argument: "delta", row: 0, col: 0, value }));
        assert!(!folder.file().exists());
    }
    let empty = write_delta(folder.file(), Mat::zeros(0, D).as_ref(), HashMap::new());
    refused(empty, &Error::Numerics(NumericsError::Empty { argument: "delta", item: "row" }));
}
