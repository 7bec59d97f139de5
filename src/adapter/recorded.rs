//! Recorded edit streams: keys and residuals of one layer of a real model.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use faer::{Mat, MatMut, MatRef, Par};

use super::Adapter;
use crate::error::{ModelError, Result};
use crate::format::tensors::{self, Matrix, NewTensor, TensorFile};
use crate::format::{Precision, in_file};
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::update::{Orientation, Update, Weight};
use crate::util::shown::shown;
use crate::util::{atomic_file, validate};

/// A recorded stream of edits of one layer, from a safetensors file with these tensors:
///
/// | tensor | shape | contents |
/// |---|---|---|
/// | `second_moment` | `d_in x d_in` | `C`, the mean of `k kᵀ` |
/// | `weight` | `d_out x d_in` | the weight before the first edit |
/// | `keys` | `N x d_in` | row `t`: key of edit `t` |
/// | `residuals` | `N x d_out` | row `t`: residual of edit `t` |
///
/// All are floating-point, `f16` to `f64`. A request is the number of an edit. Keys and residuals are always those of the
/// recording, whatever has been edited. There is one layer; its number is `layer` in the file's metadata, or 0.
#[derive(Clone)]
pub struct RecordedStream<T: Scalar> {
    moment: SecondMoment,
    weight: Weight<T>,
    keys: Mat<T>,
    residuals: Mat<T>,
    layers: [usize; 1],
    fingerprint: String,
    par: Par,
}

shown!([T: Scalar] RecordedStream<T>, "RecordedStream", self => {
    "layer": self.layers[0],
    "edits": self.len(),
    "weight": self.weight,
    "moment": self.moment,
    "fingerprint": self.fingerprint,
});

impl<T: Scalar> RecordedStream<T> {
    /// Reads a stream. Every entry must be finite. The second moment must be symmetric and on the scale of a mean: its trace
    /// may be at most 10⁴ times the mean squared norm of the recorded keys.
    ///
    /// # Errors
    /// A file that cannot be read, is not a safetensors file, is truncated, or lacks a tensor; a tensor of the wrong type or
    /// shape; NaN; a second moment that is a sum.
    pub fn open(path: impl AsRef<Path>, par: Par) -> Result<Self> {
        let path = path.as_ref();
        let bytes = atomic_file::read(path)?;
        Self::from_bytes(path, &bytes, par)
    }

    fn from_bytes(path: &Path, bytes: &[u8], par: Par) -> Result<Self> {
        let mut file = TensorFile::new(path, Cursor::new(bytes), bytes.len() as u64)?;
        let (d_in, d_out) = (file.matrix("second_moment")?.cols, file.matrix("weight")?.rows);
        let N = file.matrix("keys")?.rows;
        let second_moment = file.matrix_of_shape("second_moment", d_in, d_in)?;
        let weight = file.matrix_of_shape("weight", d_out, d_in)?;
        let keys = file.matrix_of_shape("keys", N, d_in)?;
        let residuals = file.matrix_of_shape("residuals", N, d_out)?;
        // Rows are edits, contiguous: as columns of a column-major matrix they are read in order.
        let mut numbers = |name: &'static str, matrix: &Matrix| -> Result<Mat<f64>> {
            let columns = file.columns::<f64>(matrix)?;
            validate::finite(name, columns.transpose()).map_err(in_file(path))?;
            Ok(columns)
        };
        let mut rounded = |name: &'static str, matrix: &Matrix| -> Result<Mat<T>> {
            let columns = cast::<f64, T>(numbers(name, matrix)?.as_ref());
            validate::no_overflow(name, columns.as_ref()).map_err(in_file(path))?;
            Ok(columns)
        };
        let keys = rounded("keys", &keys)?;
        let residuals = rounded("residuals", &residuals)?;
        let weight = rounded("weight", &weight)?.transpose().to_owned();
        let weight = Weight::new(weight, Orientation::OutputsByInputs).map_err(in_file(path))?;
        let C = numbers("second_moment", &second_moment)?;
        // By its format it is a mean, so only a gross mismatch is refused, as for any unknown count.
        let moment =
            SecondMoment::from_mean_named("second_moment", C.as_ref(), None, keys.as_ref()).map_err(in_file(path))?;
        let layer = match file.metadata("layer") {
            None => 0,
            Some(_) => file.number("layer")?,
        };
        let fingerprint = format!("recording {}", blake3::hash(bytes).to_hex());
        Ok(Self { moment, weight, keys, residuals, layers: [layer], fingerprint, par })
    }

    /// The second moment of the layer's keys.
    #[must_use]
    pub fn second_moment(&self) -> &SecondMoment {
        &self.moment
    }

    /// The weight as edited so far, `d_out x d_in`.
    #[must_use]
    pub fn weight(&self) -> MatRef<'_, T> {
        self.weight.stored()
    }

    /// Number of recorded edits `N`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.ncols()
    }

    /// Always `false`: a file without edits is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check_layer(&self, layer: usize) -> Result<()> {
        if self.layers.contains(&layer) {
            Ok(())
        } else {
            Err(ModelError::UnknownLayer { layer, known: self.layers.to_vec() }.into())
        }
    }

    fn columns(&self, layer: usize, of: &Mat<T>, requests: &[usize]) -> Result<Mat<T>> {
        self.check_layer(layer)?;
        if let Some(&index) = requests.iter().find(|&&request| request >= self.len()) {
            return Err(ModelError::UnknownRequest { index, len: self.len() }.into());
        }
        Ok(Mat::from_fn(of.nrows(), requests.len(), |i, j| of[(i, requests[j])]))
    }
}

