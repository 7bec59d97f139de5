//! The places in which a fact is asked for, and what is like it and must stay.

mod asked;
mod contrast;
mod keys;

use std::fmt;
use std::str::FromStr;

pub(super) use asked::Asked;
pub(super) use contrast::{Nearest, names_beside};
pub(super) use keys::{KeyKind, KeyRow, further_keys, own_key};

use self::asked::ChatFrame;
use super::prompt::{Contexts, Request};
use super::tokenizer::Tokenizer;
use crate::error::{ModelError, NumericsError, Result};
use crate::util::named::named;
use crate::util::setters::setters;
use crate::util::validate;

/// A place in which a fact is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Place {
    /// The prompt alone.
    Plain,
    /// The prompt behind each of the [`Contexts`].
    Context,
    /// The prompt in a user's message; the target begins the model's answer. Only in models with a chat template.
    User,
    /// The prompt in a user's message, and again in the model's answer, which is the whole sentence. Only in models with a chat template.
    /// Where the prompt is a question, as [`User`](Self::User).
    Answer,
}

named!(Place, "place of a fact", { Plain => "plain", Context => "context", User => "user", Answer => "answer" });

/// Places with the weights of their keys.
///
/// As text: names, each with its weight behind a colon if that is not 1.
///
/// ```
/// use betaedit_core::llm::{Place, Places};
///
/// let places: Places = "plain,context:1.5,answer:0.5".parse()?;
/// assert_eq!(places, Places::new([(Place::Plain, 1.0), (Place::Context, 1.5), (Place::Answer, 0.5)])?);
/// assert_eq!(places.to_string(), "plain,context:1.5,answer:0.5");
/// assert!("plain:0".parse::<Places>().is_err());
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Places(Vec<(Place, f64)>);

impl Places {
    /// Places with positive weights.
    ///
    /// # Errors
    /// No place, one that comes twice, or a weight that is not positive.
    pub fn new(places: impl IntoIterator<Item = (Place, f64)>) -> Result<Self> {
        let places: Vec<_> = places.into_iter().collect();
        if places.is_empty() {
            return Err(NumericsError::Empty { argument: "places", item: "place" }.into());
        }
        for (i, (place, weight)) in places.iter().enumerate() {
            validate::positive("weight", *weight)?;
            if places[..i].iter().any(|(other, _)| other == place) {
                let (parameter, allowed) = ("places", "each at most once");
                return Err(NumericsError::Parameter { parameter, value: i as f64, allowed }.into());
            }
        }
        Ok(Self(places))
    }

    /// The places and their weights.
    #[must_use]
    pub fn weighted(&self) -> &[(Place, f64)] {
        &self.0
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |(place, weight): &(Place, f64)| match *weight {
            1.0 => place.to_string(),
            weight => format!("{place}:{weight}"),
        };
        f.pad(&self.0.iter().map(one).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Places {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(
            text.split(',')
                .map(|one| {
                    let (name, weight) = one.split_once(':').unwrap_or((one, "1"));
                    let weight = weight.trim().parse().unwrap_or(f64::NAN);
                    Ok((name.trim().parse()?, weight))
                })
                .collect::<Result<Vec<_>>>()?,
        )
    }
}

/// How the keys of a request in its places are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum KeyRule {
    /// Each key with the whole residual: the first as the request's key, the others as its
    /// [companions](crate::Adapter::companions). Then the fact holds in each of the places.
    #[default]
    Each,
    /// Their weighted mean, as one key. The published programs do this. What is written depends less on one place, and holds less in each.
    Mean,
}

named!(KeyRule, "rule for keys", { Each => "each", Mean => "mean" });

/// The places in which a fact is written, and the subjects beside it that must stay.
///
/// The target is sought over all places together, and the edited matrix gets a key for each of them ([`KeyRule`]). A place at which the
/// fact's token is the first of the text is left out unless there is no other: the key of the first token is the same for all subjects
/// (it is that of the attention sink), so a fact that is written there would be a fact about all of them. Such a fact holds behind other
/// text and in chats.
///
/// An update that gives one subject a new answer also moves its neighbours, whose keys are alike. So each fact is written together with the
/// keys of some [contrast](Self::contrast) subjects in the same prompt, whose outputs stay.
///
/// `docs/experiments.md` has what each place, rule and number gives and costs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Surroundings {
    /// The texts for [`Place::Context`].
    pub contexts: Contexts,
    /// The places. The weight of contexts is shared by the texts. Default: plain, context (1.5), answer (0.5).
    pub places: Places,
    /// How their keys are written. Default: [`KeyRule::Each`].
    pub keys: KeyRule,
    /// How many subjects that must stay are written with each fact: of the names that come with the crate (people, places, works, companies
    /// and other things), those whose keys are most like the fact's. Default: `16`.
    pub contrast: usize,
    /// The weight of their keys, beside 1 for a place. In a consolidation (`Session::consolidate`), `n` facts share the weight
    /// of one and a half: so many subjects would leave no room for the facts. Default: `10`.
    pub contrast_weight: f64,
}

