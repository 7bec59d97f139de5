//! Keys, targets, statistics and edits on small models.

use std::ops::ControlFlow;
use std::sync::Arc;

use betaedit_core::editor::History;
use betaedit_core::editor::NamedRecipe;
use betaedit_core::error::{FileError, ModelError, NumericsError};
use betaedit_core::faer::{Mat, Par, Scale};
use betaedit_core::llm::{
    Anchor, Collector, Contexts, Descent, FactToken, Model, ModelAdapter, Request, Sampler, Site, Steered, Steering,
    Target, TargetSearch, Tokenizer, Wording,
};
use betaedit_core::{Adapter, EditBatch, Editor, Error, Memit, Method, Spectrum, Update};
use safetensors::SafeTensors;

use crate::llm_models::{Expected, FAMILIES, data, open};

fn request() -> Request {
    Request::new("Eiffel Tower", "The {} is located in the city of", "Tokyo").unwrap()
}

/// Untrained models hardly look back: what they can be made to say is what follows the subject itself, and only more likely.
fn telling() -> Request {
    Request::new("Eiffel Tower", "What stands in the city is the {}", "Tokyo").unwrap()
}

fn contexts() -> Contexts {
    Contexts::new(vec!["Therefore it is".into(), "I said so".into()])
}

#[test]
fn the_gradient_by_a_vector_added_to_a_block_is_that_of_transformers() {
    for family in FAMILIES {
        let (model, _) = open(family);
        let expected = Expected::of(family);
        let facts = &expected.facts;
        let number = |name: &str| usize::try_from(facts[name].as_u64().unwrap()).unwrap();
        let mut tokens = expected.tokens.clone();
        tokens.push(u32::try_from(number("target_id")).unwrap());
        let one = Steered { tokens: &tokens, position: number("subject_last_position"), start: tokens.len() - 1 };
        let steering = Steering::new(&model, number("delta_block"), Site::Block, &[one], None).unwrap();
        let found = steering.evaluate(&vec![0.0; model.config().hidden]).unwrap();
        let nll = facts["nll"].as_f64().unwrap();
        assert!((f64::from(found.likelihood) - nll).abs() < 1e-4 * nll, "{family}: {} for {nll}", found.likelihood);
        let gradient = found.gradient().unwrap();
        let gradient = Mat::from_fn(gradient.len(), 1, |i, _| gradient[i]);
        expected.assert_near("nll_grad_delta", gradient.as_ref());
    }
}

/// The whole loss, with several sequences and an anchor, away from zero: against differences of the loss itself.
#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let (model, tokenizer) = open("qwen3");
    let sequence = |text: &str| tokenizer.encode(text).unwrap();
    let (a, b, anchor) =
        (sequence("The tower of Paris is in Tokyo"), sequence("I see. The tower is in Tokyo"), sequence("tower is a"));
    let sequences = [
        Steered { tokens: &a, position: 3, start: a.len() - 2 },
        Steered { tokens: &b, position: 5, start: b.len() - 1 },
    ];
    let anchor = Anchor { tokens: &anchor, position: 1, weight: 0.7 };
    let steering = Steering::new(&model, 1, Site::Block, &sequences, Some(anchor)).unwrap();
    let n = model.config().hidden;
    let at = |t: f32| -> Vec<f32> { (0..n).map(|i| 0.3 * (i as f32).sin() + t * (1.0 + i as f32).cos()).collect() };
    let loss = |t: f32| {
        let found = steering.evaluate(&at(t)).unwrap();
        f64::from(found.likelihood) + f64::from(found.divergence)
    };
    let found = steering.evaluate(&at(0.0)).unwrap();
    assert!(found.divergence > 1e-3, "the anchor is felt: {}", found.divergence);
    let slope: f64 =
        found.gradient().unwrap().iter().enumerate().map(|(i, g)| f64::from(*g) * (1.0 + i as f64).cos()).sum();
    let h = 1e-2;
    let difference = (loss(h) - loss(-h)) / (2.0 * f64::from(h));
    assert!((slope - difference).abs() < 2e-3 * slope.abs().max(0.1), "{slope} for {difference}");
    // Where nothing is added, nothing diverges.
    assert!(steering.evaluate(&vec![0.0; n]).unwrap().divergence.abs() < 1e-6);
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
        let target = search.run(adapter.model(), &tokenizer, &Contexts::default(), layer, &request).unwrap();
        let output = trace.block_outputs[layer].col(place);
        let start = Mat::from_fn(target.start.len(), 1, |i, _| target.start[i]);
        assert!((start.col(0) - output).norm_max() < 1e-5 * output.norm_max(), "{token:?}");
    }
}

