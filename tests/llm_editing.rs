//! Keys, targets, statistics and edits on small models.

use std::ops::ControlFlow;
use std::sync::Arc;

use betaedit_core::editor::History;
use betaedit_core::error::{ModelError, NumericsError};
use betaedit_core::faer::{Mat, Par, Scale};
use betaedit_core::llm::{Collector, Config, Contexts, FactToken, Model, ModelAdapter, Request, Sampler, TargetSearch};
use betaedit_core::{Adapter, EditBatch, Editor, Error, Memit, Method, Spectrum};

use crate::llm_models::{Expected, FAMILIES, data, directory, open};

pub fn request() -> Request {
    Request::new("Eiffel Tower", "The {} is located in the city of", "Tokyo").unwrap()
}

/// Untrained models hardly look back: what they can be made to say is what follows the subject itself, and only more likely.
pub fn telling() -> Request {
    Request::new("Eiffel Tower", "What stands in the city is the {}", "Tokyo").unwrap()
}

pub fn contexts() -> Contexts {
    Contexts::new(vec!["Therefore it is".into(), "I said so".into()])
}

#[test]
fn sequences_run_together_give_what_each_gives_alone() {
    for family in FAMILIES {
        let (model, _) = open(family);
        let tokens = Expected::of(family).tokens;
        // One that another begins as, before it and behind it, and two of which neither begins as the other.
        let backwards: Vec<u32> = tokens.iter().rev().copied().collect();
        let sequences =
            [(&tokens[..5], 3), (&tokens[..], 1), (&tokens[..4], 2), (&backwards[..6], 2), (&backwards[1..6], 1)];
        let together = model.score_continuations(&sequences).unwrap();
        for (found, (tokens, start)) in together.iter().zip(sequences) {
            let logits = model.trace(tokens).unwrap().logits;
            assert_eq!(found.log_probabilities.len(), tokens.len() - start);
            for (i, found) in found.log_probabilities.iter().enumerate() {
                let column = logits.col(start + i - 1);
                let total: f64 = column.iter().map(|x| f64::from(*x).exp()).sum();
                let expected = f64::from(column[tokens[start + i] as usize]) - total.ln();
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{family}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn generation_goes_on_where_the_whole_sequence_would() {
    let (model, tokenizer) = open("gptj");
    let mut tokens = tokenizer.encode("The tower").unwrap();
    let generated = model.generate(&tokens, 5, &mut Sampler::Greedy).unwrap();
    for token in generated {
        let logits = model.trace(&tokens).unwrap().logits;
        let last = logits.col(tokens.len() - 1);
        let best = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        assert_eq!(token as usize, best);
        tokens.push(token);
    }
    let texts = |seed| Contexts::generate(&model, &tokenizer, 3, 8, seed).unwrap();
    assert_eq!(texts(1), texts(1));
    assert_ne!(texts(1), texts(2));
    assert!(texts(1).prefixes()[1].starts_with("Therefore"));
}

#[test]
fn a_key_is_that_of_the_subject_averaged_over_contexts() {
    let (model, tokenizer) = open("llama");
    let (request, layer) = (request(), 2);
    let key = |text: &str, subject_end: &str| {
        let at = tokenizer.encode(subject_end).unwrap().len() - 1;
        let keys = model.trace(&tokenizer.encode(text).unwrap()).unwrap().keys.swap_remove(layer);
        keys.col(at).to_owned()
    };
    let behind = |opening: &str| key(&format!("{opening}{}", request.text()), &format!("{opening}The Eiffel Tower"));
    let expected = behind("") * Scale(0.5) + (behind("Therefore it is. ") + behind("I said so. ")) * Scale(0.25);
    let mut adapter =
        ModelAdapter::new(model.clone(), tokenizer.clone(), vec![layer], contexts(), TargetSearch::default()).unwrap();
    let keys = adapter.keys(layer, &[request.clone(), request.clone()]).unwrap();
    for j in 0..2 {
        assert!((keys.col(j) - &expected).norm_max() < 1e-5 * expected.norm_max());
    }
}

/// The place of a token is that of the text before it, as long as the tokenizer does not join the two.
#[test]
fn a_fact_is_written_at_the_token_that_is_asked_for() {
    let (model, tokenizer) = open("llama");
    let text = tokenizer.encode(&request().text()).unwrap();
    let trace = model.trace(&text).unwrap();
    let layer = 1;
    let mut adapter =
        ModelAdapter::new(model, tokenizer.clone(), vec![layer], Contexts::default(), TargetSearch::default()).unwrap();
    for (token, up_to) in [
        (FactToken::SubjectFirst, "The"),
        (FactToken::SubjectLast, "The Eiffel Tower"),
        (FactToken::PromptLast, "The Eiffel Tower is located in the city of"),
    ] {
        let before = tokenizer.encode(up_to).unwrap();
        assert_eq!(before, text[..before.len()], "no token spans the border");
        let place = if token == FactToken::SubjectFirst { before.len() } else { before.len() - 1 };
        let request = request().with_token(token);
        let key = adapter.keys(layer, std::slice::from_ref(&request)).unwrap();
        let expected = trace.keys[layer].col(place);
        assert!((key.col(0) - expected).norm_max() < 1e-5 * expected.norm_max(), "{token:?}");
        // The vector of a search is added there as well.
        let search = TargetSearch::default().with_steps(1);
        let target = search.run(adapter.model(), &tokenizer, Contexts::default(), layer, &request).unwrap();
        let output = trace.block_outputs[layer].col(place);
        let start = Mat::from_fn(target.start.len(), 1, |i, _| target.start[i]);
        assert!((start.col(0) - output).norm_max() < 1e-5 * output.norm_max(), "{token:?}");
    }
}

/// The whole way: statistics, keys, targets, two layers, and then the model says it.
#[test]
fn an_edited_model_says_the_new_thing_and_can_be_put_back() {
    for family in ["llama", "gpt2", "gptj"] {
        let (model, tokenizer) = open(family);
        let layers = vec![1, 2];
        let mut collector = Collector::new(&model, &tokenizer, &layers).unwrap();
        let text = std::fs::read_to_string(data().join("../README.md")).unwrap();
        collector.read([&text], 2_000, |_| ControlFlow::Continue(())).unwrap();
        assert!(collector.tokens() >= 2_000);
        let method = Memit::default().with_lambda(1.0).with_ridge(1e-3).with_history(History::Absorbed);
        let moments = collector.into_moments();
        let editor =
            |layer| method.editor::<f32>(&Arc::new(Spectrum::new(&moments[layer], Par::Seq).unwrap()), Par::Seq);
        let mut editors: Vec<_> = layers.iter().map(|layer| editor(layer).unwrap()).collect();
        let search = TargetSearch::default().with_clamp(20.0).with_steps(40);
        let mut adapter = ModelAdapter::new(model, tokenizer, layers.clone(), contexts(), search).unwrap();
        let weights = |adapter: &ModelAdapter| -> Vec<Mat<f32>> {
            let read = |&layer: &usize| {
                let (rows, cols) = adapter.weight_shape(layer).unwrap();
                let mut weight = Mat::zeros(rows, cols);
                adapter.read_weight(layer, weight.as_mut()).unwrap();
                weight
            };
            layers.iter().map(read).collect()
        };
        let unedited = weights(&adapter);
        let requests = [telling()];
        let prompt = adapter.tokenizer().encode(&requests[0].text()).unwrap();
        let whole = adapter.tokenizer().encode(&format!("{} Tokyo", requests[0].text())).unwrap();
        let loss = |adapter: &ModelAdapter| {
            -adapter.model().score_continuations(&[(&whole, prompt.len())]).unwrap()[0].log_probabilities[0]
        };
        let target = search.run(adapter.model(), adapter.tokenizer(), contexts(), 2, &requests[0]).unwrap();
        let missing = |adapter: &ModelAdapter| {
            let outputs = &adapter.model().trace(&prompt).unwrap().block_outputs[2];
            let last = outputs.col(prompt.len() - 1);
            last.iter().zip(&target.value).map(|(x, z)| (x - z) * (x - z)).sum::<f32>().sqrt()
        };
        let before = (loss(&adapter), missing(&adapter));
        let mut asked = vec![];
        for (i, (&layer, editor)) in layers.iter().zip(&mut editors).enumerate() {
            let K = adapter.keys(layer, &requests).unwrap();
            let R = adapter.residuals(layer, &requests).unwrap();
            asked.push(R.norm_l2());
            let share = R * Scale(1.0 / (layers.len() - i) as f32);
            let update = editor.edit(&EditBatch::new(K.as_ref(), share.as_ref()).unwrap()).unwrap();
            adapter.apply(layer, &update).unwrap();
        }
        let after = (loss(&adapter), missing(&adapter));
        println!("{family}: {before:?} {asked:?} {after:?}");
        assert!((asked[0] - before.1).abs() < 1e-4 * before.1, "{family}: the residual is what is missing");
        assert!(asked[1] < asked[0], "{family}: the first layer did its part: {asked:?}");
        assert!(after.1 < 0.3 * before.1 && after.0 < 0.8 * before.0, "{family}: {before:?} {after:?}");
        for (layer, weight) in layers.iter().zip(&unedited) {
            adapter.write_weight(*layer, weight.as_ref()).unwrap();
        }
        assert_eq!(weights(&adapter), unedited);
        assert_eq!((loss(&adapter), missing(&adapter)), before);
    }
}

#[test]
fn statistics_stop_go_on_and_add_up() {
    let (model, tokenizer) = open("qwen2");
    let text = std::fs::read_to_string(data().join("../README.md")).unwrap();
    let texts = [&text[..], "A second text.", ""];
    let mut whole = Collector::new(&model, &tokenizer, &[0, 3]).unwrap();
    whole.read(texts, u64::MAX, |_| ControlFlow::Continue(())).unwrap();

    let mut stopped = Collector::new(&model, &tokenizer, &[0, 3]).unwrap();
    let mut calls = 0;
    stopped
        .read(texts, u64::MAX, |progress| {
            calls += 1;
            assert!(progress.tokens > 0);
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(calls, 1);
    assert!(stopped.tokens() < whole.tokens());
    let at = stopped.windows().end;
    let mut other = Collector::new(&model, &tokenizer, &[0, 3]).unwrap().starting_at(at);
    other.read(texts, u64::MAX, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(other.windows(), at..whole.windows().end);
    for layer in [0, 3] {
        let mut sum = stopped.moments()[&layer].clone();
        sum.merge(&other.moments()[&layer]).unwrap();
        let (sum, whole) = (sum.to_mean(Par::Seq).unwrap(), whole.moments()[&layer].to_mean(Par::Seq).unwrap());
        assert!((&sum - &whole).norm_l2() < 1e-6 * whole.norm_l2());
    }
    // Two that know how many windows there are share them.
    let windows = whole.count_windows(texts, u64::MAX).unwrap();
    assert_eq!(windows, whole.windows().end);
    let mut first = Collector::new(&model, &tokenizer, &[0, 3]).unwrap().ending_before(windows / 2);
    first.read(texts, u64::MAX, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(first.windows(), 0..windows / 2);
    let enough = first.tokens();
    assert_eq!(whole.count_windows(texts, enough).unwrap(), windows / 2);
    assert_eq!(whole.count_windows(texts, enough + 1).unwrap(), windows / 2 + 1);

    // The moment is that of the keys.
    let tokens = tokenizer.encode("A second text.").unwrap();
    let keys = &model.trace(&tokens).unwrap().keys[3];
    let mut one = Collector::new(&model, &tokenizer, &[3]).unwrap();
    one.read(["A second text."], u64::MAX, |_| ControlFlow::Continue(())).unwrap();
    let expected = (keys * keys.transpose()) * Scale(1.0 / tokens.len() as f32);
    let found = one.moments()[&3].to_mean(Par::Seq).unwrap();
    let error = (0..found.nrows()).map(|i| (found[(i, i)] - f64::from(expected[(i, i)])).abs()).fold(0.0, f64::max);
    assert!(error < 1e-5 * f64::from(expected.norm_max()), "{error}");
}

/// Without the upper blocks and the head: the same statistics, of the same model.
#[test]
fn statistics_need_no_block_above_their_layers() {
    let (model, tokenizer) = open("qwen2");
    let path = directory("qwen2");
    let mut asked = 0;
    let of = |config: &Config| {
        asked = config.layers;
        2
    };
    let (lowest, _) = Model::open_lowest(path.path(), of, Par::Seq).unwrap();
    assert_eq!(asked, model.config().layers);
    assert_eq!(lowest.fingerprint(), model.fingerprint());
    assert_eq!(lowest.config(), model.config());
    let moments = [&model, &lowest].map(|model| {
        let mut collector = Collector::new(model, &tokenizer, &[0, 1]).unwrap();
        collector.read(["A text of some words.", "Another."], u64::MAX, |_| ControlFlow::Continue(())).unwrap();
        [0, 1].map(|layer| collector.moments()[&layer].to_mean(Par::Seq).unwrap())
    });
    assert_eq!(moments[0], moments[1]);
    // What needs the rest of the model says so.
    assert_eq!(lowest.edited_tensor(3).unwrap(), model.edited_tensor(3).unwrap());
    let error = lowest.trace(&[1, 2]).unwrap_err().to_string();
    assert!(error.contains("only the lowest 2 blocks"), "{error}");
    assert!(Collector::new(&lowest, &tokenizer, &[2]).is_err());
    assert!(lowest.save(&tokenizer, tempfile::tempdir().unwrap().path()).is_err());
    // A model of which more is asked than there is is whole.
    let (whole, _) = Model::open_lowest(path.path(), |_| usize::MAX, Par::Seq).unwrap();
    assert_eq!(whole.trace(&[1, 2]).unwrap().logits, model.trace(&[1, 2]).unwrap().logits);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let (model, tokenizer) = open("llama");
    let refused = Request::new("Paris", "Paris is in", "Spain");
    assert!(
        matches!(&refused, Err(Error::Model(ModelError::Request { subject, .. })) if subject == "Paris"),
        "{refused:?}"
    );
    assert!(matches!(Request::new("Paris", "{} is in", " "), Err(Error::Model(ModelError::Request { .. }))));
    assert!(matches!(Request::new(" ", "{} is in", "Spain"), Err(Error::Model(ModelError::Request { .. }))));
    let adapter =
        |layers| ModelAdapter::new(model.clone(), tokenizer.clone(), layers, contexts(), TargetSearch::default());
    assert!(matches!(adapter(vec![]), Err(Error::Numerics(NumericsError::Empty { argument: "layers", .. }))));
    assert!(matches!(adapter(vec![1, 4]), Err(Error::Model(ModelError::UnknownLayer { layer: 4, .. }))));
    assert!(matches!(adapter(vec![2, 1]), Err(Error::Numerics(NumericsError::Parameter { parameter: "layers", .. }))));
    let mut adapter = adapter(vec![1]).unwrap();
    assert!(matches!(adapter.keys(2, &[request()]), Err(Error::Model(ModelError::UnknownLayer { layer: 2, .. }))));
    assert!(matches!(adapter.keys(1, &[]), Err(Error::Numerics(NumericsError::Empty { argument: "requests", .. }))));
    let long = Request::new("Paris", format!("{} {{}} is", "very ".repeat(200)), "Spain").unwrap();
    assert!(matches!(
        adapter.keys(1, &[long]),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "number of tokens", .. }))
    ));
    assert!(matches!(
        model.trace(&[1, 384]),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "token", .. }))
    ));
    assert!(matches!(model.trace(&[]), Err(Error::Numerics(NumericsError::Empty { argument: "tokens", .. }))));
    let wrong = Mat::<f32>::zeros(3, 3);
    assert!(matches!(
        adapter.write_weight(1, wrong.as_ref()),
        Err(Error::Numerics(NumericsError::Shape { argument: "weight", .. }))
    ));
    let settings = TargetSearch::default().with_steps(0);
    let found = settings.run(&model, &tokenizer, contexts(), 1, &request());
    assert!(matches!(found, Err(Error::Numerics(NumericsError::Parameter { parameter: "steps", .. }))));
}

#[cfg(feature = "facts")]
#[test]
fn the_metrics_ask_the_model() {
    use betaedit_core::facts::Facts;
    use betaedit_core::facts::metrics::{Query, Scorer};
    use betaedit_core::llm::Scoring;

    let (model, tokenizer) = open("gpt2");
    let mut scoring = Scoring::new(&model, &tokenizer);
    let queries = [
        Query { prompt: "The Eiffel Tower is located in the city of", target: "Tokyo" },
        Query { prompt: "Paris is", target: "in France" },
    ];
    for (query, scores) in queries.iter().zip(scoring.score(&queries).unwrap()) {
        let prompt = tokenizer.encode(query.prompt).unwrap();
        let whole = tokenizer.encode(&format!("{} {}", query.prompt, query.target)).unwrap();
        let logits = model.trace(&whole).unwrap().logits;
        assert_eq!(scores.len(), whole.len() - prompt.len());
        for (i, score) in scores.iter().enumerate() {
            let column = logits.col(prompt.len() + i - 1);
            let total: f64 = column.iter().map(|x| f64::from(*x).exp()).sum();
            assert_eq!(score.token, whole[prompt.len() + i]);
            let expected = f64::from(column[score.token as usize]) - total.ln();
            assert!((score.log_probability - expected).abs() < 1e-4);
            assert!(column.iter().all(|x| *x <= column[score.argmax as usize]));
        }
    }
    let text = std::fs::read_to_string(data().join("../README.md")).unwrap();
    let perplexity = scoring.measure_perplexity(&text, 500).unwrap();
    assert!(perplexity.tokens() >= 500 && perplexity.value().unwrap() > 100.0, "an untrained model is at a loss");

    // What is measured is the text's beginning, and its perplexity is all that was measured.
    let measured = scoring.measured_part(&text, 500).unwrap();
    assert!(text.starts_with(&measured) && measured.len() < text.len(), "{measured}");
    let again = scoring.measure_perplexity(&measured, u64::MAX).unwrap();
    assert_eq!((again.tokens(), again.value()), (perplexity.tokens(), perplexity.value()));
    assert_eq!(scoring.measured_part(&text, u64::MAX).unwrap(), text);

    let facts = Facts::parse("facts", r#"{"subject": "France", "prompt": "The capital of {} is", "target": "Rome"}"#);
    assert_eq!(Request::from(&facts.unwrap()[0]), Request::new("France", "The capital of {} is", "Rome").unwrap());
}

/// A session over a model: an edit taken back leaves the weights as they were, to rounding.
#[cfg(feature = "session")]
#[test]
fn a_session_edits_a_model_and_takes_it_back() {
    use betaedit_core::KeyStatistics;
    use betaedit_core::session::{Session, SessionBuilder};

    let (model, tokenizer) = open("qwen3");
    let layers = [1, 2];
    let mut collector = Collector::new(&model, &tokenizer, &layers).unwrap();
    let text = std::fs::read_to_string(data().join("../README.md")).unwrap();
    collector.read([&text], 2_000, |_| ControlFlow::Continue(())).unwrap();
    let recipe = Memit::default().with_lambda(1.0).with_ridge(1e-3).with_history(History::Absorbed).recipe();
    let mut builder = SessionBuilder::new(betaedit_core::editor::NamedRecipe::new("memit-h", recipe));
    for (layer, moment) in collector.into_moments() {
        builder = builder.layer(layer, KeyStatistics::new(moment, Par::Seq).unwrap());
    }
    let search = TargetSearch::default().with_clamp(20.0);
    let adapter = ModelAdapter::new(model.clone(), tokenizer, layers.into(), contexts(), search).unwrap();
    let mut session = builder.open(adapter, Par::Seq).unwrap();
    let tokens = Expected::of("qwen3").tokens;
    let logits = |session: &Session<ModelAdapter>| session.adapter().model().trace(&tokens).unwrap().logits;
    let before = logits(&session);
    session.edit(&[telling()]).unwrap().applied().unwrap();
    let edited = (logits(&session) - &before).norm_l2();
    session.undo(&[0.into()]).unwrap();
    let undone = (logits(&session) - &before).norm_l2();
    assert!(edited > 1e-3 * before.norm_l2(), "the edit is felt: {edited}");
    assert!(undone < 1e-3 * edited, "{undone} after {edited}");
}
