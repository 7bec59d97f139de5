//! Running total: leakage, expected loss and drift of all edits so far.

use std::sync::Arc;

use faer::{Accum, Mat, MatRef, Par};

use crate::error::numerics::{NumericsError, Result};
#[cfg(feature = "session")]
use crate::key_statistics::KeyStatistics;
use crate::linalg::{self, Need};
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::update::Update;
use crate::util::on_demand::OnDemand;
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// The sum `D` of all updates, with its leakage and drift kept up to date, and its expected loss if there are gradients.
///
/// A dense `tr(D C Dᵀ)` costs `2 d_out d_in²` flops. Here all quantities are updated:
/// `leak(D + Delta) = leak(D) + 2 tr(D C Deltaᵀ) + leak(Delta)`. A measurement takes one pass over `C` and two over
/// `D`, about the cost of the edit itself. With a stride, updates are gathered and share the passes.
///
/// # Memory
/// `D` (`d_out x d_in`, `f64`); with a stride, also the gathered factors. The statistics are shared.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{SecondMoment, Update, faer::{mat, Par}, metrics::RunningTotal};
///
/// let mut moment = SecondMoment::new(2);
/// moment.observe(mat![[1.0], [0.0]].as_ref(), Par::Seq)?;
/// let mut total = RunningTotal::new(&Arc::new(moment), 1, 1, Par::Seq)?;
/// let update = Update::from_factors(mat![[2.0]], mat![[1.0, 1.0]])?;
/// let first = total.record(&update)?.expect("stride 1 measures at every update");
/// let second = total.record(&update)?.expect("stride 1 measures at every update");
/// assert!((second.drift - 32.0_f64.sqrt()).abs() < 1e-14);
/// assert!((second.leakage - 16.0).abs() < 1e-14);
/// assert!((second.interference - 8.0).abs() < 1e-14); // <D before, Delta>
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct RunningTotal {
    moment: OnDemand<SecondMoment>,
    gradients: Option<Arc<SecondMoment>>,
    total: Mat<f64>,
    leakage: f64,
    /// 0 without gradients.
    expected_loss: f64,
    drift_squared: f64,
    stride: usize,
    edits: usize,
    /// Updates recorded since the last measurement, and their factors: `left`, transposed `right`.
    waiting: usize,
    /// Column by column, so that they are gathered without copies.
    left: Vec<f64>,
    right: Vec<f64>,
    par: Par,
}

shown!([] RunningTotal, "RunningTotal", self => {
    "total": Shown::from(self.total.shape()),
    "edits": self.edits,
    "waiting": self.waiting,
    "stride": self.stride,
    "leakage": self.leakage,
    "expected_loss": self.gradients.as_ref().map(|_| self.expected_loss),
    "drift": self.drift_squared.sqrt(),
});

/// One measurement of a [`RunningTotal`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Measurement {
    /// Edits so far.
    pub edits: usize,
    /// Leakage of the total, `tr(D C Dᵀ)`.
    pub leakage: f64,
    /// Expected loss of the total, `tr(G D C Dᵀ) / 2`, if there are gradients.
    pub expected_loss: Option<f64>,
    /// Drift, `|D|_F`.
    pub drift: f64,
    /// Leakage of the change since the last measurement.
    pub update_leakage: f64,
    /// Frobenius norm of the change since the last measurement.
    pub update_norm: f64,
    /// `<D before, change>`: negative when the change undoes part of what was there.
    pub interference: f64,
}

/// Leakage, expected loss and drift of a total change `D`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Gauges {
    /// `tr(D C Dᵀ)`.
    pub leakage: f64,
    /// `tr(G D C Dᵀ) / 2`, nats a token, see [`expected_loss`](super::expected_loss); `None` without gradients.
    pub expected_loss: Option<f64>,
    /// `|D|_F`.
    pub drift: f64,
}

impl RunningTotal {
    /// A total of zero for a weight with `d_out` rows, measured at every `stride`-th update.
    ///
    /// # Errors
    /// A stride or `d_out` of zero, or not enough memory.
    pub fn new(moment: &Arc<SecondMoment>, d_out: usize, stride: usize, par: Par) -> Result<Self> {
        for (parameter, value) in [("stride", stride), ("d_out", d_out)] {
            if value == 0 {
                return Err(NumericsError::Parameter { parameter, value: 0.0, allowed: "at least 1" });
            }
        }
        Self::on(Arc::clone(moment).into(), (d_out, moment.d_in()), stride, par)
    }

    fn on(moment: OnDemand<SecondMoment>, (d_out, d_in): (usize, usize), stride: usize, par: Par) -> Result<Self> {
        let need = Need::new("the total update", d_out, d_in).matrix::<f64>(d_out, d_in);
        need.reserve()?;
        Ok(Self {
            moment,
            gradients: None,
            total: need.zeros(d_out, d_in)?,
            leakage: 0.0,
            expected_loss: 0.0,
            drift_squared: 0.0,
            stride,
            edits: 0,
            waiting: 0,
            left: Vec::new(),
            right: Vec::new(),
            par,
        })
    }

