//! The comparisons for a stream: the same edits in f64, the published programs' solve, and an eigendecomposition.

use std::time::Instant;

use betaedit_core::editor::ClosedFormEditor;
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, Par, Scale, Side};
use betaedit_core::scalar::cast;
use betaedit_core::{EditBatch, Editor, Scalar, Spectrum};
use betaedit_synthetic::{DenseSolve, LAMBDA1, LAMBDA2, Layer};
use indicatif::ProgressBar;

use super::stream::Stream;
use super::{Arguments, Rule};
use crate::research::numbers::median;
use crate::terminal::{Done, Terminal};

/// Up to this size the same stream is also solved densely in f64, with one factorisation per edit.
pub const AFFORDABLE: (usize, usize) = (1024, 512);
/// Up to this size, a run with periodic refreshes always times a full eigendecomposition.
const AFFORDABLE_EIGEN: usize = 4096;

/// All comparisons that were requested or take little time.
pub struct Comparison {
    pub relative_error: Option<f64>,
    pub dense: Dense,
    pub full_eigen: Option<f64>,
}

impl Comparison {
    pub fn make<T: Scalar>(
        arguments: &Arguments,
        layer: &Layer,
        stream: &Stream<T>,
        editor: &ClosedFormEditor<T>,
        terminal: Terminal,
    ) -> Done<Self> {
        let relative_error = relative_error(arguments, layer, stream, terminal.par)?;
        let dense = dense_reference(arguments, layer, editor, terminal)?;
        let unasked = arguments.periodic() && arguments.d_in <= AFFORDABLE_EIGEN;
        let wanted = arguments.full_eigen || unasked;
        let full_eigen = wanted.then(|| full_eigen(layer, terminal.par)).transpose()?;
        Ok(Self { relative_error, dense, full_eigen })
    }
}

/// `|D - D'| / |D'|`, where `D` is the sum of all updates, and `D'` is computed from the same keys and residuals in f64, with
/// the system of every edit formed in a basis of the space and factored from scratch.
fn relative_error<T: Scalar>(arguments: &Arguments, layer: &Layer, stream: &Stream<T>, par: Par) -> Done<Option<f64>> {
    if stream.updates.is_empty() || !matches!(arguments.refresh, Rule::Never | Rule::Full) {
        return Ok(None);
    }
    let threshold = 0.02;
    let spectrum = &layer.spectrum;
    let C = spectrum.to_matrix(par);
    let mut H = Mat::<f64>::zeros(arguments.d_in, arguments.d_in);
    let mut V = spectrum.vectors().subcols(0, spectrum.count_below(threshold)).to_owned();
    let gram = |V: &Mat<f64>, H: &Mat<f64>| {
        let A = &C * Scale(LAMBDA1) + H;
        let mut A = V.transpose() * A * V;
        (0..A.nrows()).for_each(|i| A[(i, i)] += LAMBDA2);
        A
    };
    let mut A = gram(&V, &H);
    let (mut found, mut expected) = (Mat::<f64>::zeros(arguments.d_out, arguments.d_in), None::<Mat<f64>>);
    for (edit, update) in stream.updates.iter().enumerate() {
        if arguments.refresh == Rule::Full && edit > 0 && edit % arguments.refresh_every == 0 {
            let M = &C + &H * Scale(arguments.refresh_weight);
            let eigen = M.self_adjoint_eigen(Side::Lower).map_err(|_| "the eigendecomposition did not converge")?;
            let kept = eigen.S().column_vector().iter().filter(|&&s| s < threshold).count();
            V = eigen.U().subcols(0, kept).to_owned();
            A = gram(&V, &H);
        }
        let k = cast::<T, f64>(layer.key::<T>(edit).as_ref());
        let r = cast::<T, f64>(update.left());
        let z = V.transpose() * &k;
        A += &z * z.transpose();
        H += &k * k.transpose();
        let x = &V * A.llt(Side::Lower).map_err(|_| "the dense system is not positive definite")?.solve(&z);
        let delta = r * x.transpose();
        found += cast::<T, f64>(update.to_dense(par).as_ref());
        match &mut expected {
            Some(sum) => *sum += delta,
            None => expected = Some(delta),
        }
    }
    Ok(expected.map(|expected| (&found - &expected).norm_l2() / expected.norm_l2()))
}

/// The result of the published programs' solve.
#[derive(Default)]
pub struct Dense {
    pub seconds: Option<f64>,
    pub difference: Option<f64>,
}

fn dense_reference<T: Scalar>(
    arguments: &Arguments,
    layer: &Layer,
    editor: &ClosedFormEditor<T>,
    terminal: Terminal,
) -> Done<Dense> {
    if arguments.dense_reference == 0 {
        return Ok(Dense::default());
    }
    let (edits, par) = (arguments.edits, terminal.par);
    let mut dense = DenseSolve::new(&editor.projector()?, layer.keys::<T>(0, edits).as_ref(), par);
    let (k, r) = (layer.key::<T>(edits), layer.residuals::<T>(arguments.d_out, edits, 1));
    let bar = terminal.bar(arguments.dense_reference as u64, "dense solves");
    let (mut seconds, mut difference) = (Vec::new(), None);
    for _ in 0..arguments.dense_reference {
        let clock = Instant::now();
        let solution = dense.solve(k.as_ref(), r.as_ref(), par);
        seconds.push(clock.elapsed().as_secs_f64());
        if difference.is_none() && editor.state().refreshes == 0 && arguments.refresh != Rule::Continuous {
            let update = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?.update().to_dense(par);
            let difference_norm = (&update - solution.transpose()).norm_l2().to_f64();
            difference = Some(difference_norm / update.norm_l2().to_f64());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Dense { seconds: median(seconds), difference })
}

fn full_eigen(layer: &Layer, par: Par) -> Done<f64> {
    let C = layer.spectrum.to_matrix(par);
    let bar = ProgressBar::new_spinner().with_message("full eigendecomposition");
    bar.tick();
    let clock = Instant::now();
    std::hint::black_box(Spectrum::from_matrix(C.as_ref(), par)?);
    let seconds = clock.elapsed().as_secs_f64();
    bar.finish_and_clear();
    Ok(seconds)
}
