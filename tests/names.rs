//! Values with a name: what `Display` writes, `FromStr` reads.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::Arc;

use betaedit_core::batch::Order;
use betaedit_core::editor::{
    Anchors, Base, ClosedFormEditor, Emmet, Encore, Hyperparameters, METHODS, NamedRecipe, NullSpace, Penalty, Pmet,
    Share, SimIe, Simulation, Slack, method,
};
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::refresh::Capacity;
use betaedit_core::{Editor, Memit, Method, Orientation, Refresh, Spectrum, Threshold};

fn round_trip<V: Copy + Debug + Display + PartialEq + FromStr<Err = NumericsError>>(all: &[V]) {
    assert!(all.len() > 1);
    for value in all {
        assert_eq!(value.to_string().parse::<V>().unwrap(), *value);
    }
    let error = "nonsense".parse::<V>().unwrap_err().to_string();
    assert!(error.contains("`nonsense`"), "{error}");
    for value in all {
        assert!(error.contains(&value.to_string()), "{error} does not name {value}");
    }
}

#[test]
fn named_values_are_read_as_they_are_written() {
    round_trip(Share::ALL);
    round_trip(Penalty::ALL);
    round_trip(Base::ALL);
    round_trip(Order::ALL);
    round_trip(Orientation::ALL);
    round_trip(Capacity::ALL);
    round_trip(betaedit_core::ridge::Samples::ALL);
    round_trip(betaedit_core::regmean::ModelWeighting::ALL);
    #[cfg(feature = "facts")]
    {
        use betaedit_core::facts::{Needed, ProbeCategory, ZsreTarget};
        round_trip(ZsreTarget::ALL);
        round_trip(ProbeCategory::ALL);
        round_trip(Needed::ALL);
    }
    #[cfg(feature = "session")]
    round_trip(betaedit_core::session::ConflictPolicy::ALL);
    #[cfg(feature = "llm")]
    {
        use betaedit_core::llm::{FactToken, Site, Wording};
        round_trip(FactToken::ALL);
        round_trip(Site::ALL);
        round_trip(Wording::ALL);
    }
}

/// The name says what a method is, also behind wrappers and settings.
#[test]
fn a_wrapper_changes_the_name() {
    use betaedit_core::editor::History;
    let name = |method: &dyn Fn() -> String, expected: &str| assert_eq!(method(), expected);
    name(&|| NullSpace::new(Encore::default()).name().into(), "encore-ns");
    name(&|| NullSpace::new(Memit::default().with_history(History::Absorbed)).name().into(), "memit-ns");
    name(&|| Emmet::default().with_history(History::Random { seed: 1 }).name().into(), "emmet-r");
    name(&|| Pmet::default().with_history(History::Random { seed: 1 }).name().into(), "pmet-r");
    name(&|| SimIe::new(Emmet::default()).name().into(), "simie");
    name(&|| SimIe::new(Memit::default()).name().into(), "simie-memit");
    name(&|| NamedRecipe::new(String::from("mine"), Memit::default().recipe()).name().into(), "mine");
}

/// A method is the same by its name as by its value.
#[test]
fn by_name_and_by_value_the_settings_are_the_same() {
    let mut hyperparameters = Hyperparameters::default();
    hyperparameters.lambda1 = 123.0;
    let by_name = METHODS.iter().find(|entry| entry.name() == "betaedit").unwrap().method(&hyperparameters);
    assert_eq!(by_name.recipe(), betaedit_core::BetaEdit::default().with_lambda1(123.0).recipe());
}

