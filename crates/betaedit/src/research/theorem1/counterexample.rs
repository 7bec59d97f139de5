//! The smallest stream that meets the theorem's assumption and violates its claim.

use std::sync::Arc;

use betaedit_core::faer::{Mat, Scale, mat};
use betaedit_core::{EditBatch, Spectrum};

use super::theorem::Theorem1;
use super::{PAR, ensure, yes};
use crate::terminal::{Done, Terminal};

/// Section 2: the smallest stream that meets the theorem's assumption and violates its claim.
pub fn show(terminal: Terminal) -> Done<[f64; 2]> {
    terminal.say(
        "
2. A COUNTEREXAMPLE

A0 = I, two keys with |k|^2 = 10 and k_1 . k_2 = 5, two orthogonal residuals of length 1. The squared
drift after both edits:
",
    );
    let run = two_keys(10.0)?;
    let [without, with] = squared_drift(&run);
    let reduced = run.residuals_agree && run.interference_reduced;
    terminal.say(format!("    without history {without:.5}    with history {with:.5}    the theorem says: smaller\n"));
    terminal.say(format!(
        "  {:<3}  no two updates point against each other: all that the theorem asks for",
        yes(run.non_conflicting)
    ));
    terminal.say("\nWhat a proof needs:\n");
    terminal.say("  yes  (1) the same residuals with and without history (here they are given)");
    terminal.say(format!("  {:<3}  (2) A0 is a multiple of I; otherwise leakage replaces drift", yes(run.isotropic)));
    terminal.say(format!("  {:<3}  (3) every s <= 1", yes(run.small_keys)));
    terminal.say(format!(
        "  {:<3}  (4) no two residuals point against each other, and for any two x, history",
        yes(reduced)
    ));
    terminal.say("           does not increase x_i^T A0 x_j or make it negative");
    ensure((without - 0.16529).abs() < 5e-6 && (with - 0.18139).abs() < 5e-6, "the counterexample has other numbers")?;
    ensure(run.non_conflicting && run.isotropic && reduced, "the counterexample fails more than condition (3)")?;
    ensure(!run.small_keys, "the counterexample meets condition (3)")?;

    terminal.say("\nOnly (3) fails. The same two keys, shorter and longer:\n");
    terminal.say(format!(
        "  {:>5}  {:>16}  {:>13}  {:>8}  all conditions",
        "s", "without history", "with history", "smaller"
    ));
    for s in [0.1, 1.0, 3.0, 10.0, 100.0] {
        let run = two_keys(s)?;
        let [without, with] = squared_drift(&run);
        let (smaller, holds) = (yes(with < without), yes(run.drift_cannot_grow()));
        terminal.say(format!("  {s:>5}  {without:>16.5}  {with:>13.5}  {smaller:>8}  {holds}"));
        ensure(with < without || !run.leakage_cannot_grow(), "two keys violate the theorem with its conditions")?;
    }
    Ok([without, with])
}

/// Two keys with `|k|² = s` and half of that as their inner product, orthogonal residuals, `A0 = I`.
fn two_keys(s: f64) -> Done<Theorem1> {
    let keys = mat![[1.0, 0.5], [0.0, 0.75_f64.sqrt()]] * Scale(s.sqrt());
    let identity = Mat::<f64>::identity(2, 2);
    let A0 = Arc::new(Spectrum::from_matrix(identity.as_ref(), PAR)?);
    Theorem1::run(&A0, &EditBatch::new(keys.as_ref(), identity.as_ref())?)
}

fn squared_drift(run: &Theorem1) -> [f64; 2] {
    [&run.drift_without, &run.drift_with].map(|drift| drift.last().map_or(0.0, |drift| drift * drift))
}
