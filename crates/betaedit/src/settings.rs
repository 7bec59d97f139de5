//! The settings of a run: from flags, else from a TOML file, else the defaults for the model.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use betaedit_core::editor::method;
use betaedit_core::llm::{
    BlockNorms, Config, Contexts, Descent, FactToken, KeyRule, Places, Site, Surroundings, TargetSearch, Wording,
};
use betaedit_core::session::{ConflictPolicy, Guards};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::layers::Layers;
use crate::methods;
use crate::refresh::{Rule, Weighting};
use crate::terminal::Done;
use crate::usual::UsualLayers;

/// The descent of the search for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Steps of one length along the gradient, which find shorter changes in fewer steps
    Steepest,
    /// Adam, as in the papers
    Adam,
}

/// Values of the library by their names, each with a line of help.
pub fn named<V>(all: &'static [V], help: &[&'static str]) -> impl TypedValueParser<Value = V>
where
    V: Clone + fmt::Display + FromStr<Err: fmt::Debug> + Send + Sync + 'static,
{
    assert_eq!(all.len(), help.len(), "a line of help for each value");
    let listed = all.iter().zip(help).map(|(value, help)| PossibleValue::new(value.to_string()).help(*help));
    PossibleValuesParser::new(listed).map(|name| name.parse().expect("a listed name"))
}

/// A list of places, written as the library writes it.
fn places(text: &str) -> Result<String, String> {
    text.parse::<Places>().map(|places| places.to_string()).map_err(|error| error.to_string())
}

