//! Fine-tuning of one matrix and of low-rank changes, on small models.

use betaedit_core::error::{ModelError, NumericsError};
use betaedit_core::faer::Mat;
use betaedit_core::llm::{Contexts, FineTuning, LowRankTuning, Model, ModelAdapter, Request, Supervision, Tokenizer};
use betaedit_core::{Adapter, Error};

use crate::llm_models::{FAMILIES, open, search};

const LAYER: usize = 1;

fn requests() -> Vec<Request> {
    let request = |subject: &str, prompt: &str, target: &str| Request::new(subject, prompt, target).unwrap();
    vec![
        request("Eiffel Tower", "The {} is located in the city of", "Tokyo"),
        request("Danube", "A river is the {}, which flows through", "London"),
    ]
}

fn tuning() -> FineTuning {
    let mut tuning = FineTuning::default();
    tuning.supervision = Supervision::Target;
    tuning
}

/// The mean `-log p` of the targets, asked for in another way.
fn loss(model: &Model, tokenizer: &Tokenizer) -> f32 {
    let mean = |request: &Request| {
        let (prompt, text) = (request.text(), format!("{} {}", request.text(), request.target()));
        let (prompt, tokens) = (tokenizer.encode(&prompt).unwrap(), tokenizer.encode(&text).unwrap());
        let found = model.score_continuations(&[(&tokens, prompt.len())]).unwrap().swap_remove(0).log_probabilities;
        -found.iter().sum::<f32>() / found.len() as f32
    };
    let requests = requests();
    requests.iter().map(mean).sum::<f32>() / requests.len() as f32
}

/// The edited matrix of a layer.
fn weight(model: &Model, tokenizer: &Tokenizer, layer: usize) -> Mat<f32> {
    let (model, tokenizer, contexts) = (model.clone(), tokenizer.clone(), Contexts::default());
    let search = search(&model);
    let adapter = ModelAdapter::new(model, tokenizer, vec![layer], contexts, search).unwrap();
    let (rows, cols) = adapter.weight_shape(layer).unwrap();
    let mut weight = Mat::zeros(rows, cols);
    adapter.read_weight(layer, weight.as_mut()).unwrap();
    weight
}

fn with_weight(model: &Model, tokenizer: &Tokenizer, weight: &Mat<f32>) -> Model {
    let (model, tokenizer, contexts) = (model.clone(), tokenizer.clone(), Contexts::default());
    let search = search(&model);
    let mut adapter = ModelAdapter::new(model, tokenizer, vec![LAYER], contexts, search).unwrap();
    adapter.write_weight(LAYER, weight.as_ref()).unwrap();
    adapter.model().clone()
}

/// The first step of Adam goes by the sign of the gradient: that of the loss's differences, wherever these can be told from
/// rounding.
#[test]
fn one_step_goes_down_the_slope_of_every_entry() {
    for family in ["llama", "gptj", "gemma2"] {
        let (model, tokenizer) = open(family);
        let (mut tuned, mut tuning) = (model.clone(), tuning());
        tuning.steps = 1;
        tuning.learning_rate = 1e-4;
        tuning.run(&mut tuned, &tokenizer, LAYER, &requests()).unwrap();
        let (before, after) = (weight(&model, &tokenizer, LAYER), weight(&tuned, &tokenizer, LAYER));
        let (rows, cols) = before.shape();
        let mut told = 0;
        for at in 0..40 {
            let (i, j, h) = ((7 * at) % rows, (13 * at) % cols, 0.3);
            let moved = |h: f32| {
                let mut moved = before.clone();
                moved[(i, j)] += h;
                loss(&with_weight(&model, &tokenizer, &moved), &tokenizer)
            };
            let slope = (moved(h) - moved(-h)) / (2.0 * h);
            if slope.abs() > 2e-4 {
                let step = after[(i, j)] - before[(i, j)];
                assert!((step + 1e-4 * slope.signum()).abs() < 2e-6, "{family} ({i}, {j}): {step:e} for {slope:e}");
                told += 1;
            }
        }
        assert!(told > 10, "{family}: {told}");
        assert_eq!(weight(&tuned, &tokenizer, LAYER + 1), weight(&model, &tokenizer, LAYER + 1));
    }
}