/// The name that a method has finds a method of this name, with the same recipe; so do the names of wrapped methods.
#[test]
fn every_name_looks_up_to_itself() {
    fn found(value: &impl Method) {
        let name = value.name();
        let by_name = method(&name).unwrap_or_else(|error| panic!("{error}")).method(&Hyperparameters::default());
        assert_eq!((by_name.name(), by_name.recipe()), (name, value.recipe()));
    }
    for entry in METHODS {
        let method = entry.method(&Hyperparameters::default());
        assert_eq!(method.name(), entry.name());
        found(&method);
        found(&NullSpace::new(&method));
        found(&SimIe::new(&method));
        found(&SimIe::new(NullSpace::new(&method)));
        found(&NullSpace::new(SimIe::new(&method)));
        // Wrapped twice, it is what it was.
        assert_eq!(NullSpace::new(NullSpace::new(&method)).name(), NullSpace::new(&method).name());
        assert_eq!(SimIe::new(SimIe::new(&method)).name(), SimIe::new(&method).name());
    }
    for unknown in ["", "-ns", "simie-", "memit-ns-ns", "simie-simie-memit", "ns-memit", "MEMIT"] {
        assert!(matches!(method(unknown), Err(NumericsError::UnknownName { kind: "method", .. })), "{unknown}");
    }
}

/// A method uses the hyperparameters that it names, and no others.
#[test]
fn parameters_are_those_that_change_the_recipe() {
    let changed = |name: &str| {
        let h = Hyperparameters::default();
        match name {
            "lambda" => h.with_lambda(7.0),
            "lambda1" => h.with_lambda1(7.0),
            "lambda2" => h.with_lambda2(7.0),
            "threshold" => h.with_threshold(Threshold::Directions(7)),
            "refresh" => h.with_refresh(Refresh::Never),
            "penalty" => h.with_penalty(Penalty::Dropped),
            "slack" => h.with_slack(Slack { single: 0.5, batch: 0.5 }),
            "anchors" => h.with_anchors(Anchors { mu: 3.0, nu: 5.0 }),
            "alike" => h.with_alike(0.5),
            "seed" => h.with_seed(9),
            "simulation" => h.with_simulation(Simulation::default().with_lambda(7.0)),
            other => panic!("{other} is not a field"),
        }
    };
    let all = ["lambda", "lambda1", "lambda2", "threshold", "refresh", "penalty", "slack", "anchors", "alike", "seed"];
    let wrapped = ["simie-encore-ns", "alphaedit-ns", "simie-memit", "rlsedit-ns", "betaedit-ns"];
    let wrapped = wrapped.map(|name| method(name).unwrap());
    for entry in METHODS.iter().chain(&wrapped) {
        let parameters = entry.parameters();
        for name in all {
            let differs = entry.recipe(&changed(name)) != entry.recipe(&Hyperparameters::default());
            // A wrapper's threshold and refresh replace those of its method.
            assert_eq!(differs, parameters.contains(&name), "{}: {name}", entry.name());
        }
        // SimIE can be put around any method.
        assert!(entry.recipe(&changed("simulation")).simulation.is_some());
        assert_eq!(parameters.contains(&"simulation"), entry.name().contains("simie"), "{}", entry.name());
    }
}

/// Errors name the parameter as the method does.
#[test]
fn by_name_errors_are_in_the_words_of_the_method() {
    let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(3, 3).as_ref(), Par::Seq).unwrap());
    let h = Hyperparameters::default;
    for (name, h, expected) in [
        ("memit", h().with_lambda(-1.0), "`lambda` is -1"),
        ("betaedit", h().with_lambda1(-1.0), "`lambda1` is -1"),
        ("alphaedit", h().with_lambda2(f64::NAN), "`lambda2` is NaN"),
        ("encore", h().with_lambda2(-1.0), "`mu` is -1"),
        ("rlsedit-ns", h().with_anchors(Anchors { mu: -1.0, nu: 1.0 }), "`mu` is -1"),
        (
            "simie-memit-ns",
            h().with_simulation(Simulation::default().with_lambda(0.0)),
            "`lambda of the simulation` is 0",
        ),
    ] {
        let error = method(name).unwrap().editor::<f64>(&h, &spectrum, Par::Seq).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{name}: {error}");
    }
}

#[test]
fn an_editor_may_have_a_name_that_was_made_up_at_run_time() {
    let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(3, 3).as_ref(), Par::Seq).unwrap());
    let name = format!("memit-{}", 7);
    let editor = ClosedFormEditor::<f64>::new(name.clone(), Memit::default().recipe(), &spectrum, Par::Seq).unwrap();
    assert_eq!(editor.name(), name);
}
