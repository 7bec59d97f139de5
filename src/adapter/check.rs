//! Whether an adapter does what its trait asks for.

use faer::{Mat, MatRef, Par};

use super::Adapter;
use crate::error::{ModelError, Result};
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::update::Update;
use crate::util::validate;

/// The size of the update that a check applies, relative to the weight.
const TRIAL: f64 = 0.01;
/// The share of an update by which its effect may differ from it.
const TOLERANCE: f64 = 0.1;
/// The share of the weight that rounding may change: adapters may store half precision.
const ROUNDING: f64 = 1.0 / 128.0;

/// Checks that an adapter does what [`Adapter`] asks for. Run it in the tests of an adapter, before the first session.
///
/// At every layer it checks that
/// * keys, companions and residuals have the right shapes, are finite, and are the same in a second call,
/// * the weight can be read, and an unknown layer is refused,
/// * [`apply`](Adapter::apply) adds an update to the weight: all of it, once, and nothing else,
/// * [`write_weight`](Adapter::write_weight) restores the weight bit for bit, and neither changes another layer,
/// * [`fingerprint`](Adapter::fingerprint) is the same while the weight is edited,
/// * a request that is [encoded](Adapter::encode) is decoded to one that is encoded as the same bytes and has the same keys.
///
/// It cannot tell whether keys and residuals are those of the model as edited so far: for a recording they are not.
///
/// Afterwards, the weights are as they were before, unless the adapter fails to restore them. Weights in half precision pass. The
/// weights of all layers are held in memory once.
///
/// * `requests`: any requests that the adapter knows, at least one
///
/// Cost: keys and residuals of all layers, twice, and a few passes over every weight.
///
/// # Examples
/// See `docs/adding-an-adapter.md`.
///
/// # Errors
/// [`ModelError::Contract`], which says what the adapter did and what it should do; errors of the adapter.
pub fn check<A: Adapter>(adapter: &mut A, requests: &[A::Request], par: Par) -> Result<()> {
    if requests.is_empty() {
        return Err(crate::error::NumericsError::Empty { argument: "requests", item: "request" }.into());
    }
    let layers = adapter.layers().to_vec();
    let first = layers.first().copied().unwrap_or_default();
    if layers.is_empty() {
        return breach(first, "`layers` is empty: name the layers that can be edited");
    }
    if !layers.is_sorted_by(|a, b| a < b) {
        return breach(first, format!("`layers` is {layers:?}: name each layer once, in ascending order"));
    }
    let unknown = layers.last().map_or(0, |last| last + 1);
    if adapter.weight_shape(unknown).is_ok() {
        return breach(unknown, "`layers` does not name it, but `weight_shape` knows it: return an error");
    }
    let fingerprint = adapter.fingerprint();
    for &layer in &layers {
        check_keys(adapter, layer, requests)?;
        let others: Vec<usize> = layers.iter().copied().filter(|&other| other != layer).collect();
        check_weight(adapter, layer, &others, &fingerprint, par)?;
    }
    check_encoding(adapter, first, requests)
}

fn breach<T>(layer: usize, problem: impl Into<String>) -> Result<T> {
    Err(ModelError::Contract { layer, problem: problem.into() }.into())
}

/// Keys and residuals: their shapes, and that they are reproducible.
fn check_keys<A: Adapter>(adapter: &mut A, layer: usize, requests: &[A::Request]) -> Result<()> {
    let ((d_out, d_in), n) = (adapter.weight_shape(layer)?, requests.len());
    let (keys, residuals) = (adapter.keys(layer, requests)?, adapter.residuals(layer, requests)?);
    for (name, matrix, rows) in [("keys", &keys, d_in), ("residuals", &residuals, d_out)] {
        if matrix.shape() != (rows, n) {
            let (found_rows, found_cols) = matrix.shape();
            return breach(layer, format!("`{name}` is {found_rows} x {found_cols}, expected {rows} x {n}"));
        }
        if validate::finite(name, matrix.as_ref()).is_err() {
            return breach(layer, format!("`{name}` holds NaN or infinity: every entry must be finite"));
        }
    }
    let companions = adapter.companions(layer, requests)?;
    if let Some(companions) = &companions
        && let Err(error) = companions.joined(keys.as_ref(), residuals.as_ref())
    {
        return breach(layer, format!("`companions` do not fit the requests: {error}"));
    }
    let again = |adapter: &mut A| -> Result<bool> {
        Ok(adapter.keys(layer, requests)? == keys
            && adapter.residuals(layer, requests)? == residuals
            && adapter.companions(layer, requests)? == companions)
    };
    if !again(adapter)? {
        return breach(
            layer,
            "keys, companions or residuals differ between two calls: compute them from the model alone",
        );
    }
    Ok(())
}