    /// Measures the [expected loss](super::expected_loss) too, from now on.
    ///
    /// * `gradients`: `G`, `d_out x d_out`
    ///
    /// # Errors
    /// Gradients of another output length, or a total that is not zero any more.
    pub fn with_gradients(mut self, gradients: &Arc<SecondMoment>) -> Result<Self> {
        let d_out = self.total.nrows();
        if gradients.d_in() != d_out {
            let (expected, found) = ((d_out, d_out).into(), (gradients.d_in(), gradients.d_in()).into());
            return Err(NumericsError::Shape { argument: "gradients", expected, found });
        }
        if self.edits > 0 {
            let (parameter, value) = ("edits", self.edits as f64);
            return Err(NumericsError::Parameter { parameter, value, allowed: "0 when gradients are added" });
        }
        self.gradients = Some(Arc::clone(gradients));
        Ok(self)
    }

    /// Adds an update. Measures at every `stride`-th update.
    ///
    /// # Errors
    /// An update of another shape, or overflow. On error, nothing is recorded.
    pub fn record<T: Scalar>(&mut self, update: &Update<T>) -> Result<Option<Measurement>> {
        update.check_shape("update", self.total.nrows(), self.total.ncols())?;
        let before = (self.left.len(), self.right.len());
        gather(&mut self.left, update.left());
        gather(&mut self.right, update.right().transpose());
        self.edits += update.edits();
        self.waiting += 1;
        if self.waiting < self.stride {
            return Ok(None);
        }
        let measured = self.measure();
        if measured.is_err() {
            self.left.truncate(before.0);
            self.right.truncate(before.1);
            self.edits -= update.edits();
            self.waiting -= 1;
        }
        measured.map(Some)
    }

    /// Measures now, regardless of the stride.
    ///
    /// # Errors
    /// Overflow. On error, nothing is measured.
    pub fn measure(&mut self) -> Result<Measurement> {
        let (d_out, d_in) = self.total.shape();
        let n = self.left.len() / d_out;
        let L = MatRef::from_column_major_slice(&self.left, d_out, n);
        let R = MatRef::from_column_major_slice(&self.right, d_in, n);
        let measured = self.with(L, R)?;
        linalg::matmul(self.total.as_mut(), Accum::Add, L, R.transpose(), 1.0, self.par);
        self.take(&measured);
        self.waiting = 0;
        self.left.clear();
        self.right.clear();
        Ok(measured)
    }

    fn take(&mut self, measured: &Measurement) {
        (self.leakage, self.drift_squared) = (measured.leakage, measured.drift * measured.drift);
        self.expected_loss = measured.expected_loss.unwrap_or_default();
    }

    /// What [`record`](Self::record) would measure after an update, at stride 1. Records nothing.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn after<T: Scalar>(&self, update: &Update<T>) -> Result<Measurement> {
        update.check_shape("update", self.total.nrows(), self.total.ncols())?;
        let (mut left, mut right) = (self.left.clone(), self.right.clone());
        gather(&mut left, update.left());
        gather(&mut right, update.right().transpose());
        let n = left.len() / self.total.nrows();
        let L = MatRef::from_column_major_slice(&left, self.total.nrows(), n);
        let R = MatRef::from_column_major_slice(&right, self.total.ncols(), n);
        let measured = self.with(L, R)?;
        Ok(Measurement { edits: self.edits + update.edits(), ..measured })
    }

    /// The measurement of the total plus a change `L Rᵀ`.
    fn with(&self, L: MatRef<'_, f64>, R: MatRef<'_, f64>) -> Result<Measurement> {
        let (par, n) = (self.par, L.ncols());
        let D = self.total.as_ref();
        let CR = self.moment.get()?.product(R, par)?;
        let LL = linalg::product(L.transpose(), L, par);
        let RCR = linalg::product(R.transpose(), CR.as_ref(), par);
        let RR = linalg::product(R.transpose(), R, par);
        let weighted = |X: &Mat<f64>| linalg::clamped(linalg::inner(LL.as_ref(), X.as_ref()));
        let (update_norm_squared, update_leakage) = (weighted(&RR), weighted(&RCR));
        // One pass over D for both cross terms, <D, L Rᵀ> and <D C, L Rᵀ>.
        let DX = linalg::product(D, linalg::side_by_side(R, CR.as_ref()).as_ref(), par);
        let interference = linalg::inner(L, DX.as_ref().subcols(0, n));
        let cross_leakage = linalg::inner(L, DX.as_ref().subcols(n, n));

        let expected_loss = match &self.gradients {
            None => None,
            Some(gradients) => {
                let GL = gradients.product(L, par)?;
                let of_update = linalg::inner(linalg::product(L.transpose(), GL.as_ref(), par).as_ref(), RCR.as_ref());
                let cross = linalg::inner(GL.as_ref(), DX.as_ref().subcols(n, n));
                Some(linalg::clamped(self.expected_loss + cross + 0.5 * of_update))
            }
        };
        let leakage = linalg::clamped(self.leakage + 2.0 * cross_leakage + update_leakage);
        let drift_squared = linalg::clamped(self.drift_squared + 2.0 * interference + update_norm_squared);
        let expected = expected_loss.unwrap_or_default();
        validate::in_range(
            "the running total",
            &[leakage, expected, drift_squared, update_norm_squared, interference],
        )?;
        Ok(Measurement {
            edits: self.edits,
            leakage,
            expected_loss,
            drift: drift_squared.sqrt(),
            update_leakage,
            update_norm: update_norm_squared.sqrt(),
            interference,
        })
    }

    /// The total `D` of all recorded updates, `d_out x d_in`. Measures first if some are still gathered.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn total(&mut self) -> Result<MatRef<'_, f64>> {
        if self.waiting > 0 {
            self.measure()?;
        }
        Ok(self.total.as_ref())
    }

    /// The gauges up to the last measurement, recomputed from the total: `2 d_out d_in²` flops. The updated
    /// values differ from these by rounding only.
    ///
    /// # Errors
    /// None in practice, unless the moment is on disk.
    pub fn afresh(&self) -> Result<Gauges> {
        let CD = self.moment.get()?.product(self.total.transpose(), self.par)?;
        let leakage = linalg::inner(self.total.transpose(), CD.as_ref());
        let weighted = |gradients: &Arc<SecondMoment>| -> Result<f64> {
            let GD = gradients.product(self.total.as_ref(), self.par)?;
            Ok(0.5 * linalg::inner(GD.transpose(), CD.as_ref()))
        };
        let expected_loss = self.gradients.as_ref().map(weighted).transpose()?;
        Ok(Gauges { leakage, expected_loss, drift: self.total.norm_l2() })
    }
}

