//! The statistics of a layer's keys as one value: the second moment and its spectrum.

use std::sync::Arc;

use faer::{Mat, Par};

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, tolerance};
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;

/// The second moment of a layer's keys and its eigendecomposition, which belong together.
///
/// A clone shares both.
///
/// # Examples
/// ```
/// use betaedit_core::{KeyStatistics, Memit, Method, SecondMoment, faer::{mat, Par}};
///
/// let mut moment = SecondMoment::new(2);
/// moment.observe(mat![[2.0, 0.0], [0.0, 1.0]].as_ref(), Par::Seq)?;
/// let statistics = KeyStatistics::new(moment, Par::Seq)?;
/// let spectrum = statistics.spectrum()?;
/// assert_eq!(spectrum.values(), [0.5, 2.0]);
/// let editor = Memit::default().editor::<f64>(&spectrum, Par::Seq)?;
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeyStatistics {
    moment: Arc<SecondMoment>,
    spectrum: Option<Arc<Spectrum>>,
}

impl KeyStatistics {
    /// Decomposes the moment. Cost: that of [`Spectrum::new`].
    ///
    /// # Errors
    /// Those of [`Spectrum::new`].
    pub fn new(moment: impl Into<Arc<SecondMoment>>, par: Par) -> Result<Self> {
        let moment = moment.into();
        let spectrum = Some(Arc::new(Spectrum::new(&moment, par)?));
        Ok(Self { moment, spectrum })
    }

    /// A moment alone, for methods that need no spectrum ([`Recipe::needs_spectrum`](crate::editor::Recipe::needs_spectrum)).
    pub fn from_moment(moment: impl Into<Arc<SecondMoment>>) -> Self {
        Self { moment: moment.into(), spectrum: None }
    }

    /// A moment and its spectrum, for example read from files. Cost: three passes over `d_in²` numbers, to compare the
    /// two.
    ///
    /// # Errors
    /// [`NumericsError::ForeignSpectrum`] for the spectrum of another moment; different key lengths.
    pub fn from_parts(
        moment: impl Into<Arc<SecondMoment>>,
        spectrum: impl Into<Arc<Spectrum>>,
        par: Par,
    ) -> Result<Self> {
        let (moment, spectrum) = (moment.into(), spectrum.into());
        let (d, found) = (moment.d_in(), spectrum.dim());
        if d != found {
            let (expected, found) = ((d, d).into(), (found, found).into());
            return Err(NumericsError::Shape { argument: "spectrum", expected, found });
        }
        let difference = difference(&moment, &spectrum, par)?;
        // Some files hold statistics in `f32`.
        if difference <= tolerance::SYMMETRY {
            Ok(Self { moment, spectrum: Some(spectrum) })
        } else {
            Err(NumericsError::ForeignSpectrum { difference })
        }
    }

    /// The second moment `C`.
    #[must_use]
    pub fn moment(&self) -> &Arc<SecondMoment> {
        &self.moment
    }

    /// Its eigendecomposition.
    ///
    /// # Errors
    /// [`NumericsError::Unsupported`] for statistics [from a moment alone](Self::from_moment).
    pub fn spectrum(&self) -> Result<Arc<Spectrum>> {
        let missing =
            || NumericsError::Unsupported { what: "the spectrum of statistics that were not decomposed".into() };
        self.spectrum.clone().ok_or_else(missing)
    }

    /// Whether there is a spectrum.
    #[cfg(feature = "session")]
    pub(crate) fn is_decomposed(&self) -> bool {
        self.spectrum.is_some()
    }

    /// Length of the keys.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.moment.d_in()
    }
}

/// `|C x - U diag(s) Uᵀ x| / (s_max |x|)` for one vector.
fn difference(moment: &SecondMoment, spectrum: &Spectrum, par: Par) -> Result<f64> {
    // Any generic vector will do.
    let x = Mat::from_fn(moment.d_in(), 1, |i, _| (1.0 + i as f64 * 1.618_033_988_749_895).cos());
    let U = spectrum.vectors();
    let coordinates = linalg::product(U.transpose(), x.as_ref(), par);
    let scaled = Mat::from_fn(spectrum.dim(), 1, |i, _| spectrum.values()[i] * coordinates[(i, 0)]);
    let by_spectrum = linalg::product(U, scaled.as_ref(), par);
    let by_moment = moment.product(x.as_ref(), par)?;
    Ok((by_moment - by_spectrum).norm_l2() / (spectrum.largest() * x.norm_l2()).max(f64::MIN_POSITIVE))
}