#[test]
fn fine_tuning_makes_the_model_say_it_within_its_bound() {
    for family in FAMILIES {
        let (model, tokenizer) = open(family);
        let before = weight(&model, &tokenizer, LAYER);
        let mut tuning = tuning();
        (tuning.learning_rate, tuning.steps, tuning.bound) = (1e-2, 60, None);
        let mut tuned = model.clone();
        let found = tuning.run(&mut tuned, &tokenizer, LAYER, &requests()).unwrap();
        assert!((found.losses[0] - loss(&model, &tokenizer)).abs() < 1e-4, "{family}");
        let last = found.losses[found.losses.len() - 1];
        assert!((last - loss(&tuned, &tokenizer)).abs() < 1e-4 && last < 0.5 * found.losses[0], "{family}: {found:?}");

        // At the prompt's last token, within a box.
        (tuning.bound, tuning.supervision) = (Some(5e-3), Supervision::PromptLast);
        let mut tuned = model.clone();
        let found = tuning.run(&mut tuned, &tokenizer, LAYER, &requests()).unwrap();
        assert!(found.losses[found.losses.len() - 1] < found.losses[0], "{family}");
        let largest = (weight(&tuned, &tokenizer, LAYER) - before).norm_max();
        assert!(largest > 4.9e-3 && largest < 5.001e-3, "{family}: {largest}");
    }
}

#[test]
fn low_rank_tuning_makes_the_model_say_it() {
    for family in FAMILIES {
        let (model, tokenizer) = open(family);
        let mut tuning = LowRankTuning::default();
        (tuning.steps, tuning.enough) = (40, 0.5);
        let mut tuned = model.clone();
        let found = tuning.run(&mut tuned, &tokenizer, &requests()).unwrap();
        assert!((found.losses[0] - loss(&model, &tokenizer)).abs() < 1e-4, "{family}: B starts at zero");
        let last = found.losses[found.losses.len() - 1];
        assert!(last < 0.8 * found.losses[0], "{family}: {found:?}");
        // What was learned is in the matrices.
        assert!((last - loss(&tuned, &tokenizer)).abs() < 1e-3, "{family}: {last} and {}", loss(&tuned, &tokenizer));
        assert_eq!(weight(&tuned, &tokenizer, LAYER), weight(&model, &tokenizer, LAYER));
        let mut again = model.clone();
        assert_eq!(tuning.run(&mut again, &tokenizer, &requests()).unwrap(), found, "equal seeds, equal numbers");
    }
}

#[test]
fn what_cannot_be_tuned_is_refused_and_changes_nothing() {
    let (model, tokenizer) = open("llama");
    let mut tuned = model.clone();
    assert!(matches!(
        tuning().run(&mut tuned, &tokenizer, 9, &requests()),
        Err(Error::Model(ModelError::UnknownLayer { .. }))
    ));
    assert!(matches!(tuning().run(&mut tuned, &tokenizer, 1, &[]), Err(Error::Numerics(NumericsError::Empty { .. }))));
    let settings: [fn(&mut FineTuning); 4] = [
        |tuning| tuning.learning_rate = f64::NAN,
        |tuning| tuning.steps = 0,
        |tuning| tuning.enough = -1.0,
        |tuning| tuning.bound = Some(0.0),
    ];
    for wrong in settings {
        let mut tuning = tuning();
        wrong(&mut tuning);
        let refused = tuning.run(&mut tuned, &tokenizer, 1, &requests());
        assert!(matches!(refused, Err(Error::Numerics(NumericsError::Parameter { .. }))), "{tuning:?}");
    }
    let mut low_rank = LowRankTuning::default();
    low_rank.rank = 0;
    assert!(matches!(
        low_rank.run(&mut tuned, &tokenizer, &requests()),
        Err(Error::Numerics(NumericsError::Parameter { .. }))
    ));
    // Beyond the range of f32.
    (low_rank.rank, low_rank.learning_rate, low_rank.alpha) = (2, 1e30, 1e30);
    assert!(low_rank.run(&mut tuned, &tokenizer, &requests()).is_err());
    let tokens = tokenizer.encode("The Eiffel Tower").unwrap();
    assert_eq!(tuned.trace(&tokens).unwrap().logits, model.trace(&tokens).unwrap().logits);
}
