//! Vectors at the outputs of a block, of its MLP and of its attention, and targets there, on small models.

use betaedit_core::error::{ModelError, NumericsError};
use betaedit_core::faer::{Mat, Par, Scale};
use betaedit_core::llm::{
    Anchor, Contexts, Descent, Model, ModelAdapter, Request, Site, Steered, Steering, TargetSearch, Tokenizer, Wording,
};
use betaedit_core::{Adapter, Error, Update};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::llm_models::{self, FAMILIES, NORM_BEHIND_MLP, PARALLEL, open, search};

const LAYER: usize = 1;

fn request() -> Request {
    Request::new("Eiffel Tower", "What stands in the city is the {}", "Tokyo").unwrap()
}

fn norm(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

fn wave(n: usize, size: f32, phase: f32) -> Vec<f32> {
    (0..n).map(|i| size * (phase + 1.3 * i as f32).sin()).collect()
}

/// What is steered in most tests: two sequences and an anchor.
struct Texts([Vec<u32>; 3]);

impl Texts {
    fn new(tokenizer: &Tokenizer) -> Self {
        let texts = ["The tower of Paris is in Tokyo", "I see. The tower is in Tokyo", "tower is a"];
        Self(texts.map(|text| tokenizer.encode(text).unwrap()))
    }

    fn steering<'a>(&'a self, model: &'a Model, site: Site) -> Steering<'a> {
        let [a, b, anchor] = &self.0;
        let sequences = [Steered::new(a, &[3], a.len() - 2), Steered::new(b, &[5], b.len() - 1)];
        let anchor = Anchor { tokens: anchor, position: 1, weight: 0.7 };
        Steering::new(model, LAYER, site, &sequences, Some(anchor)).unwrap()
    }
}

/// A model in which some tensors of the file are others.
fn with_tensors(family: &str, changed: &[(&str, &dyn Fn(usize) -> f32)]) -> (Model, Tokenizer) {
    let directory = llm_models::directory(family);
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = (file.tensors().into_iter())
        .map(|(name, view)| {
            let numbers = view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
            (name, view.shape().to_vec(), numbers)
        })
        .collect();
    for (name, value) in changed {
        let (_, _, numbers) = tensors.iter_mut().find(|(there, ..)| there.ends_with(name)).unwrap();
        numbers.iter_mut().enumerate().for_each(|(i, x)| *x = value(i));
    }
    let bytes = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, _, numbers)| bytes(numbers)).collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), data)| {
        (name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    Model::open(directory.path(), Par::Seq).unwrap()
}

/// The numbers of a tensor of the file.
fn tensor(family: &str, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(llm_models::data().join(family).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, view) = file.tensors().into_iter().find(|(there, _)| there.ends_with(name)).unwrap();
    view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

/// Against differences of the loss itself, along either vector and along both, away from zero.
#[test]
fn the_gradient_by_both_vectors_is_the_slope_of_the_loss() {
    for family in FAMILIES {
        let (model, tokenizer) = open(family);
        let (texts, n) = (Texts::new(&tokenizer), model.config().hidden);
        let steering = texts.steering(&model, Site::MlpAndAttention);
        let from = [wave(n, 0.3, 0.0), wave(n, 0.2, 1.0)].concat();
        let found = steering.evaluate(&from).unwrap();
        for (mlp, attention) in [(1.0, 0.0), (0.0, 1.0), (0.7, -0.7)] {
            let way = [wave(n, mlp, 2.0), wave(n, attention, 0.5)].concat();
            let loss = |t: f32| {
                let at: Vec<f32> = from.iter().zip(&way).map(|(x, d)| x + t * d).collect();
                let found = steering.evaluate(&at).unwrap();
                f64::from(found.likelihood) + f64::from(found.divergence)
            };
            let slope: f64 = found.gradient().unwrap().iter().zip(&way).map(|(g, d)| f64::from(g * d)).sum();
            let h = 1e-2;
            let difference = (loss(h) - loss(-h)) / (2.0 * f64::from(h));
            let error = (slope - difference).abs();
            assert!(error < 2e-3 * slope.abs().max(0.1), "{family} ({mlp}, {attention}): {slope} for {difference}");
        }
    }
}

/// A vector at the only token of an input is a bias: in GPT-2 both outputs have one.
#[test]
fn a_vector_is_what_a_bias_is() {
    let (model, tokenizer) = open("gpt2");
    let n = model.config().hidden;
    let tokens = tokenizer.encode("tower Tokyo").unwrap()[..2].to_vec();
    let one = Steered::new(&tokens, &[0], 1);
    let steering = Steering::new(&model, LAYER, Site::MlpAndAttention, &[one], None).unwrap();
    let (mlp, attention) = (wave(n, 0.4, 0.3), wave(n, 0.5, 1.7));
    let found = steering.evaluate(&[mlp.clone(), attention.clone()].concat()).unwrap();

    let names = ["mlp", "attn"].map(|part| format!("h.{LAYER}.{part}.c_proj.bias"));
    let [old_mlp, old_attention] = [&names[0], &names[1]].map(|name| tensor("gpt2", name));
    let (biased, _) = with_tensors(
        "gpt2",
        &[(&names[0], &|i| old_mlp[i] + mlp[i]), (&names[1], &|i| old_attention[i] + attention[i])],
    );
    let loss = |model: &Model| -model.score_continuations(&[(&tokens, 1)]).unwrap()[0].log_probabilities[0];
    assert!((found.likelihood - loss(&biased)).abs() < 1e-4, "{} for {}", found.likelihood, loss(&biased));
    assert!((loss(&biased) - loss(&model)).abs() > 0.05, "the biases are felt");
}

#[test]
fn outputs_are_those_of_the_parts() {
    for family in &FAMILIES[..7] {
        let (model, tokenizer) = open(family);
        let texts = Texts::new(&tokenizer);
        let trace = model.trace(&texts.0[0]).unwrap();
        let column = |matrix: &Mat<f32>| Mat::from_fn(matrix.nrows(), 1, |i, _| matrix[(i, 3)]);
        let adapter =
            ModelAdapter::new(model.clone(), tokenizer, vec![LAYER], Contexts::default(), TargetSearch::default());
        let (rows, cols) = adapter.as_ref().unwrap().weight_shape(LAYER).unwrap();
        let mut W = Mat::zeros(rows, cols);
        adapter.unwrap().read_weight(LAYER, W.as_mut()).unwrap();
        let mut mlp = W * column(&trace.keys[LAYER]);
        if let Some(name) = [("gpt2", "mlp.c_proj.bias"), ("gptj", "mlp.fc_out.bias")]
            .iter()
            .find_map(|(there, name)| (there == family).then_some(name))
        {
            let bias = tensor(family, &format!("h.{LAYER}.{name}"));
            mlp += Mat::from_fn(rows, 1, |i, _| bias[i]);
        }
        let block = column(&trace.block_outputs[LAYER]);
        let attention = &block - &mlp - column(&trace.block_outputs[LAYER - 1]);
        let close = |found: &[f32], expected: &Mat<f32>| {
            let found = Mat::from_fn(found.len(), 1, |i, _| found[i]);
            assert!((found - expected).norm_max() < 1e-4 * expected.norm_max(), "{family}");
        };
        close(&texts.steering(&model, Site::Block).outputs(0).unwrap(), &block);
        close(&texts.steering(&model, Site::Mlp).outputs(0).unwrap(), &mlp);
        let both = texts.steering(&model, Site::MlpAndAttention).outputs(0).unwrap();
        close(&both[..rows], &mlp);
        close(&both[rows..], &attention);
    }
}

/// Without a vector at the attention's output, and in GPT-J, say, with one as well, there is one vector.
#[test]
fn two_vectors_are_one_where_the_mlp_does_not_read_the_attention() {
    for family in FAMILIES.into_iter().filter(|family| !NORM_BEHIND_MLP.contains(family)) {
        let (model, tokenizer) = open(family);
        let (texts, n) = (Texts::new(&tokenizer), model.config().hidden);
        let [block, mlp, both] =
            [Site::Block, Site::Mlp, Site::MlpAndAttention].map(|site| texts.steering(&model, site));
        let (vector, zero) = (wave(n, 0.3, 0.4), vec![0.0; n]);
        let alone = mlp.evaluate(&vector).unwrap();
        let same = block.evaluate(&vector).unwrap();
        assert_eq!((same.likelihood, same.divergence), (alone.likelihood, alone.divergence), "{family}");
        assert_eq!(same.gradient().unwrap(), alone.gradient().unwrap(), "{family}");
        let beside = both.evaluate(&[vector.clone(), zero.clone()].concat()).unwrap();
        let near = |x: f32, y: f32| (x - y).abs() < 1e-5 * y.abs().max(1.0);
        let all_near = |x: &[f32], y: &[f32]| x.iter().zip(y).all(|(a, b)| (a - b).abs() < 1e-4 * norm(y));
        assert!(near(beside.likelihood, alone.likelihood) && near(beside.divergence, alone.divergence), "{family}");
        assert!(all_near(&beside.gradient().unwrap()[..n], &alone.gradient().unwrap()), "{family}");
        let before = both.evaluate(&[zero, vector].concat()).unwrap();
        assert_eq!(near(before.likelihood, alone.likelihood), PARALLEL.contains(&family), "{family}");
        assert_eq!(
            all_near(&beside.gradient().unwrap()[n..], &alone.gradient().unwrap()),
            PARALLEL.contains(&family),
            "{family}"
        );
    }
}

#[test]
fn two_vectors_find_what_one_does_not_within_their_bounds() {
    let descents = [Descent::Adam { rate: 0.1 }, Descent::Steepest { step: 0.02 }];
    for (family, descent) in FAMILIES.into_iter().flat_map(|family| descents.map(|descent| (family, descent))) {
        let (model, tokenizer) = open(family);
        let search = TargetSearch::default().with_descent(descent).with_steps(60);
        let run = |site| search.with_site(site).run(&model, &tokenizer, Contexts::default(), LAYER, &request());
        let (mlp, both) = (run(Site::Mlp).unwrap(), run(Site::MlpAndAttention).unwrap());
        assert!(mlp.attention.is_none() && both.start == mlp.start);
        assert!((both.losses[0] - mlp.losses[0]).abs() < 1e-5, "{family}");
        assert!(mlp.likelihood < mlp.losses[0], "{family}: {:?}", mlp.losses);
        assert!(both.likelihood < mlp.likelihood, "{family}: {} for {}", both.likelihood, mlp.likelihood);

        let text = tokenizer.encode(&format!("{} Tokyo", request().text())).unwrap();
        let position = tokenizer.encode(&request().text()).unwrap().len() - 1;
        let positions = [position];
        let one = Steered::new(&text, &positions, position + 1);
        let outputs = Steering::new(&model, LAYER, Site::MlpAndAttention, &[one], None).unwrap().outputs(0).unwrap();
        let moved: Vec<f32> = both.value.iter().zip(&both.start).map(|(z, v)| z - v).collect();
        let n = both.start.len();
        let shares = [norm(&moved) / norm(&outputs[..n]), norm(&both.attention.unwrap()) / norm(&outputs[n..])];
        assert!(shares.iter().all(|share| *share < 0.7501), "{family}: {shares:?}");
    }
}

/// An attention that puts out nothing is bound to a vector of length zero.
#[test]
fn with_the_attentions_vector_at_zero_the_search_is_one_for_the_mlp() {
    let name = format!("model.layers.{LAYER}.self_attn.o_proj.weight");
    let (model, tokenizer) = with_tensors("llama", &[(&name, &|_| 0.0)]);
    let search = TargetSearch::default().with_clamp(3.0).with_steps(12);
    let run = |site| search.with_site(site).run(&model, &tokenizer, Contexts::default(), LAYER, &request()).unwrap();
    let (mlp, both) = (run(Site::Mlp), run(Site::MlpAndAttention));
    assert_eq!(both.attention, Some(vec![0.0; model.config().hidden]));
    assert!(both.losses.len() == mlp.losses.len() && mlp.losses[11] < mlp.losses[0]);
    for (both, mlp) in both.losses.iter().zip(&mlp.losses) {
        assert!((both - mlp).abs() < 1e-3, "{both} for {mlp}");
    }
    let apart: Vec<f32> = both.value.iter().zip(&mlp.value).map(|(x, y)| x - y).collect();
    assert!(norm(&apart) < 1e-2 * norm(&mlp.value), "{}", norm(&apart));
}

/// The residual is in the space of the edited matrix: written into the last layer alone, nothing is left.
#[test]
fn residuals_are_what_the_mlp_lacks() {
    for family in ["llama", "gpt2", "gptj"] {
        let (model, tokenizer) = open(family);
        let search = TargetSearch::default().with_site(Site::MlpAndAttention).with_clamp(3.0);
        let layers = vec![LAYER, LAYER + 1];
        let last = LAYER + 1;
        let target = search.run(&model, &tokenizer, Contexts::default(), last, &request()).unwrap();
        let tokens = tokenizer.encode(&format!("{} Tokyo", request().text())).unwrap();
        let start = tokenizer.encode(&request().text()).unwrap().len();
        let mut adapter = ModelAdapter::new(model, tokenizer, layers, Contexts::default(), search).unwrap();
        let loss = |adapter: &ModelAdapter| {
            -adapter.model().score_continuations(&[(&tokens, start)]).unwrap()[0].log_probabilities[0]
        };
        let before = loss(&adapter);
        let requests = [request()];
        let [lower, upper] = [LAYER, last].map(|layer| adapter.residuals(layer, &requests).unwrap());
        let lacks = Mat::from_fn(target.value.len(), 1, |i, _| target.value[i] - target.start[i]);
        assert!((&lower - &lacks).norm_max() < 1e-4 * lacks.norm_max(), "{family}");
        assert!((&upper - &lacks).norm_max() < 1e-4 * lacks.norm_max(), "{family}");

        let key = adapter.keys(last, &requests).unwrap();
        let inverse = 1.0 / key.squared_norm_l2();
        let update = Update::from_factors(upper, key.transpose().to_owned() * Scale(inverse)).unwrap();
        adapter.apply(last, &update).unwrap();
        // Targets are kept within a batch; a lower layer begins another, so the target is handed over.
        let known = [(request(), target.value.clone())].into();
        let mut adapter = adapter.with_targets(known).unwrap();
        let left = adapter.residuals(LAYER, &requests).unwrap();
        assert!(left.norm_max() < 1e-4 * lacks.norm_max(), "{family}: {}", left.norm_max());
        assert!(loss(&adapter) < before, "{family}: {} after {before}", loss(&adapter));
    }
}

/// Where a norm stands behind the MLP, what is sought and written is in front of it.
#[test]
fn what_is_written_is_what_was_sought_in_every_family() {
    for family in FAMILIES {
        let (model, tokenizer) = open(family);
        let search = search(&model).with_clamp(3.0).with_wording(Wording::AsGiven);
        let target = search.run(&model, &tokenizer, Contexts::default(), LAYER, &request()).unwrap();
        let known = [(request(), target.value.clone())].into();
        let unedited = model.clone();
        let adapter = ModelAdapter::new(model, tokenizer.clone(), vec![LAYER], Contexts::default(), search);
        let mut adapter = adapter.unwrap().with_targets(known).unwrap();
        let requests = [request()];
        let (lacks, key) = (adapter.residuals(LAYER, &requests).unwrap(), adapter.keys(LAYER, &requests).unwrap());
        let inverse = 1.0 / key.squared_norm_l2();
        let update = Update::from_factors(lacks.clone(), key.transpose().to_owned() * Scale(inverse)).unwrap();
        adapter.apply(LAYER, &update).unwrap();
        assert!(adapter.residuals(LAYER, &requests).unwrap().norm_max() < 1e-4 * lacks.norm_max(), "{family}");

        // The other tokens' outputs changed too, by as much as their keys are like that of the fact.
        let loss = |model: &Model| {
            let [prompt, whole] = ["", " Tokyo"].map(|more| format!("{}{more}", request().text()));
            let [prompt, whole] = [prompt, whole].map(|text| tokenizer.encode(&text).unwrap());
            -model.score_continuations(&[(&whole, prompt.len())]).unwrap()[0].log_probabilities.iter().sum::<f32>()
        };
        let (before, after) = (loss(&unedited), loss(adapter.model()));
        assert!(after < before, "{family}: {after} after {before}");
    }
}

#[test]
fn an_output_behind_a_norm_is_not_sought() {
    for family in NORM_BEHIND_MLP {
        let (model, tokenizer) = open(family);
        let at = |site, layers: &[usize]| {
            let (search, model) = (TargetSearch::default().with_site(site), model.clone());
            ModelAdapter::new(model, tokenizer.clone(), layers.to_vec(), Contexts::default(), search)
        };
        for (site, layers, named) in [(Site::Block, vec![1], "target `mlp`"), (Site::Mlp, vec![1, 2], "edit one layer")]
        {
            let Err(Error::Model(ModelError::Unsupported { problem })) = at(site, &layers) else { panic!("{family}") };
            assert!(problem.contains(named) && problem.contains(model.family().model_type()), "{problem}");
        }
        at(Site::Mlp, &[1]).unwrap();
        let run = TargetSearch::default().run(&model, &tokenizer, Contexts::default(), LAYER, &request());
        assert!(matches!(run, Err(Error::Model(ModelError::Unsupported { .. }))));
    }
}

#[test]
fn what_cannot_be_steered_is_refused() {
    let (model, tokenizer) = open("mistral");
    let (texts, n) = (Texts::new(&tokenizer), model.config().hidden);
    for (site, count) in [(Site::Block, 1), (Site::Mlp, 1), (Site::MlpAndAttention, 2)] {
        let steering = texts.steering(&model, site);
        for length in [0, n - 1, (3 - count) * n] {
            let refused = steering.evaluate(&vec![0.0; length]);
            assert!(
                matches!(refused, Err(Error::Numerics(NumericsError::Shape { argument: "vectors", .. }))),
                "{site:?} {length}"
            );
        }
        assert_eq!(steering.outputs(2).unwrap().len(), count * n, "the anchor's");
        assert!(matches!(steering.outputs(3), Err(Error::Model(ModelError::UnknownRequest { index: 3, .. }))));
    }
    let both = TargetSearch::default().with_site(Site::MlpAndAttention);
    let run = |search: TargetSearch, layer| search.run(&model, &tokenizer, Contexts::default(), layer, &request());
    assert!(matches!(run(both, 9), Err(Error::Model(ModelError::UnknownLayer { layer: 9, .. }))));
    assert!(matches!(
        run(both.with_clamp(0.0), 1),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "clamp", .. }))
    ));
    // One evaluation finds what is there: nothing is added yet.
    let at_once = run(both.with_steps(1), 1).unwrap();
    assert_eq!((at_once.value, at_once.attention), (at_once.start, Some(vec![0.0; n])));
}
