//! The statistics of a layer's keys as one value: the second moment and its spectrum.

use std::sync::Arc;

use faer::{Mat, Par};

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, tolerance};
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::util::on_demand::OnDemand;
use crate::util::shown::shown;

/// The second moment of a layer's keys and its eigendecomposition, which belong together.
///
/// A clone shares both.
///
/// # Memory
/// `4 d_in²` bytes for the moment and `8 d_in²` for the spectrum: 2.5 GB at a `d_in` of 14336. An editor needs them when it starts, for a
/// moment at each edit (gauges), and at refreshes. `at_rest` (with the feature `files`) puts them away on disk in between.
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
#[derive(Clone)]
pub struct KeyStatistics {
    d_in: usize,
    moment: OnDemand<SecondMoment>,
    spectrum: Option<OnDemand<Spectrum>>,
}

shown!([] KeyStatistics, "KeyStatistics", self => {
    "d_in": self.d_in,
    "moment": self.moment,
    "spectrum": self.spectrum,
});

impl KeyStatistics {
    /// Decomposes the moment. Cost: that of [`Spectrum::new`].
    ///
    /// # Errors
    /// Those of [`Spectrum::new`].
    pub fn new(moment: impl Into<Arc<SecondMoment>>, par: Par) -> Result<Self> {
        let moment = moment.into();
        let spectrum = Arc::new(Spectrum::new(&moment, par)?);
        Ok(Self { d_in: moment.d_in(), moment: moment.into(), spectrum: Some(spectrum.into()) })
    }

    /// A moment alone, for methods that need no spectrum ([`Recipe::needs_spectrum`](crate::editor::Recipe::needs_spectrum)).
    pub fn from_moment(moment: impl Into<Arc<SecondMoment>>) -> Self {
        let moment = moment.into();
        Self { d_in: moment.d_in(), moment: moment.into(), spectrum: None }
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
            Ok(Self { d_in: d, moment: moment.into(), spectrum: Some(spectrum.into()) })
        } else {
            Err(NumericsError::ForeignSpectrum { difference })
        }
    }

    /// Puts both away on disk: in files without names, which are gone with the process. They are read when they are needed, and dropped
    /// after that, to the same bits. What shares them in memory by now keeps them there.
    ///
    /// * `directory`: has room for `12 d_in²` bytes
    ///
    /// Cost: writing these; reading one of the two each time.
    ///
    /// # Errors
    /// [`NumericsError::AtRest`] if they cannot be written.
    ///
    /// # Examples
    /// ```
    /// use betaedit_core::{KeyStatistics, SecondMoment, faer::{mat, Par}};
    ///
    /// let mut moment = SecondMoment::new(2);
    /// moment.observe(mat![[2.0, 0.0], [0.0, 1.0]].as_ref(), Par::Seq)?;
    /// let statistics = KeyStatistics::new(moment, Par::Seq)?.at_rest(std::env::temp_dir())?;
    /// assert_eq!(statistics.spectrum()?.values(), [0.5, 2.0]);
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    #[cfg(feature = "files")]
    pub fn at_rest(self, directory: impl AsRef<std::path::Path>) -> Result<Self> {
        let (directory, d_in) = (directory.as_ref(), self.d_in);
        let moment = self.moment()?;
        let tokens = moment.tokens();
        let read = move |from: &mut dyn std::io::Read| SecondMoment::loaded(from, d_in, tokens);
        let moment = OnDemand::at_rest(directory, |out| moment.save(out), read).map_err(NumericsError::AtRest)?;
        let spectrum = match &self.spectrum {
            None => None,
            Some(spectrum) => {
                let spectrum = spectrum.get()?;
                let read = move |from: &mut dyn std::io::Read| Spectrum::load(from, d_in);
                Some(OnDemand::at_rest(directory, |out| spectrum.save(out), read).map_err(NumericsError::AtRest)?)
            }
        };
        Ok(Self { d_in, moment, spectrum })
    }

    /// The second moment `C`.
    ///
    /// # Errors
    /// [`NumericsError::AtRest`] if it is on disk and cannot be read.
    pub fn moment(&self) -> Result<Arc<SecondMoment>> {
        self.moment.get()
    }

    /// Its eigendecomposition.
    ///
    /// # Errors
    /// As [`moment`](Self::moment); [`NumericsError::Unsupported`] for statistics [from a moment alone](Self::from_moment).
    pub fn spectrum(&self) -> Result<Arc<Spectrum>> {
        let missing =
            || NumericsError::Unsupported { what: "the spectrum of statistics that were not decomposed".into() };
        self.spectrum.as_ref().ok_or_else(missing)?.get()
    }

    #[cfg(feature = "session")]
    pub(crate) fn moment_on_demand(&self) -> &OnDemand<SecondMoment> {
        &self.moment
    }

    /// The spectrum, if there is one.
    pub(crate) fn spectrum_on_demand(&self) -> Option<&OnDemand<Spectrum>> {
        self.spectrum.as_ref()
    }

    /// Length of the keys.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.d_in
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