#[test]
fn known_targets_are_not_sought() {
    let (model, tokenizer) = open("llama");
    let hidden = model.config().hidden;
    // A search with these settings is refused, so none is made.
    let search = TargetSearch::default().with_steps(0);
    let adapter = |targets: Vec<f32>| {
        let adapter = ModelAdapter::new(model.clone(), tokenizer.clone(), vec![1, 2], contexts(), search).unwrap();
        adapter.with_targets([(request(), targets)].into())
    };
    let mut zero = adapter(vec![0.0; hidden]).unwrap();
    let mut one = adapter(vec![1.0; hidden]).unwrap();
    let [zero_left, one_left] = [&mut zero, &mut one].map(|adapter| adapter.residuals(1, &[request()]).unwrap());
    assert!((one_left - &zero_left - Mat::full(hidden, 1, 1.0)).norm_max() < 1e-5);
    assert!(matches!(
        zero.residuals(1, &[telling()]),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "steps", .. }))
    ));
    assert!(matches!(
        adapter(vec![0.0; hidden + 1]),
        Err(Error::Numerics(NumericsError::Shape { argument: "target", .. }))
    ));
    assert!(matches!(
        adapter(vec![f32::NAN; hidden]),
        Err(Error::Numerics(NumericsError::NonFinite { argument: "target", .. }))
    ));
}

#[test]
fn a_target_makes_the_model_say_it() {
    for family in FAMILIES {
        let (model, tokenizer) = open(family);
        let search = TargetSearch::default().with_clamp(20.0).with_steps(40);
        let found = search.run(&model, &tokenizer, &contexts(), 2, &telling()).unwrap();
        assert!(found.likelihood < 0.8 * found.losses[0], "{family}: {:?}", found.losses);
        // A bound is a bound.
        let bounded =
            TargetSearch::default().with_clamp(0.1).run(&model, &tokenizer, &contexts(), 2, &telling()).unwrap();
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        let moved: Vec<f32> = bounded.value.iter().zip(&bounded.start).map(|(z, v)| z - v).collect();
        assert!(norm(&moved) < 0.1001 * norm(&bounded.start));
    }
}

/// Steps of one length may lead past the best place; it is not lost.
#[test]
fn a_target_is_the_best_that_was_seen() {
    let (model, tokenizer) = open("llama");
    for descent in [Descent::Steepest { step: 2.0 }, Descent::Steepest { step: 0.1 }, Descent::Adam { rate: 5.0 }] {
        let search = TargetSearch::default().with_descent(descent).with_clamp(20.0).with_enough(0.0).with_margin(0.0);
        let found = |steps| search.with_steps(steps).run(&model, &tokenizer, &contexts(), 2, &telling()).unwrap();
        let runs: Vec<_> = (1..=12).map(found).collect();
        for (fewer, more) in runs.iter().zip(&runs[1..]) {
            assert!(more.likelihood <= fewer.likelihood, "{descent:?}");
            assert!(more.likelihood < fewer.likelihood || more.value == fewer.value, "{descent:?}");
        }
        assert!(runs[11].likelihood < runs[0].likelihood, "{descent:?}");
        // The first step from zero is as long as it is said to be.
        let moved: f32 = runs[1].value.iter().zip(&runs[1].start).map(|(z, v)| (z - v).powi(2)).sum();
        let size: f32 = runs[1].start.iter().map(|v| v * v).sum();
        if let (Descent::Steepest { step }, true) = (descent, moved > 0.0) {
            assert!((f64::from((moved / size).sqrt()) / step - 1.0).abs() < 1e-3, "{descent:?}");
        }
    }
    for (descent, name) in [(Descent::Steepest { step: 0.0 }, "step"), (Descent::Adam { rate: f64::NAN }, "rate")] {
        let search = TargetSearch::default().with_descent(descent);
        let refused = search.run(&model, &tokenizer, &contexts(), 2, &telling());
        assert!(
            matches!(refused, Err(Error::Numerics(NumericsError::Parameter { parameter, .. })) if parameter == name),
            "{descent:?}"
        );
    }
}

