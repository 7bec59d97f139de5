//! How much of a target an answer has.

/// The words of a target that an answer has in the same order, as a share: the recall of ROUGE-L. Letter case and punctuation do not matter.
///
/// UnKEBench and its successors report it for answers that are passages.
///
/// Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
///
/// ```
/// use betaedit_core::facts::metrics::rouge_l_recall;
///
/// assert_eq!(rouge_l_recall("He was mayor for two terms.", "mayor for three terms"), 0.75);
/// assert_eq!(rouge_l_recall("", "mayor"), 0.0);
/// ```
#[must_use]
pub fn rouge_l_recall(answer: &str, target: &str) -> f64 {
    let (answer, target) = (words(answer), words(target));
    if target.is_empty() {
        return 0.0;
    }
    // The longest common subsequence of the words read so far, by its end in the target.
    let mut longest = vec![0usize; target.len() + 1];
    for word in &answer {
        let mut before = 0;
        for (i, wanted) in target.iter().enumerate() {
            let above = longest[i + 1];
            longest[i + 1] = if word == wanted { before + 1 } else { above.max(longest[i]) };
            before = above;
        }
    }
    longest[target.len()] as f64 / target.len() as f64
}

fn words(text: &str) -> Vec<String> {
    let kept: String = text.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    kept.split_whitespace().map(str::to_owned).collect()
}