/// Requests as bytes, and back.
fn check_encoding<A: Adapter>(adapter: &mut A, layer: usize, requests: &[A::Request]) -> Result<()> {
    let encoded = |adapter: &A, requests: &[A::Request]| -> Option<Vec<Vec<u8>>> {
        requests.iter().map(|request| adapter.encode(request)).collect()
    };
    let Some(bytes) = encoded(adapter, requests) else { return Ok(()) };
    let decoded = bytes.iter().map(|bytes| adapter.decode(bytes)).collect::<Result<Vec<_>>>()?;
    let same = encoded(adapter, &decoded).as_ref() == Some(&bytes)
        && adapter.keys(layer, &decoded)? == adapter.keys(layer, requests)?;
    if !same {
        return breach(layer, "`decode` makes another request of what `encode` returned: make the same one");
    }
    Ok(())
}

/// Reading, changing and restoring the weight.
fn check_weight<A: Adapter>(
    adapter: &mut A,
    layer: usize,
    others: &[usize],
    fingerprint: &str,
    par: Par,
) -> Result<()> {
    let before = read(adapter, layer)?;
    let beside: Vec<_> = others.iter().map(|&other| read(adapter, other)).collect::<Result<_>>()?;
    let update = trial(before.as_ref())?;
    adapter.apply(layer, &update)?;
    let (after, edited) = (read(adapter, layer)?, adapter.fingerprint());
    adapter.write_weight(layer, before.as_ref())?;
    if read(adapter, layer)? != before {
        return breach(
            layer,
            "`write_weight` does not restore the weight bit for bit: store the numbers as they are given",
        );
    }
    for (&other, weight) in others.iter().zip(&beside) {
        if read(adapter, other)? != *weight {
            return breach(layer, format!("`apply` or `write_weight` also changes layer {other}"));
        }
    }
    if edited != fingerprint || adapter.fingerprint() != fingerprint {
        return breach(layer, "`fingerprint` has changed: identify the model as it was before any edit");
    }
    check_applied(layer, before.as_ref(), after.as_ref(), &update, par)
}

fn read<A: Adapter>(adapter: &A, layer: usize) -> Result<Mat<A::Scalar>> {
    let (d_out, d_in) = adapter.weight_shape(layer)?;
    let mut weight = Mat::zeros(d_out, d_in);
    adapter.read_weight(layer, weight.as_mut())?;
    match validate::finite("weight", weight.as_ref()) {
        Ok(()) => Ok(weight),
        Err(_) => breach(layer, "the weight holds NaN or infinity: every entry must be finite"),
    }
}

/// An update of rank one that is small relative to the weight, and different at every entry.
fn trial<T: Scalar>(weight: MatRef<'_, T>) -> Result<Update<T>> {
    let (d_out, d_in) = weight.shape();
    let norm = weight.norm_l2().to_f64();
    let size = TRIAL * if norm > 0.0 { norm } else { 1.0 } / (d_out as f64 * d_in as f64).sqrt();
    let left = Mat::from_fn(d_out, 1, |i, _| T::from_f64(size * (1.5 + (1.0 + i as f64).sin())));
    let right = Mat::from_fn(1, d_in, |_, j| T::from_f64((0.5 + 2.0 * j as f64).cos()));
    Ok(Update::from_factors(left, right)?)
}

/// Checks that a weight has changed by an update: all of it, once, and nothing else.
///
/// The change may differ from the update by the rounding of half precision. An update that is lost in the weight's own
/// rounding passes.
pub(crate) fn check_applied<T: Scalar>(
    layer: usize,
    before: MatRef<'_, T>,
    after: MatRef<'_, T>,
    update: &Update<T>,
    par: Par,
) -> Result<()> {
    let Delta = cast::<T, f64>(update.to_dense(par).as_ref());
    let (before, after) = (cast::<T, f64>(before), cast::<T, f64>(after));
    let (size, weight) = (Delta.norm_l2(), before.norm_l2());
    if !(size > T::EPSILON * weight) {
        return Ok(());
    }
    let done = after - before;
    // How many times the change contains the update, and what else it contains.
    let (unit, scale) = linalg::unit_scaled(Delta.as_ref());
    let times = linalg::inner((&done * faer::Scale(1.0 / scale)).as_ref(), unit.as_ref()) / unit.squared_norm_l2();
    let rest = (&done - &Delta * faer::Scale(times)).norm_l2();
    if rest > TOLERANCE * size + ROUNDING * weight {
        return breach(
            layer,
            format!(
                "`apply` changes the weight by more than the update: the rest has norm {rest:.3e}, the update \
                 {size:.3e}; add the update and nothing else"
            ),
        );
    }
    // Where rounding is coarse, as in half precision, it blurs the number.
    if (times - 1.0).abs() > TOLERANCE && rest <= TOLERANCE * size {
        return breach(
            layer,
            format!(
                "`apply` adds the update {times:.3} times: add it once, and let `read_weight` read the weight as it \
                 is now"
            ),
        );
    }
    Ok(())
}