/// The margin lengthens what was found, and does not change the search nor leave the bound.
#[test]
fn a_margin_lengthens_what_was_found_within_the_bound() {
    let (model, tokenizer) = open("llama");
    let found = |margin, clamp| {
        let search = TargetSearch::default().with_steps(5).with_clamp(clamp).with_margin(margin);
        search.run(&model, &tokenizer, &contexts(), 2, &telling()).unwrap()
    };
    let share = |target: &Target| {
        let moved: f32 = target.value.iter().zip(&target.start).map(|(z, v)| (z - v).powi(2)).sum();
        (moved / target.start.iter().map(|v| v * v).sum::<f32>()).sqrt()
    };
    let (plain, longer, bound) = (found(0.0, 20.0), found(0.5, 20.0), found(1e6, 0.3));
    assert!(share(&plain) > 0.0 && plain.losses == longer.losses && plain.likelihood == longer.likelihood);
    for (long, (short, v)) in longer.value.iter().zip(plain.value.iter().zip(&plain.start)) {
        assert!((long - v - 1.5 * (short - v)).abs() < 1e-5, "{long} {short} {v}");
    }
    assert!((share(&bound) - 0.3).abs() < 1e-4, "{}", share(&bound));
}

/// A search reads the first of the texts, so many as it is told.
#[test]
fn a_target_is_sought_behind_some_of_the_texts() {
    let (model, tokenizer) = open("llama");
    let all = Contexts::new(["One day", "In the end", "Who knows"].map(String::from).to_vec());
    let search = TargetSearch::default().with_steps(4);
    let found = |contexts: &Contexts, count: usize| {
        search.with_contexts(count).run(&model, &tokenizer, contexts, 1, &telling()).unwrap()
    };
    for count in [0, 1, 2, 3] {
        let first = Contexts::new(all.prefixes()[..count].to_vec());
        assert_eq!(found(&all, count), found(&first, usize::MAX), "{count}");
        assert!(count == 0 || found(&all, count) != found(&all, count - 1), "{count}");
    }
    assert_eq!(search.contexts, 3);
}

