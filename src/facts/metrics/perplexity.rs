//! Perplexity, accumulated piece by piece.

use serde::{Deserialize, Serialize};

/// The perplexity of a text: `exp` of the mean negative log-probability of its tokens.
///
/// It depends on how a long text is cut into pieces (each piece starts without context), so numbers are comparable at
/// one piece length only.
///
/// ```
/// use betaedit_core::facts::metrics::Perplexity;
///
/// let mut perplexity = Perplexity::default();
/// perplexity.observe([0.5f64.ln(), 0.125f64.ln()]);
/// assert_eq!(perplexity.value(), Some(4.0));
/// assert_eq!(perplexity.tokens(), 2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    log_probability: f64,
    tokens: u64,
}

impl Perplexity {
    /// Adds the natural log-probabilities of some tokens.
    pub fn observe(&mut self, log_probabilities: impl IntoIterator<Item = f64>) {
        for log_probability in log_probabilities {
            self.log_probability += log_probability;
            self.tokens += 1;
        }
    }

    /// Adds another accumulated perplexity.
    pub fn merge(&mut self, other: &Self) {
        self.log_probability += other.log_probability;
        self.tokens += other.tokens;
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The perplexity; `None` before the first token.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        (self.tokens > 0).then(|| (-self.log_probability / self.tokens as f64).exp())
    }
}
