//! Targets that are sought together.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use betaedit_core::error::{ModelError, NumericsError};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::llm::{
    AdapterStep, Descent, Model, ModelAdapter, Request, Site, Surroundings, TargetSearch, Tokenizer,
};
use betaedit_core::{Adapter, Error, Update};

use crate::llm_editing::{contexts, request, telling};
use crate::llm_models::{FAMILIES, NORM_BEHIND_MLP, directory, open, search};

/// Requests of different lengths.
fn requests() -> Vec<Request> {
    let more = [
        ("The tower", "{} is in", "Tokyo"),
        ("Paris", "In the city of {} one says that the tower is", "Tokyo"),
        ("Tokyo", "{}", "Paris"),
        ("city", "The {} is the", "tower of Paris"),
    ];
    let more = more.map(|(subject, prompt, target)| Request::new(subject, prompt, target).unwrap());
    [request(), telling()].into_iter().chain(more).collect()
}

fn adapter((model, tokenizer): (Model, Tokenizer), search: TargetSearch) -> ModelAdapter {
    ModelAdapter::new(model, tokenizer, vec![2], Surroundings::new(contexts()), search).unwrap()
}

fn norm(x: impl Iterator<Item = f32>) -> f32 {
    x.map(|x| x * x).sum::<f32>().sqrt()
}

/// With its own course and its own end, each in every family, at every site and by every descent, on one thread and on more.
#[test]
fn targets_of_many_are_those_of_each_alone() {
    for family in FAMILIES {
        for (site, descent) in [
            (Site::Block, Descent::default()),
            (Site::Mlp, Descent::Adam { rate: 0.5 }),
            (Site::MlpAndAttention, Descent::default()),
        ] {
            if site == Site::Block && NORM_BEHIND_MLP.contains(&family) {
                continue;
            }
            let alone = open(family);
            let search = search(&alone.0).with_site(site).with_descent(descent).with_steps(6).with_clamp(3.0);
            let found = |request: Request| {
                let target = search.run(&alone.0, &alone.1, Surroundings::new(contexts()), 2, &request).unwrap();
                // An adapter refuses requests for which nothing is found.
                (target.value != target.start).then_some((request, target))
            };
            let (requests, expected): (Vec<_>, Vec<_>) = requests().into_iter().filter_map(found).unzip();
            assert!(requests.len() > 1, "{family}, {site}");
            for par in [Par::Seq, Par::rayon(2), Par::rayon(4)] {
                let mut adapter = adapter(Model::open(directory(family).path(), par).unwrap(), search);
                let found = adapter.find_targets(&requests).unwrap().unwrap();
                for (j, target) in expected.iter().enumerate() {
                    let moved = norm(target.value.iter().zip(&target.start).map(|(z, v)| z - v));
                    let error = norm(found.col(j).iter().zip(&target.value).map(|(z, v)| z - v));
                    assert!(error < 1e-3 * moved, "{family}, {site}, {par:?}: {j} is off by {error:e} of {moved:e}");
                }
            }
        }
    }
}

/// Equal input gives equal bits, and requests that come twice are sought once.
#[test]
fn a_batch_is_repeated_bit_for_bit() {
    let found = || {
        let opened = Model::open(directory("llama").path(), Par::rayon(2)).unwrap();
        let twice: Vec<Request> = requests().into_iter().chain(requests()).collect();
        let mut adapter = adapter(opened, TargetSearch::default().with_steps(4));
        let found = adapter.find_targets(&twice).unwrap().unwrap();
        let half = requests().len();
        assert!(found.as_ref().subcols(0, half) == found.as_ref().subcols(half, half));
        found
    };
    assert!(found() == found());
}

/// The first request without a target is named, whichever search ends first.
#[test]
fn the_first_request_without_a_target_is_named() {
    // A bound that nothing can be found within.
    let search = TargetSearch::default().with_steps(3).with_clamp(1e-9);
    let (requests, hidden) = (requests(), open("llama").0.config().hidden);
    for known in [0, 2, 5] {
        let targets = requests[..known].iter().map(|request| (request.clone(), vec![0.0; hidden])).collect();
        let mut adapter = adapter(open("llama"), search).with_targets(targets).unwrap();
        let (first, error) = adapter.prepare(&requests).unwrap_err();
        assert!(first == known && matches!(error, Error::Model(ModelError::Request { .. })), "{first}: {error}");
    }
}