/// An aside stands behind the first text, after the subject, where a word follows it; nowhere else.
#[test]
fn a_target_is_sought_with_an_aside_behind_the_first_text() {
    let (model, tokenizer) = open("llama");
    let contexts = Contexts::new(vec!["One day".into(), "In the end".into()]);
    let found = |request: &Request, wording: Wording, count: usize| {
        let search = TargetSearch::default().with_steps(4).with_wording(wording).with_contexts(count);
        search.run(&model, &tokenizer, &contexts, 1, request).unwrap()
    };
    let (given, aside) = (Wording::AsGiven, Wording::Aside);
    let request = |prompt: &str| Request::new(telling().subject(), prompt, telling().target()).unwrap();
    let plain = request("{} lives in");
    assert_eq!(found(&plain, aside, 0), found(&plain, given, 0));
    for count in [1, 2] {
        assert_ne!(found(&plain, aside, count), found(&plain, given, count));
        for prompt in ["The home of {}", "{}'s home is", "Home of {}: "] {
            assert_eq!(found(&request(prompt), aside, count), found(&request(prompt), given, count), "{prompt}");
        }
    }
    assert_eq!(TargetSearch::default().wording, aside);
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
        let target = search.run(adapter.model(), adapter.tokenizer(), &contexts(), 2, &requests[0]).unwrap();
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
fn targets_are_sought_on_the_model_before_the_batch() {
    let (model, tokenizer) = open("mistral");
    let mut adapter =
        ModelAdapter::new(model, tokenizer, vec![0, 2], contexts(), TargetSearch::default().with_steps(3)).unwrap();
    let requests = [request()];
    let first = adapter.residuals(0, &requests).unwrap();
    assert_eq!(adapter.residuals(2, &requests).unwrap(), first, "no layer has changed");
    let (rows, cols) = adapter.weight_shape(0).unwrap();
    let update = Update::from_factors(Mat::from_fn(rows, 1, |i, _| 0.02 * (i as f32).cos()), Mat::full(1, cols, 1.0));
    adapter.residuals(0, &requests).unwrap();
    adapter.apply(0, &update.unwrap()).unwrap();
    let within = adapter.residuals(2, &requests).unwrap();
    let anew = {
        adapter.keys(0, &requests).unwrap();
        adapter.residuals(2, &requests).unwrap()
    };
    assert!((&within - &first).norm_l2() > 1e-3 * first.norm_l2(), "the output has moved");
    assert!((&anew - &within).norm_l2() > 1e-3 * first.norm_l2(), "and in a new batch the target, too");
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
        let (sum, whole) = (sum.mean(Par::Seq), whole.moments()[&layer].mean(Par::Seq));
        assert!((&sum - &whole).norm_l2() < 1e-6 * whole.norm_l2());
    }
    // The moment is that of the keys.
    let tokens = tokenizer.encode("A second text.").unwrap();
    let keys = &model.trace(&tokens).unwrap().keys[3];
    let mut one = Collector::new(&model, &tokenizer, &[3]).unwrap();
    one.read(["A second text."], u64::MAX, |_| ControlFlow::Continue(())).unwrap();
    let expected = (keys * keys.transpose()) * Scale(1.0 / tokens.len() as f32);
    let found = one.moments()[&3].mean(Par::Seq);
    let error = (0..found.nrows()).map(|i| (found[(i, i)] - f64::from(expected[(i, i)])).abs()).fold(0.0, f64::max);
    assert!(error < 1e-5 * f64::from(expected.norm_max()), "{error}");
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
    assert!(matches!(adapter(vec![]), Err(Error::Numerics(NumericsError::Empty { argument: "layers" }))));
    assert!(matches!(adapter(vec![1, 4]), Err(Error::Model(ModelError::UnknownLayer { layer: 4, .. }))));
    assert!(matches!(adapter(vec![2, 1]), Err(Error::Numerics(NumericsError::Parameter { parameter: "layers", .. }))));
    let mut adapter = adapter(vec![1]).unwrap();
    assert!(matches!(adapter.keys(2, &[request()]), Err(Error::Model(ModelError::UnknownLayer { layer: 2, .. }))));
    assert!(matches!(adapter.keys(1, &[]), Err(Error::Numerics(NumericsError::Empty { argument: "requests" }))));
    let long = Request::new("Paris", format!("{} {{}} is", "very ".repeat(200)), "Spain").unwrap();
    assert!(matches!(
        adapter.keys(1, &[long]),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "number of tokens", .. }))
    ));
    assert!(matches!(
        model.trace(&[1, 384]),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "token", .. }))
    ));
    assert!(matches!(model.trace(&[]), Err(Error::Numerics(NumericsError::Empty { argument: "tokens" }))));
    let wrong = Mat::<f32>::zeros(3, 3);
    assert!(matches!(
        adapter.write_weight(1, wrong.as_ref()),
        Err(Error::Numerics(NumericsError::Shape { argument: "weight", .. }))
    ));
    let settings = TargetSearch::default().with_steps(0);
    let found = settings.run(&model, &tokenizer, &contexts(), 1, &request());
    assert!(matches!(found, Err(Error::Numerics(NumericsError::Parameter { parameter: "steps", .. }))));
}

