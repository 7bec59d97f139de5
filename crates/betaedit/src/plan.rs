//! What the settings of a run mean to the library.

use betaedit_core::editor::{Anchors, Hyperparameters, MethodEntry, Penalty, Simulation, Slack, method};
use betaedit_core::facts::Fact;
use betaedit_core::faer::Par;
use betaedit_core::llm::{Contexts, Descent, Request, Sensitivity, Surroundings, TargetSearch};
use betaedit_core::restraint::{KnownRestraint, Prune, Rect};
use betaedit_core::session::Guards;
use betaedit_core::{SecondMoment, Threshold};

use crate::refresh::refresh;
use crate::settings::{Direction, Plan};
use crate::terminal::Done;

impl Plan {
    pub fn entry(&self) -> Done<MethodEntry> {
        Ok(method(&self.method)?)
    }

    /// Where the model is sensitive, by the gradients at the last layer. None if the search does not ask for it.
    pub fn sensitivity(&self, gradients: &SecondMoment, par: Par) -> Done<Option<Sensitivity>> {
        let asked = self.sensitivity > 0.0 && self.descent == Direction::Steepest;
        Ok(asked.then(|| Sensitivity::new(gradients, self.sensitivity, par)).transpose()?)
    }

    pub fn hyperparameters(&self) -> Hyperparameters {
        let mut hyperparameters = Hyperparameters::default();
        hyperparameters.lambda = self.lambda;
        hyperparameters.lambda1 = self.lambda1;
        hyperparameters.lambda2 = self.lambda2;
        hyperparameters.threshold = Threshold::Absolute(self.threshold);
        let by_flags = refresh(self.refresh_rule, self.history, self.refresh_weight, self.lambda1, self.refresh_every);
        hyperparameters.refresh = Some(by_flags);
        if let [single, batch] = self.slack[..] {
            hyperparameters.slack = Slack { single, batch };
        }
        if let [mu, nu] = self.anchors[..] {
            hyperparameters.anchors = Anchors { mu, nu };
        }
        hyperparameters.alike = self.alike;
        hyperparameters.seed = self.seed;
        hyperparameters.simulation = (self.simie > 0.0).then(|| Simulation::default().with_lambda(self.simie));
        hyperparameters.penalty = if self.penalty { Penalty::Kept } else { Penalty::Dropped };
        hyperparameters
    }

    pub fn restraint(&self) -> Option<KnownRestraint> {
        let rect = (self.rect > 0.0).then(|| Rect::default().with_kept(self.rect).into());
        rect.or(self.prune.then(|| Prune::default().into()))
    }

    /// A fact as a request, written at the chosen token.
    pub fn request(&self, fact: &Fact) -> Request {
        Request::from(fact).with_token(self.token)
    }

    /// The places in which facts are written, with the texts of a run.
    pub fn surroundings(&self, contexts: Contexts) -> Done<Surroundings> {
        Ok(Surroundings::new(contexts)
            .with_places(self.surroundings.parse()?)
            .with_keys(self.keys)
            .with_contrast(self.contrast)
            .with_contrast_weight(self.contrast_weight))
    }

    pub fn search(&self) -> TargetSearch {
        TargetSearch::default()
            .with_site(self.target)
            .with_steps(self.steps)
            .with_descent(match self.descent {
                Direction::Steepest => Descent::Steepest { step: self.step_length },
                Direction::Adam => Descent::Adam { rate: self.learning_rate },
            })
            .with_decay(self.decay)
            .with_divergence(self.divergence)
            .with_naming(self.naming)
            .with_clamp(self.clamp)
            .with_enough(self.enough)
            .with_margin(self.margin)
            .with_contexts(self.target_contexts)
            .with_wording(self.wording)
    }

    pub fn guards(&self) -> Guards {
        let limit = |share: f64| (share > 0.0).then_some(share);
        Guards::default()
            .with_relative_update_norm(limit(self.max_update))
            .with_relative_drift(limit(self.max_drift))
            .with_expected_loss(limit(self.max_loss))
            .with_written_share(limit(self.min_written))
    }
}
