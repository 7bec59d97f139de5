//! How an editor starts: from a spectrum, from statistics, or from the second moment alone.

use std::borrow::Cow;
use std::sync::Arc;

use faer::Par;

use super::{ClosedFormEditor, History, Recipe};
use crate::engine::{WholeStart, needs_spectrum};
use crate::error::numerics::Result;
use crate::key_statistics::KeyStatistics;
use crate::refresh::memory::Memory;
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::util::on_demand::OnDemand;

impl<T: Scalar> ClosedFormEditor<T> {
    /// An editor from a recipe. [`Method::editor`](super::Method::editor) is the usual way to get one.
    ///
    /// # Errors
    /// Hyperparameters outside their range, a threshold that keeps nothing, a singular start, or a refresh rule that needs
    /// a null space in a recipe without one.
    pub fn new(name: impl Into<Cow<'static, str>>, recipe: Recipe, spectrum: &Arc<Spectrum>, par: Par) -> Result<Self> {
        Self::on(name.into(), recipe, &Arc::clone(spectrum).into(), par)
    }

    /// As [`new`](Self::new), from statistics that may be at rest (`KeyStatistics::at_rest`): the editor reads their spectrum when it needs
    /// it, and does not keep it. Statistics without a spectrum start it as [`from_moment`](Self::from_moment) does.
    ///
    /// # Errors
    /// As [`new`](Self::new) or [`from_moment`](Self::from_moment), and statistics that cannot be read.
    pub fn with_statistics(
        name: impl Into<Cow<'static, str>>,
        recipe: Recipe,
        statistics: &KeyStatistics,
        par: Par,
    ) -> Result<Self> {
        match statistics.spectrum_on_demand() {
            Some(spectrum) => Self::on(name.into(), recipe, spectrum, par),
            None => Self::from_moment(name, recipe, &*statistics.moment()?, par),
        }
    }

    fn on(name: Cow<'static, str>, recipe: Recipe, at: &OnDemand<Spectrum>, par: Par) -> Result<Self> {
        recipe.check()?;
        let (projector, solve) = (recipe.projector(&at.get()?, par)?, recipe.solve::<T>());
        recipe.need(projector.dim(), projector.kept(), solve).reserve()?;
        let Q = solve.start(&projector, par)?;
        let memory = Memory::new(recipe.refresh, recipe.space.threshold(), &projector, at, solve, par)?;
        Self::started(name, recipe, Q, memory, par)
    }

    /// An editor from a recipe whose space is the whole, from the second moment alone: `Q` comes from a Cholesky factorisation, and no
    /// eigendecomposition is needed. Cost: that of [`InverseGram::from_moment`](crate::InverseGram::from_moment).
    ///
    /// Updates are those of [`new`](Self::new), to rounding.
    ///
    /// # Errors
    /// As [`new`](Self::new); a recipe that needs the spectrum, which [`Recipe::needs_spectrum`] tells.
    pub fn from_moment(
        name: impl Into<Cow<'static, str>>,
        recipe: Recipe,
        moment: &SecondMoment,
        par: Par,
    ) -> Result<Self> {
        recipe.check()?;
        let name = name.into();
        if recipe.needs_spectrum() {
            return Err(needs_spectrum(&format!("an editor of the method {name}")));
        }
        let (d, solve) = (moment.d_in(), recipe.solve::<T>());
        recipe.need(d, d, solve).and(WholeStart::need(d)).reserve()?;
        let start = WholeStart::new(moment, recipe.weight, recipe.ridge, par)?;
        let Q = solve.whole(&start, par)?;
        let kept = (recipe.history == History::Absorbed).then_some(start);
        Self::started(name, recipe, Q, Memory::whole(d, kept, solve, par), par)
    }
}