/// A file whose weights are those of a directory.
pub fn gguf(family: &str, architecture: &str, path: &std::path::Path) {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{Device, Tensor};
    use gguf_file::Value;

    let bytes = std::fs::read(data().join(family).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data().join(family).join("config.json")).unwrap()).unwrap();
    let size = |name: &str| config[name].as_u64().map(|n| n as usize);
    let (heads, kv_heads) = (size("num_attention_heads").unwrap(), size("num_key_value_heads").unwrap());
    let mut tensors = vec![];
    for (name, view) in file.tensors() {
        let name = names.iter().fold(name, |name, (from, to)| name.replace(from, to));
        let numbers: Vec<f32> = view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let mut tensor = Tensor::from_vec(numbers, view.shape(), &Device::Cpu).unwrap();
        let turned = if name.contains("attn_q.") { Some(heads) } else { name.contains("attn_k.").then_some(kv_heads) };
        if let (Some(heads), "llama") = (turned, family) {
            // As the converter of llama.cpp does it: halves to interleaved pairs.
            let (rows, cols) = tensor.dims2().unwrap();
            let split = tensor.reshape((heads, 2, rows / heads / 2, cols)).unwrap();
            tensor = split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, cols)).unwrap();
        }
        tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    }
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data().join("tokenizer.json")).unwrap()).unwrap();
    let mut tokens: Vec<(&String, u64)> =
        tokenizer["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t, id.as_u64().unwrap())).collect();
    tokens.sort_by_key(|(_, id)| *id);
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        serde_json::Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let u32_of = |name: &str| Value::U32(size(name).unwrap() as u32);
    let theta = config["rope_parameters"]["rope_theta"].as_f64().unwrap() as f32;
    let strings = |strings: Vec<String>| Value::Array(strings.into_iter().map(Value::String).collect());
    let head_dim = size("head_dim").unwrap_or(size("hidden_size").unwrap() / heads);
    let metadata = [
        ("general.architecture".to_owned(), Value::String(architecture.into())),
        (format!("{architecture}.block_count"), u32_of("num_hidden_layers")),
        (format!("{architecture}.context_length"), u32_of("max_position_embeddings")),
        (format!("{architecture}.embedding_length"), u32_of("hidden_size")),
        (format!("{architecture}.feed_forward_length"), u32_of("intermediate_size")),
        (format!("{architecture}.attention.head_count"), u32_of("num_attention_heads")),
        (format!("{architecture}.attention.head_count_kv"), u32_of("num_key_value_heads")),
        (format!("{architecture}.attention.key_length"), Value::U32(head_dim as u32)),
        (format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(1e-6)),
        (format!("{architecture}.rope.freq_base"), Value::F32(theta)),
        ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".into())),
        ("tokenizer.ggml.pre".to_owned(), Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens".to_owned(), strings(tokens.iter().map(|(t, _)| (*t).clone()).collect())),
        ("tokenizer.ggml.merges".to_owned(), strings(merges.collect())),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(0)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (&**name, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

#[test]
fn a_gguf_file_is_the_same_model() {
    for family in ["llama", "qwen2", "qwen3"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        gguf(family, family, &path);
        let (model, tokenizer): (Model, Tokenizer) = Model::open(&path, Par::Seq).unwrap();
        let expected = Expected::of(family);
        let tokens = tokenizer.with_start(None).encode(expected.facts["prompt"].as_str().unwrap()).unwrap();
        assert_eq!(tokens, expected.tokens, "{family}");
        expected.assert_near("logits", model.trace(&tokens).unwrap().logits.as_ref());
        // A damaged file is refused.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
        assert!(matches!(Model::open(&path, Par::Seq), Err(Error::File(FileError::Format { .. }))));
    }
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
    use betaedit_core::session::{Session, SessionBuilder};

    let (model, tokenizer) = open("qwen3");
    let layers = [1, 2];
    let mut collector = Collector::new(&model, &tokenizer, &layers).unwrap();
    let text = std::fs::read_to_string(data().join("../README.md")).unwrap();
    collector.read([&text], 2_000, |_| ControlFlow::Continue(())).unwrap();
    let recipe = Memit::default().with_lambda(1.0).with_ridge(1e-3).with_history(History::Absorbed).recipe();
    let mut builder = SessionBuilder::new(NamedRecipe::new("memit-h", recipe));
    for (layer, moment) in collector.into_moments() {
        let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq).unwrap());
        builder = builder.layer(layer, Arc::new(moment), spectrum);
    }
    let search = TargetSearch::default().with_clamp(20.0);
    let adapter = ModelAdapter::new(model.clone(), tokenizer, layers.into(), contexts(), search).unwrap();
    let mut session = builder.open(adapter, Par::Seq).unwrap();
    let tokens = Expected::of("qwen3").tokens;
    let logits = |session: &Session<ModelAdapter>| session.adapter().model().trace(&tokens).unwrap().logits;
    let before = logits(&session);
    session.edit(&[telling()]).unwrap();
    let edited = (logits(&session) - &before).norm_l2();
    session.undo(&[0.into()]).unwrap();
    let undone = (logits(&session) - &before).norm_l2();
    assert!(edited > 1e-3 * before.norm_l2(), "the edit is felt: {edited}");
    assert!(undone < 1e-3 * edited, "{undone} after {edited}");
}