impl<T: Scalar> Adapter for RecordedStream<T> {
    type Scalar = T;
    type Request = usize;

    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        self.check_layer(layer)?;
        Ok(self.weight.stored().shape())
    }

    fn keys(&mut self, layer: usize, requests: &[usize]) -> Result<Mat<T>> {
        self.columns(layer, &self.keys, requests)
    }

    fn residuals(&mut self, layer: usize, requests: &[usize]) -> Result<Mat<T>> {
        self.columns(layer, &self.residuals, requests)
    }

    fn read_weight(&self, layer: usize, mut weight: MatMut<'_, T>) -> Result<()> {
        self.check_layer(layer)?;
        let stored = self.weight.stored();
        validate::shape("weight", weight.as_ref(), stored.nrows(), stored.ncols())?;
        weight.copy_from(stored);
        Ok(())
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, T>) -> Result<()> {
        self.check_layer(layer)?;
        let stored = self.weight.stored();
        validate::shape("weight", weight, stored.nrows(), stored.ncols())?;
        self.weight = Weight::new(weight.to_owned(), Orientation::OutputsByInputs)?;
        Ok(())
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn encode(&self, request: &usize) -> Option<Vec<u8>> {
        Some((*request as u64).to_le_bytes().to_vec())
    }

    fn decode(&self, bytes: &[u8]) -> Result<usize> {
        let request = bytes.try_into().ok().map(|bytes| u64::from_le_bytes(bytes) as usize);
        let known = |&request: &usize| request < self.len();
        request
            .filter(known)
            .ok_or(ModelError::UnknownRequest { index: request.unwrap_or(usize::MAX), len: self.len() }.into())
    }

    fn apply(&mut self, layer: usize, update: &Update<T>) -> Result<()> {
        self.check_layer(layer)?;
        Ok(self.weight.apply(update, self.par)?)
    }
}

/// Writes a weight change (`d_out x d_in`) as the `f64` tensor `delta` of a safetensors file. The file is written under a
/// temporary name and renamed, so that it is never incomplete.
///
/// # Errors
/// An empty delta, NaN or infinity, or a path that cannot be written.
pub fn write_delta(path: impl AsRef<Path>, delta: MatRef<'_, f64>, metadata: HashMap<String, String>) -> Result<()> {
    validate::not_empty("delta", delta)?;
    validate::finite("delta", delta)?;
    let tensor = NewTensor::matrix("delta", delta, Precision::F64);
    tensors::write(path.as_ref(), metadata, &[tensor])
}
