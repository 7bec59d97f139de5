//! Promises about the public types that the compiler can check.

use betaedit_core::editor::{ClosedFormEditor, EditorState, MethodEntry, Recipe};
use betaedit_core::editor::{Emmet, Encore, Hyperparameters, NullSpace, Pmet, RlsEdit, SimIe};
use betaedit_core::engine::Solution;
use betaedit_core::metrics::{Interference, Measurement, Retention, RunningTotal};
use betaedit_core::refresh::RefreshReport;
use betaedit_core::restraint::Restraint;
use betaedit_core::{
    AlphaEdit, BetaEdit, EditBatch, Editor, Error, InverseGram, Memit, Projector, SecondMoment, Spectrum, Update,
};

fn shared_between_threads<T: Send + Sync>() {}

#[test]
fn every_type_can_be_shared_between_threads() {
    shared_between_threads::<SecondMoment>();
    shared_between_threads::<Spectrum>();
    shared_between_threads::<Projector>();
    shared_between_threads::<RefreshReport>();
    shared_between_threads::<InverseGram>();
    shared_between_threads::<Solution>();
    shared_between_threads::<EditBatch<'_, f32>>();
    shared_between_threads::<Update<f32>>();
    shared_between_threads::<ClosedFormEditor<f32>>();
    shared_between_threads::<Box<dyn Editor<f64>>>();
    shared_between_threads::<(Memit, AlphaEdit, BetaEdit, Hyperparameters, Recipe, MethodEntry, EditorState)>();
    shared_between_threads::<(Pmet, Emmet, Encore, RlsEdit, SimIe<Memit>, NullSpace<Memit>, Restraint)>();
    shared_between_threads::<(Interference, Measurement, Retention, RunningTotal)>();
    shared_between_threads::<Error>();
    #[cfg(feature = "safetensors")]
    shared_between_threads::<(betaedit_core::format::Checkpoint, betaedit_core::format::Statistics)>();
}

/// Errors travel through `?` into boxed errors and across threads.
#[test]
fn an_error_is_small_and_static() {
    fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_error::<Error>();
    assert!(size_of::<Error>() <= 80, "{}", size_of::<Error>());
}
