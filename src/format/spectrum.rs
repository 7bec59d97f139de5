//! Files of eigendecompositions, from which a projector of any threshold is quickly built; dense projectors of other
//! programs.

use std::path::Path;
use std::sync::Arc;

use faer::{Mat, MatRef, Par};

use super::Precision;
use super::statistics::Fingerprint;
use super::tensors::{self, NewTensor, TensorFile};
use super::{in_file, malformed};
use crate::error::Result;
use crate::linalg::tolerance;
use crate::projector::{Projector, ProjectorBuilder, Threshold};
use crate::spectrum::Spectrum;
use crate::util::validate;

/// The kind of file, and the version of its layout.
const KIND: &str = "betaedit.spectrum.1";

/// Between the eigenvalues of `I - P`, 0 and 1.
const HALFWAY: f64 = 0.5;

/// Writes a spectrum: the tensors `values` (`1 x d`, ascending) and `vectors` (`d x d`, **row** `i` is the eigenvector of
/// value `i`), in `f64`, and the fingerprint in the metadata.
///
/// # Errors
/// A path that cannot be written.
pub fn write(path: impl AsRef<Path>, spectrum: &Spectrum, fingerprint: &Fingerprint) -> Result<()> {
    let values = MatRef::from_row_major_slice(spectrum.values(), 1, spectrum.dim());
    let tensors = [("values", values), ("vectors", spectrum.vectors().transpose())]
        .map(|(name, rows)| NewTensor::matrix(name, rows, Precision::F64));
    tensors::write(path.as_ref(), fingerprint.metadata(KIND), &tensors)
}

/// Reads a spectrum and its fingerprint. The spectrum is verified by [`Spectrum::from_parts`].
///
/// # Errors
/// A file that cannot be read, or that does not hold a spectrum.
pub fn read(path: impl AsRef<Path>, par: Par) -> Result<(Spectrum, Fingerprint)> {
    let path = path.as_ref();
    let mut file = TensorFile::open_kind(path, KIND)?;
    let fingerprint = Fingerprint::of_file(&file)?;
    let values = file.matrix("values")?;
    let d = values.cols;
    let values = file.matrix_of_shape("values", 1, d)?;
    let vectors = file.matrix_of_shape("vectors", d, d)?;
    let values: Mat<f64> = file.columns(&values)?;
    let vectors = file.columns(&vectors)?;
    let spectrum = Spectrum::from_parts(values.col_as_slice(0).to_vec(), vectors, par).map_err(in_file(path))?;
    Ok((spectrum, fingerprint))
}

/// Reads a dense projector `P` (`d x d`): a tensor of a safetensors file, such as one made from a
/// `null_space_project.pt` by the converter in `docs/files.md`.
///
/// The matrix is decomposed. If its eigenvalues are within 10⁻³ of 0 and 1 it is a projector, and they are set to 0 and 1.
/// The spectrum of the result is that of `I - P`, because `P` does not contain the statistics. So the result suits methods
/// without a penalty on the statistics (AlphaEdit, threshold 0.5), and cannot be refreshed.
///
/// # Errors
/// A file that cannot be read, a tensor that is missing or is not a projector, or a projector that keeps nothing.
pub fn read_projector(path: impl AsRef<Path>, tensor: &str, par: Par) -> Result<Projector> {
    let path = path.as_ref();
    let mut file = TensorFile::open(path)?;
    let d = file.matrix(tensor)?.cols;
    let matrix = file.matrix_of_shape(tensor, d, d)?;
    let mut P: Mat<f64> = file.finite_columns(tensor, &matrix)?;
    validate::symmetric("the projector", P.as_ref(), tolerance::SYMMETRY).map_err(in_file(path))?;
    faer::zip!(&mut P).for_each(|faer::unzip!(p)| *p = -*p);
    for i in 0..d {
        P[(i, i)] += 1.0;
    }
    let complement = Spectrum::from_symmetric("the projector", P, par).map_err(in_file(path))?;
    let mut values = complement.values().to_vec();
    for s in &mut values {
        let nearest = if *s < HALFWAY { 0.0 } else { 1.0 };
        if !((*s - nearest).abs() <= tolerance::IDEMPOTENCE) {
            let problem = format!("tensor `{tensor}` is no projector: it has the eigenvalue {}, not 0 or 1", 1.0 - *s);
            return Err(malformed(path, problem));
        }
        *s = nearest;
    }
    let spectrum = Spectrum::from_parts(values, complement.vectors().to_owned(), par).map_err(in_file(path))?;
    let projector = ProjectorBuilder::new(&Arc::new(spectrum)).threshold(Threshold::Absolute(HALFWAY)).build(par);
    projector.map_err(in_file(path))
}
