//! The search for targets, and the gradients that it goes by.

use std::ops::ControlFlow;

use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::llm::{
    Anchor, Contexts, Descent, GradientCollector, ModelAdapter, Request, Sensitivity, Site, Steered, Steering, Target,
    TargetSearch, Wording,
};
use betaedit_core::{Adapter, Error, SecondMoment, Update};

use crate::llm_editing::{contexts, request, telling};
use crate::llm_models::{Expected, FAMILIES, NORM_BEHIND_MLP, open, search};

#[test]
fn the_gradient_by_a_vector_added_to_a_block_is_that_of_transformers() {
    for family in FAMILIES {
        let (model, _) = open(family);
        let expected = Expected::of(family);
        let facts = &expected.facts;
        let number = |name: &str| usize::try_from(facts[name].as_u64().unwrap()).unwrap();
        let mut tokens = expected.tokens.clone();
        tokens.push(u32::try_from(number("target_id")).unwrap());
        let positions = [number("subject_last_position")];
        let one = Steered::new(&tokens, &positions, tokens.len() - 1);
        // In front of a norm behind the MLP, if there is one.
        let site = if facts["site"] == "mlp" { Site::Mlp } else { Site::Block };
        assert_eq!(site, search(&model).site, "{family}");
        let steering = Steering::new(&model, number("delta_block"), site, &[one], None).unwrap();
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
    let sequences = [Steered::new(&a, &[3], a.len() - 2), Steered::new(&b, &[5], b.len() - 1)];
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
        let search = search(&model);
        let longer = search.with_clamp(20.0).with_steps(40);
        let found = longer.run(&model, &tokenizer, contexts(), 2, &telling()).unwrap();
        // A norm behind the MLP bounds what the MLP can add.
        let enough = if NORM_BEHIND_MLP.contains(&family) { 0.9 } else { 0.8 };
        assert!(found.likelihood < enough * found.losses[0], "{family}: {:?}", found.losses);
        // A bound is a bound.
        let bounded = search.with_clamp(0.1).run(&model, &tokenizer, contexts(), 2, &telling()).unwrap();
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
        let found = |steps| search.with_steps(steps).run(&model, &tokenizer, contexts(), 2, &telling()).unwrap();
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
        let refused = search.run(&model, &tokenizer, contexts(), 2, &telling());
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
        search.run(&model, &tokenizer, contexts(), 2, &telling()).unwrap()
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
    assert_eq!(search.contexts, 1);
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

/// A column of the collected gradients is the gradient by a vector that is added at that token.
#[test]
fn collected_gradients_are_those_of_the_tokens_behind() {
    for family in ["llama", "gpt2", "gptj"] {
        let (model, tokenizer) = open(family);
        let text = "The tower of Paris is in Tokyo, they say.";
        let tokens = tokenizer.encode(text).unwrap();
        let (layers, hidden) = ([0, 2], model.config().hidden);
        let mut collector = GradientCollector::new(&model, &tokenizer, &layers).unwrap();
        collector.read([text], 1_000, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(collector.tokens(), tokens.len() as u64 - 1);
        for layer in layers {
            let mut expected = SecondMoment::new(hidden);
            for position in 0..tokens.len() - 1 {
                let positions = [position];
                let one = Steered::new(&tokens, &positions, position + 1);
                let steering = Steering::new(&model, layer, Site::Block, &[one], None).unwrap();
                let mean = steering.evaluate(&vec![0.0; hidden]).unwrap().gradient().unwrap();
                let behind = (tokens.len() - 1 - position) as f32;
                expected.observe(Mat::from_fn(hidden, 1, |i, _| behind * mean[i]).as_ref(), Par::Seq).unwrap();
            }
            let [found, expected] =
                [&collector.moments()[&layer], &expected].map(|moment| moment.to_mean(Par::Seq).unwrap());
            let error = (&found - &expected).norm_l2() / expected.norm_l2();
            assert!(error < 1e-4, "{family}, layer {layer}: {error}");
        }
        // In chats there is no template here.
        assert!(GradientCollector::new(&model, &tokenizer, &[9]).is_err());
        assert!(GradientCollector::new(&model, &tokenizer, &[]).is_err());
    }
}

#[test]
fn a_search_turns_away_from_where_the_model_is_sensitive() {
    let (model, tokenizer) = open("llama");
    let text = std::fs::read_to_string(crate::llm_models::data().join("../README.md")).unwrap();
    let mut collector = GradientCollector::new(&model, &tokenizer, &[2]).unwrap();
    collector.read([&text], collector.enough(), |_| ControlFlow::Continue(())).unwrap();
    let gradients = &collector.moments()[&2];
    let G = gradients.to_mean(Par::Seq).unwrap();
    let search = TargetSearch::default().with_clamp(20.0).with_steps(40).with_decay(0.0).with_divergence(0.0);
    let run = |search: TargetSearch, exponent: Option<f64>| {
        let sensitivity = exponent.map(|exponent| Sensitivity::new(gradients, exponent, Par::Seq).unwrap());
        search.run_within(&model, &tokenizer, contexts(), 2, &telling(), sensitivity.as_ref()).unwrap()
    };
    // Half of the way that a plain search gets.
    let far = run(search, None);
    let search = search.with_enough(f64::from(far.losses[0] + far.likelihood) / 2.0);
    let cost = |exponent: Option<f64>| {
        let found = run(search, exponent);
        assert!(f64::from(found.likelihood) < search.enough, "{exponent:?}: {}", found.likelihood);
        let delta = Mat::from_fn(found.value.len(), 1, |i, _| f64::from(found.value[i] - found.start[i]));
        (delta.transpose() * &G * &delta)[(0, 0)]
    };
    let [plain, zero, half] = [None, Some(0.0), Some(0.5)].map(cost);
    assert!((plain - zero).abs() < 1e-3 * plain, "{plain} {zero}");
    assert!(half < 0.95 * plain, "{half} {plain}");

    // The other descent does not look.
    let adam = search.with_descent(Descent::Adam { rate: 0.5 }).with_steps(3);
    let sensitivity = Sensitivity::new(gradients, 0.5, Par::Seq).unwrap();
    let run = |sensitivity| adam.run_within(&model, &tokenizer, contexts(), 2, &telling(), sensitivity).unwrap().value;
    assert_eq!(run(None), run(Some(&sensitivity)));

    let small = Sensitivity::new(&small_moment(), 0.5, Par::Seq).unwrap();
    assert!(search.run_within(&model, &tokenizer, contexts(), 2, &telling(), Some(&small)).is_err());
    let adapter = ModelAdapter::new(model, tokenizer, vec![1, 2], contexts(), search).unwrap();
    assert!(adapter.with_sensitivity(small).is_err());
}

fn small_moment() -> SecondMoment {
    let mut moment = SecondMoment::new(3);
    moment.observe(Mat::<f64>::identity(3, 3).as_ref(), Par::Seq).unwrap();
    moment
}
