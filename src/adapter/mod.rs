//! The connection to a model: supplies keys and residuals, and applies updates.

mod check;
mod companions;
#[cfg(feature = "safetensors")]
mod recorded;

pub use check::check;
#[cfg(feature = "session")]
pub(crate) use check::check_applied;
pub use companions::Companions;
#[cfg(feature = "safetensors")]
pub use recorded::{RecordedStream, write_delta};

use faer::{Mat, MatMut, MatRef, Par};

use crate::error::Result;
use crate::scalar::Scalar;
use crate::update::{Orientation, Update};

/// Connects the editors to a model.
///
/// Editors know matrices only. An adapter knows a model: it runs the requests (facts, prompts, or whatever
/// [`Request`](Self::Request) is) on the model **as edited so far**, and returns for each the key at a layer and the residual
/// that is still missing there. Layers are edited in ascending order: an adapter is asked for the keys and residuals of a layer
/// after the updates of the layers below have been applied.
///
/// An adapter returns its own errors as [`ModelError::Adapter`](crate::error::ModelError::Adapter).
pub trait Adapter {
    /// The number type of keys, residuals and updates.
    type Scalar: Scalar;
    /// What describes an edit to the model, for example a fact or an index into a recording.
    type Request;

    /// The layers that can be edited, ascending.
    fn layers(&self) -> &[usize];