macro_rules! settings {
    ($( $(#[$attribute:meta])* $name:ident: $type:ty, )*) => {
        /// The settings of a run that were given. In a TOML file they have the same names.
        #[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Settings { $( $(#[$attribute])* pub $name: Option<$type>, )* }

        /// All settings of a run.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default = "Plan::of_earlier_versions", deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Plan { $( pub $name: $type, )* }
    };
}

settings! {
    /// Editing method, see `betaedit methods`; NAME-ns wraps a method in the null space, simie-NAME wraps it in SimIE
    #[arg(long, value_parser = methods::known, help_heading = "Method")]
    method: String,
    /// Layers to edit, such as 5-10 or 5,7
    #[arg(long, help_heading = "Method")]
    layers: Layers,
    /// MEMIT and its variants: weight of the statistics C, in units of one edited key
    #[arg(long, help_heading = "Method")]
    lambda: f64,
    /// BetaEdit: weight of the statistics C in the solve; a smaller weight writes facts more strongly
    #[arg(long, help_heading = "Method")]
    lambda1: f64,
    /// AlphaEdit, BetaEdit: ridge on the norm of the update
    #[arg(long, help_heading = "Method")]
    lambda2: f64,
    /// AlphaEdit, BetaEdit: edit only directions with an eigenvalue of C below this
    #[arg(long, help_heading = "Method")]
    threshold: f64,
    /// BetaEdit: refresh the projector every N edits, 0 = never
    #[arg(long, value_name = "N", help_heading = "Method")]
    refresh_every: usize,
    /// BetaEdit: how to refresh the projector
    #[arg(long, value_enum, help_heading = "Method")]
    refresh_rule: Rule,
    /// BetaEdit: how a full refresh adds past keys to the statistics
    #[arg(long, value_enum, help_heading = "Method")]
    history: Weighting,
    /// BetaEdit: weight w of the past keys in C + w H, for a refresh
    #[arg(long, value_name = "W", help_heading = "Method")]
    refresh_weight: f64,
    /// BetaEdit: keep lambda1 C in the solve (true), or use C only for the projector (false)
    #[arg(long, value_name = "BOOL", help_heading = "Method")]
    penalty: bool,
    /// EMMET: slack for meeting residuals, for single edits and for batches; 0 = meet them exactly
    #[arg(long, num_args = 2, value_names = ["SINGLE", "BATCH"], help_heading = "Method")]
    slack: Vec<f64>,
    /// RLSEdit: strength of the anchors to the initial outputs and to the initial weight
    #[arg(long, num_args = 2, value_names = ["MU", "NU"], help_heading = "Method")]
    anchors: Vec<f64>,
    /// MEMIT-Merge: merge edits whose keys have at least this cosine
    #[arg(long, value_name = "COSINE", help_heading = "Method")]
    alike: f64,
    /// Wrap the method in SimIE, with this weight of the distance from the start; 0 = only for the method simie
    #[arg(long, value_name = "LAMBDA", help_heading = "Method")]
    simie: f64,
    /// RECT: keep this share of the entries of an update, those with the largest relative change; 0 = keep all
    #[arg(long, value_name = "SHARE", help_heading = "Method")]
    rect: f64,
    /// PRUNE: damp singular values of the total change that exceed the largest of the weight
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Method")]
    prune: bool,
    /// Number of facts written together
    #[arg(long, value_name = "N", help_heading = "Method")]
    batch: usize,
    /// Seek the targets of N facts together, before the first of them is written, which takes less time; 1 = each on the model as edited
    /// until then
    #[arg(long, value_name = "N", help_heading = "Method")]
    lookahead: usize,
    /// Consolidate when at least N facts, and half of all (at the end a fifth), were written since the last time: derive the weights anew
    /// from the unedited model and all facts; 0 = never, the default of other methods than betaedit
    #[arg(long, value_name = "N", help_heading = "Method")]
    consolidate_every: usize,
    /// How often a consolidation adds at the last layer what is still missing of the facts
    #[arg(long, value_name = "N", help_heading = "Method")]
    passes: usize,
    /// What to do about edits of the same subject, or with nearly parallel keys
    #[arg(long, value_parser = named(ConflictPolicy::ALL, &["Write both and report it, as in the papers", "Reject the batch of the later one", "Merge them within a batch; undo an earlier one", "Undo the earlier one"]), help_heading = "Method")]
    on_conflict: ConflictPolicy,
    /// Reject a batch of n facts if |Delta| / sqrt(n) exceeds this share of |W|, 0 = no limit
    #[arg(long, value_name = "SHARE", help_heading = "Method")]
    max_update: f64,
    /// Reject a batch if the drift |D| would exceed this share of |W|, 0 = no limit
    #[arg(long, value_name = "SHARE", help_heading = "Method")]
    max_drift: f64,
    /// Reject a batch if the expected loss of a layer would exceed this number of nats a token, 0 = no limit; needs the gradients that
    /// `betaedit stats` collects
    #[arg(long, value_name = "NATS", help_heading = "Method")]
    max_loss: f64,
    /// Reject a batch that would write less than this share of its residuals, 0 = no limit
    #[arg(long, value_name = "SHARE", help_heading = "Method")]
    min_written: f64,
    /// Token of the prompt at which a fact is written
    #[arg(long, value_parser = named(FactToken::ALL, &["The last token of the subject", "The first token of the subject", "The last token of the prompt; facts with the same wording then have nearly the same key"]), help_heading = "Keys and targets")]
    token: FactToken,
    /// Output that a target is searched for [default: pmet for the methods of that name, else block]
    #[arg(long, value_parser = named(Site::ALL, &["The output of the block", "The output of its MLP", "The output of its MLP, searched with a vector for the attention, which is not written, as in PMET"]), help_heading = "Keys and targets")]
    target: Site,
    /// Places in which a fact is written, each with the weight of its key if that is not 1: plain (the prompt alone), context (behind texts
    /// that the model generates), user (in a user's message), answer (in a user's message and in the model's answer, a whole sentence)
    #[arg(long, value_name = "LIST", value_parser = places, help_heading = "Keys and targets")]
    surroundings: String,
    /// How the keys of these places are written
    #[arg(long, value_parser = named(KeyRule::ALL, &["Each with the whole residual", "Their weighted mean as one key, as in the papers"]), help_heading = "Keys and targets")]
    keys: KeyRule,
    /// Number of subjects like a fact's that are written with it so that they stay, 0 = none
    #[arg(long, value_name = "N", help_heading = "Keys and targets")]
    contrast: usize,
    /// Weight of the keys of these subjects
    #[arg(long, value_name = "W", help_heading = "Keys and targets")]
    contrast_weight: f64,
    /// Number of texts, generated by the model, for the place context
    #[arg(long, value_name = "N", help_heading = "Keys and targets")]
    contexts: usize,
    /// Number of these texts that also precede the prompt in the search for a target
    #[arg(long, value_name = "N", help_heading = "Keys and targets")]
    target_contexts: usize,
    /// Wording of the prompt after these texts in the search for a target
    #[arg(long, value_parser = named(Wording::ALL, &["Unchanged, as in the papers", "After the first text, with \", as everyone knows,\" after the subject, which reaches more paraphrases"]), help_heading = "Keys and targets")]
    wording: Wording,
    /// Length of the generated texts, in tokens
    #[arg(long, value_name = "N", help_heading = "Keys and targets")]
    context_length: usize,
    /// Seed for the generated texts, and for the random keys of MEMIT-R
    #[arg(long, help_heading = "Keys and targets")]
    seed: u64,
    /// Maximum number of steps in the search for a target
    #[arg(long, value_name = "N", help_heading = "Keys and targets")]
    steps: usize,
    /// Descent of the search for a target
    #[arg(long, value_enum, help_heading = "Keys and targets")]
    descent: Direction,
    /// Steepest descent: length of a step, as a share of the norm of the output
    #[arg(long, value_name = "SHARE", help_heading = "Keys and targets")]
    step_length: f64,
    /// Adam: learning rate
    #[arg(long, help_heading = "Keys and targets")]
    learning_rate: f64,
    /// Search: weight of the norm of the change in the loss
    #[arg(long, help_heading = "Keys and targets")]
    decay: f64,
    /// Search: weight of the KL divergence at "{subject} is a" in the loss
    #[arg(long, help_heading = "Keys and targets")]
    divergence: f64,
    /// Search: weight of the subject's name in the loss, where the model has to say it
    #[arg(long, help_heading = "Keys and targets")]
    naming: f64,
    /// Steepest descent: exponent with which it turns away from directions of the output that the model's loss is sensitive to; needs the
    /// gradients that `betaedit stats` collects; 0 = the plain gradient
    #[arg(long, value_name = "P", help_heading = "Keys and targets")]
    sensitivity: f64,
    /// Search: largest norm of the change, as a share of the norm of the output
    #[arg(long, help_heading = "Keys and targets")]
    clamp: f64,
    /// Search: stop when the mean -log p(target), plus the weighted one of the name, is below this
    #[arg(long, help_heading = "Keys and targets")]
    enough: f64,
    /// Search: lengthen the change that was found by this share, to reach more paraphrases
    #[arg(long, value_name = "SHARE", help_heading = "Keys and targets")]
    margin: f64,
}

impl Settings {
    /// All settings: these, else those of a file, else the defaults for the model.
    pub fn resolve(&self, file: Option<&Path>, model: &Config) -> Done<Plan> {
        let mut said = toml::Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
            let settings: Settings = toml::from_str(&text).map_err(|error| format!("`{}`: {error}", path.display()))?;
            said.extend(toml::Table::try_from(settings)?);
        }
        said.extend(toml::Table::try_from(self)?);
        let mut table = toml::Table::try_from(Plan::usual(model))?;
        // What other methods do, they do one by one.
        if said.get("method").and_then(toml::Value::as_str).is_some_and(|name| name != "betaedit") {
            table.insert("consolidate-every".into(), 0.into());
        }
        // PMET consists half of its targets.
        if said.get("method").and_then(toml::Value::as_str).is_some_and(|name| name.starts_with("pmet")) {
            table.insert("target".into(), toml::Value::try_from(Site::MlpAndAttention)?);
        }
        table.extend(said);
        let plan: Plan = table.try_into()?;
        if plan.batch == 0 {
            return Err("--batch must be at least 1".into());
        }
        if plan.lookahead == 0 {
            return Err("--lookahead must be at least 1".into());
        }
        if plan.slack.len() != 2 || plan.anchors.len() != 2 {
            return Err("`slack` and `anchors` must have two numbers each".into());
        }
        if plan.rect > 0.0 && plan.prune {
            return Err("--rect and --prune exclude each other: give only one".into());
        }
        // A file may hold all settings, including those of the other descent. A flag is deliberate.
        match plan.descent {
            Direction::Steepest if self.learning_rate.is_some() => Err("--learning-rate is for --descent adam")?,
            Direction::Adam if self.step_length.is_some() => Err("--step-length is for --descent steepest")?,
            _ => {}
        }
        method(&plan.method)?;
        Ok(plan)
    }
}

impl Plan {
    /// The width below which a model is small.
    pub const SMALL: usize = 1600;

    /// The defaults for a model: the published layers and weights for models of a published shape, else layers at the same
    /// relative depth. `docs/experiments.md` has the runs behind the defaults for small models.
    pub fn usual(model: &Config) -> Self {
        let UsualLayers { layers, .. } = UsualLayers::of(model);
        let behind_norms = model.block_norms != BlockNorms::Before;
        // The published weights suit the keys of models with billions of parameters.
        let small = model.hidden < Self::SMALL;
        let search = TargetSearch::default();
        let surroundings = Surroundings::new(Contexts::default());
        Self {
            layers: Layers(layers.collect()),
            lambda: if small { 1_500.0 } else { 15_000.0 },
            lambda1: if small { 600.0 } else { 3_000.0 },
            lambda2: if small { 3.0 } else { 10.0 },
            threshold: if small { 0.05 } else { 0.02 },
            surroundings: surroundings.places.to_string(),
            keys: surroundings.keys,
            contrast: surroundings.contrast,
            contrast_weight: surroundings.contrast_weight,
            consolidate_every: 100,
            contexts: 3,
            target_contexts: search.contexts,
            wording: Wording::Aside,
            steps: search.steps,
            descent: Direction::Steepest,
            decay: search.decay,
            divergence: search.divergence,
            naming: search.naming,
            sensitivity: 0.5,
            clamp: search.clamp,
            enough: search.enough,
            margin: search.margin,
            min_written: Guards::default().written_share.unwrap_or_default(),
            target: if behind_norms { Site::Mlp } else { Site::Block },
            ..Self::of_earlier_versions()
        }
    }

    /// What a `run.toml` means that does not name a setting: the program that wrote it did not have the setting yet, and ran
    /// as it runs with these values.
    fn of_earlier_versions() -> Self {
        Self {
            method: "betaedit".into(),
            layers: Layers(Vec::new()),
            lambda: 15_000.0,
            lambda1: 3_000.0,
            lambda2: 10.0,
            threshold: 0.02,
            refresh_every: 1_000,
            refresh_rule: Rule::Full,
            history: Weighting::Mean,
            refresh_weight: 1.0,
            penalty: true,
            slack: vec![0.0, 0.1],
            anchors: vec![1.0, 0.0],
            alike: 0.99,
            simie: 0.0,
            rect: 0.0,
            prune: false,
            batch: 1,
            lookahead: 1,
            consolidate_every: 0,
            passes: 0,
            on_conflict: ConflictPolicy::Report,
            max_update: 0.0,
            max_drift: 0.0,
            max_loss: 0.0,
            min_written: 0.0,
            token: FactToken::SubjectLast,
            target: Site::Block,
            surroundings: "plain,context".into(),
            keys: KeyRule::Mean,
            contrast: 0,
            contrast_weight: 10.0,
            contexts: 0,
            // All of the texts.
            target_contexts: 1_000,
            wording: Wording::AsGiven,
            context_length: 10,
            seed: 0,
            steps: 25,
            descent: Direction::Adam,
            step_length: Descent::STEP,
            learning_rate: 0.5,
            decay: 0.5,
            divergence: 0.0625,
            naming: 0.0,
            sensitivity: 0.0,
            clamp: 0.75,
            enough: 0.05,
            margin: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use betaedit_core::llm::Sizes;

    use super::*;

    #[test]
    fn where_a_norm_stands_behind_the_mlp_one_layer_is_edited_at_its_output() {
        let sizes = Sizes { layers: 30, hidden: 64, intermediate: 96, heads: 4, vocabulary: 10, context: 64 };
        let mut config = Config::new(sizes);
        let plan = Plan::usual(&config);
        assert_eq!((plan.layers.0, plan.target), ((5..=10).collect(), Site::Block));
        config.block_norms = BlockNorms::BeforeAndAfter;
        let plan = Plan::usual(&config);
        assert_eq!((plan.layers.0, plan.target), (vec![10], Site::Mlp));
    }

    #[test]
    fn only_betaedit_consolidates_by_itself() {
        let sizes = Sizes { layers: 30, hidden: 64, intermediate: 96, heads: 4, vocabulary: 10, context: 64 };
        let every = |settings: &str| {
            let settings: Settings = toml::from_str(settings).unwrap();
            settings.resolve(None, &Config::new(sizes)).unwrap().consolidate_every
        };
        assert_eq!(every(""), 100);
        assert_eq!(every("method = 'memit-h'"), 0);
        assert_eq!(every("method = 'memit-h'\nconsolidate-every = 50"), 50);
        assert_eq!(every("method = 'betaedit'\nconsolidate-every = 0"), 0);
    }

    /// A plan of a version that knew neither descents nor margins nor wordings goes on as that version did.
    #[test]
    fn a_plan_of_an_earlier_version_has_the_values_of_its_time() {
        let text =
            toml::to_string(&Plan { lambda1: 600.0, layers: Layers(vec![3]), ..Plan::of_earlier_versions() }).unwrap();
        let newer = [
            "descent",
            "step-length",
            "margin",
            "wording",
            "target-contexts",
            "target",
            "surroundings",
            "keys",
            "contrast",
            "contrast-weight",
            "naming",
            "consolidate-every",
            "passes",
            "sensitivity",
            "max-loss",
            "lookahead",
        ];
        let old: String = (text.lines())
            .filter(|line| !newer.iter().any(|name| line.starts_with(&format!("{name} ="))))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(text.lines().count() - old.lines().count(), newer.len());
        let plan: Plan = toml::from_str(&old).unwrap();
        assert_eq!((plan.lambda1, plan.descent, plan.margin), (600.0, Direction::Adam, 0.0));
        assert_eq!((plan.wording, plan.target), (Wording::AsGiven, Site::Block));
        assert_eq!((plan.keys, plan.contrast, plan.naming), (KeyRule::Mean, 0, 0.0));
        assert!(toml::from_str::<Plan>("lamda = 3.0").unwrap_err().to_string().contains("lamda"));
    }
}
