//! A share with its confidence interval.

use serde::{Deserialize, Serialize};

/// The mean over cases of the mean over each case's prompts, with a confidence interval.
///
/// The interval is Wilson's at 95 %. The prompts of one case are not independent trials, so the number of
/// trials is chosen such that independent trials would have the variance seen between cases. It equals the number of cases
/// if each has one prompt, and is at most the number of prompts. The interval covers the choice of cases only, not that of
/// seeds or of the order of edits.
///
/// Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927); effective
/// number of trials as in Korn and Graubard, "Confidence intervals for proportions with small expected number of positive
/// counts estimated from survey data", Survey Methodology 24 (1998).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rate {
    /// The mean, between 0 and 1.
    pub mean: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Number of cases that have such prompts.
    pub cases: usize,
    /// Number of prompts in them.
    pub prompts: usize,
}

impl Rate {
    /// From the values at the prompts of each case, all between 0 and 1. Cases without prompts are left out. `None` if no
    /// case has prompts.
    ///
    /// ```
    /// use betaedit_core::facts::metrics::Rate;
    ///
    /// let rate = Rate::new([vec![1.0], vec![0.0, 1.0], vec![]]).unwrap();
    /// assert_eq!((rate.mean, rate.cases, rate.prompts), (0.75, 2, 3));
    /// assert!(0.0 < rate.low && rate.low < 0.75 && 0.75 < rate.high && rate.high <= 1.0);
    /// ```
    #[must_use]
    pub fn new<C>(cases: impl IntoIterator<Item = C>) -> Option<Self>
    where
        C: IntoIterator<Item = f64>,
    {
        let mut prompts = 0;
        let mut means = Vec::new();
        for case in cases {
            let (sum, count) = case.into_iter().fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
            if count > 0 {
                means.push(sum / f64::from(count));
                prompts += count as usize;
            }
        }
        if means.is_empty() {
            return None;
        }
        let n = means.len() as f64;
        let mean = means.iter().sum::<f64>() / n;
        let variance = means.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n * n);
        // Cases that are all alike say nothing of their variance: then only they count, not their prompts.
        let trials = if variance > 0.0 { (mean * (1.0 - mean) / variance).clamp(n, prompts as f64) } else { n };
        let (low, high) = wilson(mean, trials);
        Some(Self { mean, low, high, cases: means.len(), prompts })
    }
}

/// Wilson's score interval for a proportion, 95 %.
fn wilson(p: f64, n: f64) -> (f64, f64) {
    /// The 97.5 % quantile of the normal distribution.
    const Z: f64 = 1.959_963_984_540_054;
    let z2 = Z * Z / n;
    let centre = (p + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (p * (1.0 - p) / n + z2 / (4.0 * n)).sqrt();
    // In exact arithmetic the proportion is inside; at 0 and 1 it is the end itself.
    ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0))
}
