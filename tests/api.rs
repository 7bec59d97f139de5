//! Promises about the public types that the compiler can check.

use std::fmt::Debug;
use std::path::Path;

use betaedit_core::Error;
use betaedit_core::faer::Par;

/// Every public type can be printed, and shared between threads.
fn shown_and_shared<T: Debug + Send + Sync>() {}

macro_rules! all {
    ($($type:ty),+ $(,)?) => { $(shown_and_shared::<$type>();)+ };
}

#[test]
fn every_type_is_shown_and_shared() {
    use betaedit_core::{InverseGram, KeyStatistics, Memit, SecondMoment, Spectrum};
    use betaedit_core::{batch, concept, editor, engine, error, metrics, projector, refresh};
    use betaedit_core::{regmean, restraint, ridge, spectrum, update};
    all!(SecondMoment, Spectrum, KeyStatistics, InverseGram, engine::Solution, engine::Workspace, engine::StateToken);
    all!(spectrum::DecompositionProgress, spectrum::DecompositionStage);
    all!(projector::Projector, projector::ProjectorBuilder<'_>, projector::SpectralGap, projector::Threshold);
    all!(projector::HistoryWeighting, batch::EditBatch<'_, f32>, batch::Order);
    all!(update::Update<f32>, update::Weight<f64>, update::Orientation, update::Compression, update::Compressed<f32>);
    all!(refresh::Refresh, refresh::RefreshRule, refresh::RefreshReport, refresh::Capacity, refresh::Headroom);
    all!(metrics::Gauges, metrics::Interference, metrics::Measurement, metrics::Retention, metrics::RunningTotal);
    all!(metrics::Written, metrics::WrittenShare);
    all!(editor::Proposal<f32>, editor::EditorState, editor::Reversal, editor::ClosedFormEditor<f32>);
    all!(Box<dyn editor::Editor<f64>>, editor::NamedRecipe, editor::Recipe, editor::Description);
    all!(editor::Memit, editor::AlphaEdit, editor::BetaEdit, editor::Emmet, editor::Encore, editor::Pmet);
    all!(editor::RlsEdit, editor::Anchors, editor::SimIe<Memit>, editor::NullSpace<Memit>, editor::Penalty);
    all!(
        editor::History,
        editor::Space,
        editor::Slack,
        editor::Share,
        editor::Merging,
        editor::Simulation,
        editor::Base
    );
    all!(editor::Hyperparameters, editor::MethodEntry, editor::AnyMethod);
    all!(
        Box<dyn restraint::Restraint<f32>>,
        restraint::KnownRestraint,
        restraint::Rect,
        restraint::Prune,
        restraint::Damping,
        restraint::Needs,
        restraint::Situation<'_, f32>,
        restraint::Total<'_>
    );
    all!(ridge::Ridge, ridge::Samples, concept::ConceptEdit, concept::Uce, concept::Speed);
    all!(regmean::RegMean, regmean::ModelWeighting);
    all!(error::Error, error::NumericsError, error::FileError, error::FactsError, error::SessionError);
    all!(error::ModelError, error::Shape, betaedit_core::adapter::Companions<f32>);
}

#[cfg(feature = "safetensors")]
#[test]
fn every_type_of_files_is_shown_and_shared() {
    use betaedit_core::{adapter, format};
    all!(format::Checkpoint, format::Statistics, format::Fingerprint, format::Precision, format::Rounding);
    all!(format::lora::LoraAdapter);
    all!(format::gguf::GgufModel, format::gguf::GgufStorage, format::gguf::GgufType, format::gguf::EditedWeight);
    all!(format::gguf::Importance, format::gguf::Survival);
    all!(adapter::RecordedStream<f32>);
}

#[cfg(feature = "facts")]
#[test]
fn every_type_of_facts_is_shown_and_shared() {
    use betaedit_core::facts::{self, metrics};
    all!(facts::Fact, facts::Facts, facts::Layout, facts::NeighborhoodPrompt, facts::Unread);
    all!(
        facts::ReadOptions,
        facts::ZsreTarget,
        facts::FactProbe,
        facts::ProbeQuestion,
        facts::ProbeCategory,
        facts::Needed
    );
    all!(metrics::ProbeAnswer, metrics::ProbeReply, metrics::ProbeReplies, metrics::Probing, metrics::ProbeRates);
    all!(metrics::Generation, metrics::GenerationSummary, metrics::Purpose, metrics::Replies, metrics::Reply);
    all!(metrics::Question<'_>, metrics::Setting);
    all!(metrics::Answer, metrics::Case, metrics::Contest, metrics::Evaluation, metrics::Summary);
    all!(metrics::Perplexity, metrics::Rate, metrics::Query<'_>);
    all!(facts::Known, metrics::KnownAnswer, metrics::KnownAnswers);
}

#[cfg(feature = "session")]
#[test]
fn every_type_of_sessions_is_shown_and_shared() {
    use betaedit_core::session;
    // A session can be shared if its adapter can.
    #[cfg(feature = "safetensors")]
    all!(session::Session<betaedit_core::adapter::RecordedStream<f32>>);
    all!(session::SessionBuilder<betaedit_core::Memit>);
    all!(
        session::Outcome,
        session::Applied,
        session::Rejection,
        session::OpenError<f64>,
        session::Undone,
        session::LayerOutcome,
        session::LayerStatistics
    );
    all!(session::EditId, session::Conflict, session::ConflictPolicy, session::Guard, session::Guards);
    all!(session::Violation, session::Recovery, session::Report, session::Point, session::Progress);
    all!(session::ProgressLine<Vec<u8>>, session::JsonLines<Vec<u8>>);
    all!(session::Consolidation, session::Consolidated, session::ConsolidationStep, session::Targets);
    all!(session::LayerStep);
}

#[cfg(feature = "llm")]
#[test]
fn every_type_of_language_models_is_shown_and_shared() {
    use betaedit_core::llm::{self, families};
    all!(llm::Model, llm::Trace, llm::Continuation, llm::Tokenizer, llm::Config, llm::Sizes, llm::Rotary);
    all!(llm::RotaryScaling, llm::Positions, llm::Pairing, llm::NormKind, llm::MlpKind, llm::HeadNorms);
    all!(llm::Window, llm::Bias, llm::Biases, llm::BlockNorms, llm::Message, llm::Role);
    all!(llm::Arrangement, llm::Activation, llm::Families, llm::StoredTensor, llm::StoredNumbers, llm::Request);
    all!(llm::FactToken);
    all!(
        llm::Contexts,
        llm::Sampler,
        llm::Collector<'_>,
        llm::GradientCollector<'_>,
        llm::Sensitivity,
        llm::CollectionProgress,
        llm::ModelAdapter,
        llm::AdapterStep<'_>
    );
    all!(llm::Target, llm::TargetSearch, llm::Descent, llm::Site, llm::Wording, llm::Anchor<'_>);
    all!(llm::Steering<'_>, llm::Steered<'_>, llm::SteeredEvaluation);
    all!(llm::Surroundings, llm::Place, llm::Places, llm::KeyRule);
    all!(llm::FineTuning, llm::LowRankTuning, llm::Supervision, llm::Tuned);
    all!(families::Llama, families::Mistral, families::Qwen2, families::Qwen3, families::Gpt2, families::GptJ);
    all!(families::ConfigFile, families::TensorLayout, families::AttentionNames, families::GgufLayout);
    all!(families::GgufMetadata<'_>, families::Gains, families::Phi3, families::Gemma2, families::Gemma3);
    all!(families::Olmo2, families::GptNeoX, families::StableLm, families::Gemma, families::Phi);
    all!(families::Falcon, families::StarCoder2);
    #[cfg(feature = "facts")]
    all!(llm::Scoring<'_>, betaedit_core::facts::metrics::TokenScore);
}

/// The structs and enums of the library, each with its file; `visible` asks for public ones only.
fn types(visible: bool) -> Vec<(String, String)> {
    let mut files = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = Vec::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for line in text.lines() {
            let declared = match line.strip_prefix("pub ") {
                Some(declared) => declared,
                None if visible => continue,
                None => line.strip_prefix("pub(").and_then(|rest| Some(rest.split_once(") ")?.1)).unwrap_or(line),
            };
            let rest = declared.strip_prefix("struct ").or_else(|| declared.strip_prefix("enum "));
            if let Some(rest) = rest {
                let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                found.push((name.to_owned(), path.display().to_string()));
            }
        }
    }
    found
}

/// The lists above are whole: every public type of the library stands in them.
#[test]
fn no_public_type_is_left_out() {
    let lists = include_str!("api.rs");
    let types = types(true);
    for (name, path) in &types {
        let named = lists.match_indices(&**name).any(|(at, _)| {
            let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
            outside(lists[..at].chars().next_back()) && outside(lists[at + name.len()..].chars().next())
        });
        assert!(named, "{name} of {path} is not in tests/api.rs");
    }
    assert!(types.len() > 100, "{} public types were found", types.len());
}

/// A name means one thing in the whole library, also where it is private.
#[test]
fn no_two_types_have_one_name() {
    let mut types = types(false);
    types.sort();
    for pair in types.windows(2) {
        assert!(pair[0].0 != pair[1].0, "{} is declared in {} and in {}", pair[0].0, pair[0].1, pair[1].1);
    }
}

/// Errors travel through `?` into boxed errors and across threads, and repeat no source in their text.
#[test]
fn an_error_is_small_static_and_whole() {
    fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_error::<Error>();
    assert!(size_of::<Error>() <= 80, "{}", size_of::<Error>());
    let refused = betaedit_core::InverseGram::isotropic(0, 1.0, Par::Seq).map(drop).map_err(Error::from).unwrap_err();
    assert!(std::error::Error::source(&refused).is_none(), "{refused:?}");
}