    /// `(d_out, d_in)` of a layer's edited weight.
    ///
    /// # Errors
    /// An unknown layer.
    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)>;

    /// The keys of the requests at a layer, `d_in x n`, on the model as it is now.
    ///
    /// # Errors
    /// An unknown layer or request, or any failure of the model.
    fn keys(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Mat<Self::Scalar>>;

    /// The whole change of the layer's output that the requests still need, `d_out x n`, on the model as it is now. The caller
    /// divides it among the remaining layers.
    ///
    /// # Errors
    /// An unknown layer or request, or any failure of the model.
    fn residuals(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Mat<Self::Scalar>>;

    /// Further keys that are written with those of the requests at a layer, on the model as it is now: of the same requests in other
    /// surroundings, and of what must stay as it is. They belong to the same requests at every layer. The default has none.
    ///
    /// # Errors
    /// An unknown layer or request, or any failure of the model.
    fn companions(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Option<Companions<Self::Scalar>>> {
        let _ = (layer, requests);
        Ok(None)
    }

    /// Copies the layer's weight as edited so far, `d_out x d_in` however the model stores it.
    ///
    /// # Errors
    /// An unknown layer, another shape, or any failure of the model.
    fn read_weight(&self, layer: usize, weight: MatMut<'_, Self::Scalar>) -> Result<()>;

    /// Replaces the layer's weight by one that [`read_weight`](Self::read_weight) copied, bit for bit. This is how a failed
    /// batch is rolled back.
    ///
    /// # Errors
    /// An unknown layer, another shape, or any failure of the model.
    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, Self::Scalar>) -> Result<()>;

    /// Identifies the model as it was before any edit. A session in a directory opens only with the model it was started with.
    fn fingerprint(&self) -> String;

    /// The subject of a request, if the adapter knows it. Edits of the same subject conflict.
    fn subject(&self, request: &Self::Request) -> Option<String> {
        let _ = request;
        None
    }

    /// A request as bytes, from which [`decode`](Self::decode) makes it again. A session keeps them, so that it can ask for the keys and
    /// residuals of past edits when it consolidates (`Session::consolidate`). The default, `None`, is right for an adapter
    /// whose edits are never consolidated.
    fn encode(&self, request: &Self::Request) -> Option<Vec<u8>> {
        let _ = request;
        None
    }

    /// The request of which [`encode`](Self::encode) made these bytes.
    ///
    /// # Errors
    /// Bytes of another origin; [`NumericsError::Unsupported`](crate::error::NumericsError::Unsupported) by default.
    fn decode(&self, bytes: &[u8]) -> Result<Self::Request> {
        let _ = bytes;
        let what = "making requests from bytes, by an adapter without `decode`".into();
        Err(crate::error::NumericsError::Unsupported { what }.into())
    }

    /// What the residuals of requests aim at, a column each: for the batch that was asked about last, what its residuals aimed at, else
    /// found on the model as it is now. The default, `None`, is right for an adapter whose residuals do not aim at targets of its own.
    ///
    /// # Errors
    /// A request without a target, or any failure of the model.
    fn find_targets(&mut self, requests: &[Self::Request]) -> Result<Option<Mat<Self::Scalar>>> {
        let _ = requests;
        Ok(None)
    }

    /// Aims the residuals of requests at known targets until [`release_targets`](Self::release_targets): the requests are asked about in
    /// parts, and while the model changes.
    ///
    /// * `targets`: as [`find_targets`](Self::find_targets) returned them, for these requests or for each of them
    ///
    /// # Errors
    /// Targets of another shape.
    fn hold_targets(&mut self, requests: &[Self::Request], targets: MatRef<'_, Self::Scalar>) -> Result<()> {
        let _ = (requests, targets);
        Ok(())
    }

    /// Forgets the targets that are held.
    fn release_targets(&mut self) {}

    /// Adds an update to the layer's weight. The default reads the weight, adds the update, and writes the weight back. An
    /// adapter that can change its weight in place does so with [`Update::apply_to`].
    ///
    /// # Errors
    /// An unknown layer, an update of another shape, or any failure of the model. The weight is unchanged then.
    fn apply(&mut self, layer: usize, update: &Update<Self::Scalar>) -> Result<()> {
        let (d_out, d_in) = self.weight_shape(layer)?;
        update.check_shape("update", d_out, d_in)?;
        let mut weight = Mat::zeros(d_out, d_in);
        self.read_weight(layer, weight.as_mut())?;
        update.apply_to(weight.as_mut(), Orientation::OutputsByInputs, Par::Seq)?;
        self.write_weight(layer, weight.as_ref())
    }
}

/// Implements the trait for a pointer to an adapter.
macro_rules! behind {
    ($pointer:ty) => {
        impl<T: Scalar, A: Adapter<Scalar = T> + ?Sized> Adapter for $pointer {
            type Scalar = T;
            type Request = A::Request;

            fn layers(&self) -> &[usize] {
                (**self).layers()
            }

            fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
                (**self).weight_shape(layer)
            }

            fn keys(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Mat<Self::Scalar>> {
                (**self).keys(layer, requests)
            }

            fn residuals(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Mat<Self::Scalar>> {
                (**self).residuals(layer, requests)
            }

            fn companions(
                &mut self,
                layer: usize,
                requests: &[Self::Request],
            ) -> Result<Option<Companions<Self::Scalar>>> {
                (**self).companions(layer, requests)
            }

            fn read_weight(&self, layer: usize, weight: MatMut<'_, Self::Scalar>) -> Result<()> {
                (**self).read_weight(layer, weight)
            }

            fn write_weight(&mut self, layer: usize, weight: MatRef<'_, Self::Scalar>) -> Result<()> {
                (**self).write_weight(layer, weight)
            }

            fn fingerprint(&self) -> String {
                (**self).fingerprint()
            }

            fn subject(&self, request: &Self::Request) -> Option<String> {
                (**self).subject(request)
            }

            fn encode(&self, request: &Self::Request) -> Option<Vec<u8>> {
                (**self).encode(request)
            }

            fn decode(&self, bytes: &[u8]) -> Result<Self::Request> {
                (**self).decode(bytes)
            }

            fn find_targets(&mut self, requests: &[Self::Request]) -> Result<Option<Mat<Self::Scalar>>> {
                (**self).find_targets(requests)
            }

            fn hold_targets(&mut self, requests: &[Self::Request], targets: MatRef<'_, Self::Scalar>) -> Result<()> {
                (**self).hold_targets(requests, targets)
            }

            fn release_targets(&mut self) {
                (**self).release_targets();
            }

            fn apply(&mut self, layer: usize, update: &Update<Self::Scalar>) -> Result<()> {
                (**self).apply(layer, update)
            }
        }
    };
}

behind!(Box<A>);
behind!(&mut A);