setters!(Surroundings {
    /// Sets the places.
    with_places(places: Places),
    /// Sets how their keys are written.
    with_keys(keys: KeyRule),
    /// Sets the number of subjects that must stay.
    with_contrast(contrast: usize),
    /// Sets the weight of their keys.
    with_contrast_weight(contrast_weight: f64),
});

/// From this number of facts on that are written together, they share the weight of the subjects that must stay.
const ALONE: f64 = 1.5;

/// The rule of the published programs: the mean key of the bare prompt, which counts one half, and of the prompts after the texts.
impl From<Contexts> for Surroundings {
    fn from(contexts: Contexts) -> Self {
        let places = Places(vec![(Place::Plain, 1.0), (Place::Context, 1.0)]);
        Self { contexts, places, keys: KeyRule::Mean, contrast: 0, contrast_weight: 10.0 }
    }
}

impl From<&Contexts> for Surroundings {
    fn from(contexts: &Contexts) -> Self {
        contexts.clone().into()
    }
}

impl From<&Surroundings> for Surroundings {
    fn from(surroundings: &Surroundings) -> Self {
        surroundings.clone()
    }
}

impl Surroundings {
    /// All places with the default weights.
    #[must_use]
    pub fn new(contexts: Contexts) -> Self {
        let places = Places(vec![(Place::Plain, 1.0), (Place::Context, 1.5), (Place::Answer, 0.5)]);
        Self { contexts, places, keys: KeyRule::Each, contrast: 16, contrast_weight: 10.0 }
    }

    /// The weight of the keys of subjects that must stay, beside so many facts that are written together.
    pub(super) fn contrast_weight_among(&self, facts: usize) -> f64 {
        self.contrast_weight * (ALONE / facts as f64).min(1.0)
    }

    pub(super) fn check(&self) -> Result<()> {
        Ok(validate::positive("contrast_weight", self.contrast_weight)?)
    }

    /// A request in its places, with their weights; of the contexts at most `most`. After the first of them, the prompt may be worded
    /// another way.
    pub(super) fn asked(
        &self,
        tokenizer: &Tokenizer,
        request: &Request,
        most: usize,
        worded: Option<&Request>,
    ) -> Result<Vec<(Asked, f32)>> {
        let frame = self.places.0.iter().any(|(place, _)| matches!(place, Place::User | Place::Answer));
        let frame = frame.then(|| ChatFrame::new(tokenizer)).flatten();
        let openings: Vec<String> = self.contexts.openings().skip(1).take(most).collect();
        let mut asked = vec![];
        for &(place, weight) in &self.places.0 {
            let weight = weight as f32;
            match (place, &frame) {
                (Place::Plain, _) => asked.push((Asked::in_text(tokenizer, "", request)?, weight)),
                (Place::Context, _) => {
                    for (i, opening) in openings.iter().enumerate() {
                        let request = worded.filter(|_| i == 0).unwrap_or(request);
                        let one = Asked::in_text(tokenizer, opening, request)?;
                        asked.push((one, weight / openings.len() as f32));
                    }
                }
                (Place::User, Some(frame)) => {
                    asked.push((Asked::in_question(tokenizer, frame, request)?, weight));
                }
                (Place::Answer, Some(frame)) => {
                    asked.push((Asked::in_answer(tokenizer, frame, request)?, weight));
                }
                (Place::User | Place::Answer, None) => {}
            }
        }
        if asked.iter().any(|(one, _)| one.first() > 0) {
            asked.retain(|(one, _)| one.first() > 0);
        }
        if asked.is_empty() {
            let problem = format!(
                "there is no place to write it: `{}` has none that this model knows (chats need a chat template, contexts need texts)",
                self.places
            );
            return Err(ModelError::Request { subject: request.subject().into(), problem }.into());
        }
        Ok(asked)
    }
}