/// What a session needs.
#[cfg(feature = "session")]
impl RunningTotal {
    /// As [`new`](Self::new) with a stride of 1, with statistics that may be at rest.
    pub(crate) fn of_statistics(statistics: &KeyStatistics, d_out: usize, par: Par) -> Result<Self> {
        Self::on(statistics.moment_on_demand().clone(), (d_out, statistics.d_in()), 1, par)
    }

    /// Records an update together with its measurement from [`after`](Self::after).
    pub(crate) fn accept<T: Scalar>(&mut self, update: &Update<T>, measured: &Measurement) {
        let (left, right) =
            (crate::scalar::cast::<T, f64>(update.left()), crate::scalar::cast::<T, f64>(update.right()));
        linalg::matmul(self.total.as_mut(), Accum::Add, left.as_ref(), right.as_ref(), 1.0, self.par);
        self.take(measured);
        self.edits = measured.edits;
    }

    /// The gauges up to the last measurement.
    pub(crate) fn gauges(&self) -> Gauges {
        let expected_loss = self.gradients.as_ref().map(|_| self.expected_loss);
        Gauges { leakage: self.leakage, expected_loss, drift: self.drift_squared.sqrt() }
    }

    /// The total up to the last measurement.
    pub(crate) fn so_far(&self) -> MatRef<'_, f64> {
        self.total.as_ref()
    }

    /// Writes the total, which [`let_go`](Self::let_go) can then drop.
    pub(crate) fn write(&self, out: &mut dyn std::io::Write) -> crate::util::bytes::Result<()> {
        crate::util::bytes::write_matrix(out, self.total.as_ref())
    }

    pub(crate) fn let_go(&mut self) {
        self.total = Mat::new();
    }

    /// Reads the total that [`write`](Self::write) wrote.
    pub(crate) fn read(
        &mut self,
        from: &mut dyn std::io::Read,
        (d_out, d_in): (usize, usize),
    ) -> crate::util::bytes::Result<()> {
        self.total = crate::util::bytes::read_matrix(from, d_out, d_in)?;
        Ok(())
    }

    /// Writes the state, bit for bit.
    pub(crate) fn save(&self, out: &mut dyn std::io::Write) -> crate::util::bytes::Result<()> {
        crate::util::bytes::write_len(out, self.edits)?;
        crate::util::bytes::write_f64(out, self.leakage)?;
        crate::util::bytes::write_f64(out, self.drift_squared)?;
        if self.gradients.is_some() {
            crate::util::bytes::write_f64(out, self.expected_loss)?;
        }
        crate::util::bytes::write_matrix(out, self.total.as_ref())
    }

    /// Loads a state that [`save`](Self::save) wrote. After an error the state is unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn std::io::Read) -> crate::util::bytes::Result<()> {
        self.edits = crate::util::bytes::read_len(from, usize::MAX)?;
        self.leakage = crate::util::bytes::read_f64(from)?;
        self.drift_squared = crate::util::bytes::read_f64(from)?;
        if self.gradients.is_some() {
            self.expected_loss = crate::util::bytes::read_f64(from)?;
        }
        self.total = crate::util::bytes::read_matrix(from, self.total.nrows(), self.total.ncols())?;
        Ok(())
    }
}

/// Appends the columns of a factor.
fn gather<T: Scalar>(columns: &mut Vec<f64>, factor: MatRef<'_, T>) {
    columns.extend(factor.col_iter().flat_map(|column| column.iter().map(|x| x.to_f64())));
}
