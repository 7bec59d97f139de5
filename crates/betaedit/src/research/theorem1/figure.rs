//! The curves of the paper's Figure 3.

use std::path::Path;

use super::contender::{Family, Past};
use super::long_stream::Trial;
use crate::plot::{self, Curve, Panel};
use crate::terminal::{Done, Failure, Terminal};

/// Section 6: the figure, with a column for each family of methods.
pub fn draw(path: &Path, trials: &[Trial], terminal: Terminal) -> Done {
    let panel = |family: Family, title: &str, y: &str, values: fn(&Trial) -> Vec<f64>| Panel {
        title: title.into(),
        y: y.into(),
        curves: trials
            .iter()
            .filter(|trial| trial.contender.family == family)
            .map(|trial| Curve {
                name: trial.contender.name.into(),
                dashed: trial.contender.past != Past::Keys,
                points: (1..).map(f64::from).zip(values(trial)).collect(),
            })
            .collect(),
    };
    let given_drift = |trial: &Trial| trial.given.steps.iter().map(|step| step.drift).collect();
    let drift = |trial: &Trial| trial.measured.steps.iter().map(|step| step.drift).collect();
    let leakage = |trial: &Trial| trial.measured.steps.iter().map(|step| step.leakage).collect();
    let row = |title: &str, y: &str, values: fn(&Trial) -> Vec<f64>| {
        [Family::Memit, Family::NullSpace].map(|family| panel(family, title, y, values))
    };
    let rows = [
        row("Drift, the same residuals for all methods", "|D|", given_drift),
        row("Drift, residuals of the weight as edited so far", "|D|", drift),
        row("Leakage, residuals of the weight as edited so far", "tr(D C Dᵀ)", leakage),
    ];

    let title = "Editing with history (solid) and without (dashed)";
    let failed = |error: Failure| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
    }
    plot::save(path, title, "edits", &rows.into_iter().flatten().collect::<Vec<_>>())?;
    terminal.say(format!(
        "
6. THE CURVES

Drift and leakage of section 4 after every edit, MEMIT on the left, AlphaEdit and BetaEdit on the
right, are drawn in {}",
        path.display()
    ));
    Ok(())
}