/// Counts the targets that are sought.
fn counted(adapter: &mut ModelAdapter) -> Arc<Mutex<usize>> {
    let seen = Arc::new(Mutex::new(0));
    let counter = seen.clone();
    adapter.set_watch(move |step| {
        if let AdapterStep::Target { .. } = step {
            *counter.lock().unwrap() += 1;
        }
        ControlFlow::Continue(())
    });
    seen
}

/// A watch hears of each target, and can stop; what was found is kept until the model changes.
#[test]
fn a_watch_hears_of_targets_and_keys_and_can_stop() {
    let requests = requests();
    let mut adapter = adapter(open("qwen3"), TargetSearch::default().with_steps(3));
    let heard = Arc::new(Mutex::new((vec![], vec![])));
    let told = heard.clone();
    adapter.set_watch(move |step| {
        let mut told = told.lock().unwrap();
        match step {
            AdapterStep::Target { request, target, done, of } => {
                assert!(done <= of && target.iter().all(|x| x.is_finite()));
                told.0.push((request.clone(), target.to_vec()));
            }
            AdapterStep::Keys { layer, done, of } => told.1.push((layer, done, of)),
            _ => {}
        }
        if told.0.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let (_, stopped) = adapter.prepare(&requests).unwrap_err();
    assert!(matches!(stopped, Error::Numerics(NumericsError::Cancelled)), "{stopped}");
    let (found, keys) = std::mem::take(&mut *heard.lock().unwrap());
    assert_eq!((found.len(), keys.last().copied()), (2, Some((2, requests.len(), requests.len()))));

    // An interrupted run goes on in another adapter, and finds what it would have found.
    let whole = self::adapter(open("qwen3"), TargetSearch::default().with_steps(3)).find_targets(&requests).unwrap();
    let mut resumed = self::adapter(open("qwen3"), TargetSearch::default().with_steps(3));
    resumed.resume_with(found.into_iter().collect()).unwrap();
    assert!(resumed.find_targets(&requests).unwrap() == whole);
    // All are there: none is sought.
    let seen = counted(&mut resumed);
    assert!(resumed.find_targets(&requests).unwrap() == whole && *seen.lock().unwrap() == 0);
    assert!(resumed.resume_with([(request(), vec![f32::NAN; 3])].into()).is_err());
    // A change of the model makes them those of another model.
    let (d_out, d_in) = resumed.weight_shape(2).unwrap();
    resumed.apply(2, &Update::from_factors(Mat::full(d_out, 1, 0.1), Mat::full(1, d_in, 0.1)).unwrap()).unwrap();
    assert!(resumed.find_targets(&requests).unwrap() != whole && *seen.lock().unwrap() == requests.len());
}

/// Targets that are sought ahead outlive changes of the model, and those of other requests do not stand in their way.
#[test]
fn targets_sought_ahead_are_those_of_the_model_before() {
    let requests = requests();
    let mut adapter = adapter(open("llama"), TargetSearch::default().with_steps(3));
    let before = adapter.find_targets(&requests).unwrap().unwrap();
    // One that has no target is passed over.
    let long = Request::new("Eiffel Tower", format!("{}{{}} is in", "The city. ".repeat(300)), "Tokyo").unwrap();
    let ahead: Vec<Request> =
        requests[..2].iter().cloned().chain([long]).chain(requests[2..4].iter().cloned()).collect();
    adapter.look_ahead(&ahead).unwrap();
    let (d_out, d_in) = adapter.weight_shape(2).unwrap();
    let change = Update::from_factors(Mat::full(d_out, 1, 0.1), Mat::full(1, d_in, 0.1)).unwrap();
    adapter.apply(2, &change).unwrap();
    let after = adapter.find_targets(&requests).unwrap().unwrap();
    for j in 0..requests.len() {
        assert_eq!(after.col(j) == before.col(j), j < 4, "{j}");
    }
    // The next ones replace them.
    adapter.look_ahead(&requests[4..]).unwrap();
    assert!(adapter.find_targets(&requests[..1]).unwrap().unwrap().col(0) != before.col(0));
}
