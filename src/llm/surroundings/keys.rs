//! The keys of a request: its own, and its companions.

use super::KeyRule;

/// The row of a key.
#[derive(Clone, Copy)]
pub(in crate::llm) struct KeyRow {
    pub(in crate::llm) row: usize,
    pub(in crate::llm) weight: f32,
    pub(in crate::llm) kind: KeyKind,
}

/// What a key is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::llm) enum KeyKind {
    /// The fact.
    Fact,
    /// What must stay.
    Contrast,
}

/// The rows of a request's own key, with their weights in it.
pub(in crate::llm) fn own_key(places: &[KeyRow], rule: KeyRule) -> impl Iterator<Item = (usize, f32)> {
    let facts: Vec<_> = places.iter().filter(|place| place.kind == KeyKind::Fact).collect();
    let used = match rule {
        KeyRule::Each => 1,
        KeyRule::Mean => facts.len(),
    };
    let sum: f32 = facts[..used].iter().map(|place| place.weight).sum();
    facts.into_iter().take(used).map(move |place| (place.row, place.weight / sum))
}

/// The rows of a request's further keys, with their scale, and the multiple of the request's residual. A key that counts `w` times as
/// often as the request's own is scaled by `sqrt(w)`, and so is its residual.
pub(in crate::llm) fn further_keys(places: &[KeyRow], rule: KeyRule) -> impl Iterator<Item = (usize, f32, f32)> {
    let own = places.first().map_or(1.0, |place| place.weight);
    let further = places.iter().enumerate().filter(move |(i, place)| match place.kind {
        KeyKind::Fact => rule == KeyRule::Each && *i > 0,
        KeyKind::Contrast => true,
    });
    further.map(move |(_, place)| match place.kind {
        KeyKind::Fact => (place.row, (place.weight / own).sqrt(), (place.weight / own).sqrt()),
        KeyKind::Contrast => (place.row, place.weight.sqrt(), 0.0),
    })
}
