//! The methods that are compared.

use betaedit_core::editor::History;
use betaedit_core::editor::{Recipe, Space};
use betaedit_core::metrics::stability;
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use betaedit_core::{AlphaEdit, BetaEdit, Memit, Method, Projector, Refresh, RefreshRule};

use super::PAR;
use super::world::{TYPICAL_S, World};
use crate::research::numbers::median;
use crate::terminal::Done;

/// A method in the comparison.
pub struct Contender {
    pub name: &'static str,
    pub family: Family,
    pub recipe: Recipe,
    pub past: Past,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Family {
    Memit,
    NullSpace,
}

/// What a method knows about past edits.
#[derive(Clone, Copy, PartialEq)]
pub enum Past {
    Nothing,
    /// As many keys, but from other edits.
    OtherKeys,
    Keys,
}

impl Contender {
    fn new(name: &'static str, family: Family, method: &impl Method) -> Self {
        let recipe = method.recipe();
        let past = if recipe.history == History::Absorbed { Past::Keys } else { Past::Nothing };
        Self { name, family, recipe, past }
    }
}

pub fn contenders(world: &World) -> Done<Vec<Contender>> {
    use Family::{Memit as Whole, NullSpace};
    let memit = Memit::default();
    let memit = memit.with_lambda(memit.lambda * strength(world, &memit)?);
    let alphaedit = AlphaEdit::default();
    let alphaedit = alphaedit.with_lambda2(alphaedit.lambda2 * strength(world, &alphaedit)?);
    let betaedit = BetaEdit::default();
    let factor = strength(world, &betaedit)?;
    let [lambda1, lambda2] = [betaedit.lambda1, betaedit.lambda2].map(|published| published * factor);
    let rule = RefreshRule::Full(HistoryWeighting::Mean { lambda1 });
    let refresh = Refresh::Every { edits: 100, rule };
    Ok(vec![
        Contender::new("MEMIT", Whole, &memit),
        Contender::new("MEMIT-H", Whole, &memit.with_history(History::Absorbed)),
        Contender::new("MEMIT, lambda doubled", Whole, &memit.with_lambda(2.0 * memit.lambda)),
        Contender { past: Past::OtherKeys, ..Contender::new("MEMIT-R", Whole, &memit) },
        Contender::new("AlphaEdit", NullSpace, &alphaedit),
        Contender::new("AlphaEdit-H", NullSpace, &alphaedit.with_history(History::Absorbed)),
        Contender::new(
            "BetaEdit",
            NullSpace,
            &betaedit.with_lambda1(lambda1).with_lambda2(lambda2).with_refresh(refresh),
        ),
    ])
}

/// The factor on a method's hyperparameters that brings the median `s` to [`TYPICAL_S`].
fn strength(world: &World, method: &impl Method) -> Done<f64> {
    let recipe = method.recipe();
    let s = stability(&projector(world, &recipe)?, recipe.weight, recipe.ridge, world.keys.as_ref(), PAR)?;
    Ok(median(s).ok_or("there are no keys")? / TYPICAL_S)
}

/// The space that a method starts with.
pub fn projector(world: &World, recipe: &Recipe) -> Done<Projector> {
    Ok(match recipe.space {
        Space::Null(threshold) => ProjectorBuilder::new(&world.spectrum).threshold(threshold).build(PAR)?,
        _ => Projector::identity(&world.spectrum),
    })
}
