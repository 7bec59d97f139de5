//! Files of eigendecompositions, from which a projector of any threshold is quickly built; dense projectors of other
//! programs.

use std::path::Path;
use std::sync::Arc;

use faer::{Mat, MatRef, Par};

use super::Precision;
use super::statistics::Fingerprint;
use super::tensors::{self, NewTensor, TensorFile};
use super::{in_file, malformed};
use crate::error::shown::Short;
use crate::error::{NumericsError, Result};
use crate::linalg::tolerance;
use crate::projector::{Projector, ProjectorBuilder, Threshold};
use crate::spectrum::Spectrum;
use crate::util::validate;

/// The kind of file, and the version of its layout.
const KIND: &str = "betaedit.spectrum.1";

/// As [`KIND`], for dense projectors. It is written for other readers; any tensor is read.
const PROJECTOR: &str = "betaedit.projector.1";

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

/// Writes a projector as a dense matrix `P = V Vᵀ` (`d x d`, symmetric), for other programs: one tensor of a safetensors
/// file. [`read_projector`] reads it back. In Python,
/// `safetensors.numpy.load_file(path)[tensor]` is the matrix.
///
/// * `tensor`: the name of the tensor, for example `projector.0`
/// * `precision`: [`F32`](Precision::F32), as PyTorch has it, or [`F64`](Precision::F64)
///
/// Cost: a product of `d² kept` multiplications, and `8 d²` bytes of memory.
///
/// # Errors
/// A path that cannot be written, or half precision, from which a projector does not come back.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::format::{Precision, spectrum};
/// use betaedit_core::projector::ProjectorBuilder;
/// use betaedit_core::{Spectrum, Threshold, faer::{Par, mat}};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("projector.safetensors");
/// let moments = Spectrum::from_matrix(mat![[2.0, 1.0], [1.0, 2.0]].as_ref(), Par::Seq)?;
/// let projector = ProjectorBuilder::new(&Arc::new(moments)).threshold(Threshold::Absolute(2.0)).build(Par::Seq)?;
/// spectrum::write_projector(&path, "P", &projector, Precision::F64, Par::Seq)?;
///
/// let read = spectrum::read_projector(&path, "P", Par::Seq)?;
/// assert!((read.to_dense(Par::Seq) - mat![[0.5, -0.5], [-0.5, 0.5]]).norm_l2() < 1e-14);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_projector(
    path: impl AsRef<Path>,
    tensor: &str,
    projector: &Projector,
    precision: Precision,
    par: Par,
) -> Result<()> {
    if !matches!(precision, Precision::F32 | Precision::F64) {
        let what = format!("a projector in {precision}: its rounding is no projector; use f32 or f64");
        return Err(NumericsError::Unsupported { what }.into());
    }
    let P = projector.to_dense(par);
    let tensors = [NewTensor::matrix(tensor, P.as_ref(), precision)];
    tensors::write(path.as_ref(), tensors::kind(PROJECTOR), &tensors)
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
            let problem =
                format!("tensor `{tensor}` is no projector: it has the eigenvalue {}, not 0 or 1", Short(1.0 - *s));
            return Err(malformed(path, problem));
        }
        *s = nearest;
    }
    let spectrum = Spectrum::from_parts(values, complement.vectors().to_owned(), par).map_err(in_file(path))?;
    let projector = ProjectorBuilder::new(&Arc::new(spectrum)).threshold(Threshold::Absolute(HALFWAY)).build(par);
    projector.map_err(in_file(path))
}
