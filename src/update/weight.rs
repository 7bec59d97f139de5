//! A weight that takes many updates.

use faer::{Mat, MatMut, MatRef, Par};

use super::Update;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg;
use crate::scalar::Scalar;
use crate::util::named::named;
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// How a model stores the edited weight. The caller states it. It is never guessed from shapes, because a square weight
/// fits both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Orientation {
    /// `d_out x d_in`, `y = W k`: PyTorch's `Linear`, used by nearly every model.
    OutputsByInputs,
    /// `d_in x d_out`, `y = k W` for a row `k`: GPT-2's `Conv1D`.
    InputsByOutputs,
}

named!(Orientation, "orientation", { OutputsByInputs => "outputs-by-inputs", InputsByOutputs => "inputs-by-outputs" });

/// A weight that takes updates one after the other and never holds NaN or infinity.
///
/// [`Update::apply_to`] reads a weight twice: to check that the sum stays finite, and to add. This type keeps an upper
/// bound of its entries, which grows with every update, and reads the weight once. It checks the entries again only
/// when the bound nears the end of the range.
///
/// # Examples
/// ```
/// use betaedit_core::{Orientation, Update, faer::{mat, Par}, update::Weight};
///
/// let mut W = Weight::new(mat![[1.0, 0.0], [0.0, 1.0]], Orientation::OutputsByInputs)?;
/// let update = Update::from_factors(mat![[1.0], [2.0]], mat![[0.5, -1.0]])?;
/// W.apply(&update, Par::Seq)?;
/// assert_eq!(W.stored(), mat![[1.5, -1.0], [1.0, -1.0]]);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Weight<T: Scalar> {
    matrix: Mat<T>,
    orientation: Orientation,
    /// Upper bound of the absolute entries.
    bound: f64,
}

shown!([T: Scalar] Weight<T>, "Weight", self => {
    "stored": Shown::from(self.matrix.shape()),
    "orientation": self.orientation,
    "bound": self.bound,
});

impl<T: Scalar> Weight<T> {
    /// Wraps a weight as the model stores it. Cost: one pass.
    ///
    /// # Errors
    /// An empty matrix, NaN or infinity.
    pub fn new(matrix: Mat<T>, orientation: Orientation) -> Result<Self> {
        validate::not_empty("weight", matrix.as_ref())?;
        validate::finite("weight", matrix.as_ref())?;
        let bound = linalg::largest(matrix.as_ref());
        Ok(Self { matrix, orientation, bound })
    }

    /// The weight as the model stores it.
    #[must_use]
    pub fn stored(&self) -> MatRef<'_, T> {
        self.matrix.as_ref()
    }

    /// Returns the weight as the model stores it.
    #[must_use]
    pub fn into_matrix(self) -> Mat<T> {
        self.matrix
    }

    /// The weight as `d_out x d_in` (`y = W k`), however it is stored.
    #[must_use]
    pub fn outputs_by_inputs(&self) -> MatRef<'_, T> {
        match self.orientation {
            Orientation::OutputsByInputs => self.matrix.as_ref(),
            Orientation::InputsByOutputs => self.matrix.transpose(),
        }
    }

    /// How the weight is stored.
    #[must_use]
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// `W <- W + Delta`. Cost: for `n = 1`, one pass over the weight.
    ///
    /// # Errors
    /// An update of another shape, or one that might take an entry beyond half the range of `T`. On error, the weight
    /// is unchanged.
    pub fn apply(&mut self, update: &Update<T>, par: Par) -> Result<()> {
        let (d_out, d_in) = self.outputs_by_inputs().shape();
        update.check_shape("update", d_out, d_in)?;
        // Half the range leaves room for the rounding of the sums.
        let step = update.bound();
        if !(self.bound + step <= 0.5 * T::MAX) {
            self.bound = linalg::largest(self.matrix.as_ref());
            if !(self.bound + step <= 0.5 * T::MAX) {
                return Err(NumericsError::Overflow { step: "the edited weight", scalar: T::NAME });
            }
        }
        update.add_unchecked(self.outputs_by_inputs_mut(), 1.0, par);
        self.bound = (self.bound + step) * (1.0 + 4.0 * T::EPSILON);
        Ok(())
    }

    fn outputs_by_inputs_mut(&mut self) -> MatMut<'_, T> {
        match self.orientation {
            Orientation::OutputsByInputs => self.matrix.as_mut(),
            Orientation::InputsByOutputs => self.matrix.transpose_mut(),
        }
    }
}
