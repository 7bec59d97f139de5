//! Settings in files: every type is read as it was written, what is left out has its default, and typing errors are errors.

use std::fmt::Debug;

use betaedit_core::editor::{
    Emmet, Encore, History, Hyperparameters, Merging, NullSpace, Pmet, Recipe, RlsEdit, SimIe, Simulation, Slack, Space,
};
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::restraint::{Damping, KnownRestraint, Prune, Rect};
use betaedit_core::{AlphaEdit, BetaEdit, Memit, Method, Orientation, Refresh, RefreshRule, Threshold};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn round_trip<V: Serialize + DeserializeOwned + Debug + PartialEq>(value: V) {
    let text = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<V>(&text).unwrap(), value, "{text}");
}

#[test]
fn every_setting_is_read_as_it_was_written() {
    round_trip(Memit::default().with_history(History::Random { seed: 7 }));
    round_trip(AlphaEdit::default().with_threshold(Threshold::KeptEnergy(0.1)));
    round_trip(BetaEdit::default().with_refresh(Refresh::Continuous { weight: 0.25 }));
    round_trip((Emmet::default(), Encore::default(), Pmet::default(), RlsEdit::default()));
    round_trip((betaedit_core::concept::Uce::default(), betaedit_core::concept::Speed::default()));
    round_trip(betaedit_core::regmean::RegMean::default().with_ridge(1e-6));
    round_trip(Slack { single: 0.0, batch: 0.5 });
    round_trip(Space::Null(Threshold::Directions(7)));
    round_trip(Merging::Alike { cosine: 0.9 });
    round_trip(Some(Simulation::default()));
    round_trip(Orientation::InputsByOutputs);
    round_trip::<[KnownRestraint; 2]>([Rect::default().into(), Prune::default().with_damping(Damping::Linear).into()]);
    let mut hyperparameters = Hyperparameters::default();
    let rule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1e-3 });
    hyperparameters.refresh = Some(Refresh::Every { edits: 50, rule });
    round_trip(hyperparameters);
    round_trip::<Recipe>(BetaEdit::default().recipe());
}

fn weighting(refresh: Refresh) -> HistoryWeighting {
    match refresh {
        Refresh::Every { rule: RefreshRule::Full(weighting), .. } => weighting,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_left_out_has_its_default_and_what_is_misspelt_is_refused() {
    let method: BetaEdit = serde_json::from_str(r#"{ "lambda1": 600, "threshold": { "absolute": 0.05 } }"#).unwrap();
    // As by value: the refresh takes the weight of the statistics as well.
    let expected = BetaEdit::default().with_lambda1(600.0).with_threshold(Threshold::Absolute(0.05));
    assert_eq!((method, method.recipe()), (expected, expected.recipe()));
    let HistoryWeighting::Mean { lambda1 } = weighting(method.recipe().refresh) else { panic!("{method:?}") };
    assert_eq!(lambda1, 600.0);
    // A wrapper needs its method, and nothing else.
    let wrapped: NullSpace<Memit> = serde_json::from_str(r#"{ "method": { "lambda": 5 } }"#).unwrap();
    assert_eq!(wrapped, NullSpace::new(Memit::default().with_lambda(5.0)));
    let wrapped: SimIe<Emmet> = serde_json::from_str(r#"{ "method": {}, "simulation": { "lambda": 7 } }"#).unwrap();
    assert_eq!(wrapped, SimIe::new(Emmet::default()).with_simulation(Simulation::default().with_lambda(7.0)));
    let error = serde_json::from_str::<BetaEdit>(r#"{ "lamda1": 600 }"#).unwrap_err().to_string();
    assert!(error.contains("lamda1") && error.contains("lambda1"), "{error}");
}

#[cfg(feature = "session")]
#[test]
fn guards_and_reports_of_a_session_are_serialised() {
    use betaedit_core::session::{ConflictPolicy, Guards, Report};
    round_trip(Guards::default().with_relative_drift(0.1));
    round_trip(ConflictPolicy::LastWins);
    let report = serde_json::to_value(Report::default()).unwrap();
    assert_eq!((report["applied"].as_u64(), report["curve"].as_array().map(Vec::len)), (Some(0), Some(0)));
}

#[cfg(feature = "llm")]
#[test]
fn settings_of_a_search_are_serialised() {
    use betaedit_core::llm::{Descent, FactToken, Site, TargetSearch, Wording};
    round_trip(TargetSearch::default().with_site(Site::MlpAndAttention).with_descent(Descent::Adam { rate: 0.5 }));
    round_trip((FactToken::PromptLast, Wording::AsGiven));
    assert_eq!(serde_json::to_string(&Site::MlpAndAttention).unwrap(), format!("\"{}\"", Site::MlpAndAttention));
}
