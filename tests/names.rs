//! Values with a name: what `Display` writes, `FromStr` reads.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use betaedit_core::batch::Order;
use betaedit_core::editor::{
    Base, ClosedFormEditor, Emmet, Encore, Hyperparameters, METHODS, NamedRecipe, NullSpace, Penalty, Pmet, Share,
    SimIe,
};
use betaedit_core::error::NumericsError;
use betaedit_core::refresh::Capacity;
use betaedit_core::{Memit, Method, Orientation};

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
    let by_name = METHODS.iter().find(|entry| entry.name == "betaedit").unwrap().method(&hyperparameters);
    assert_eq!(by_name.recipe(), betaedit_core::BetaEdit::default().with_lambda1(123.0).recipe());
}

#[test]
fn an_editor_may_have_a_name_that_was_made_up_at_run_time() {
    use std::sync::Arc;

    use betaedit_core::faer::{Mat, Par};
    use betaedit_core::{Editor, Spectrum};
    let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(3, 3).as_ref(), Par::Seq).unwrap());
    let name = format!("memit-{}", 7);
    let editor = ClosedFormEditor::<f64>::new(name.clone(), Memit::default().recipe(), &spectrum, Par::Seq).unwrap();
    assert_eq!(editor.name(), name);
}
