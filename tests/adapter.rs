//! The adapter seam, with a model that has two layers: what a real adapter does, in miniature.

use std::sync::Arc;

use betaedit_core::editor::History;
use betaedit_core::error::ModelError;
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::{
    Adapter, EditBatch, Editor, Error, Memit, Method, Orientation, Result, SecondMoment, Spectrum, Update,
};

use crate::common::Random;

/// `y = W1 tanh(W0 x)`, where a request is an input `x` and the output that it should give. Layer 1 stores its weight
/// the other way round.
struct TwoLayers {
    W0: Mat<f64>,
    W1_transposed: Mat<f64>,
}

struct Fact {
    x: Mat<f64>,
    y: Mat<f64>,
}

impl TwoLayers {
    fn hidden(&self, x: &Mat<f64>) -> Mat<f64> {
        (&self.W0 * x).map(|h| h.tanh())
    }

    fn run(&self, x: &Mat<f64>) -> Mat<f64> {
        self.W1_transposed.transpose() * self.hidden(x)
    }
}

impl Adapter for TwoLayers {
    type Scalar = f64;
    type Request = Fact;

    fn layers(&self) -> &[usize] {
        &[1]
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        match layer {
            1 => Ok((self.W1_transposed.ncols(), self.W1_transposed.nrows())),
            _ => Err(ModelError::UnknownLayer { layer, known: vec![1] }.into()),
        }
    }

    fn keys(&mut self, _: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        let columns: Vec<_> = facts.iter().map(|fact| self.hidden(&fact.x)).collect();
        Ok(Mat::from_fn(self.W0.nrows(), facts.len(), |i, j| columns[j][(i, 0)]))
    }

    fn residuals(&mut self, _: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        let columns: Vec<_> = facts.iter().map(|fact| &fact.y - self.run(&fact.x)).collect();
        Ok(Mat::from_fn(columns[0].nrows(), facts.len(), |i, j| columns[j][(i, 0)]))
    }

    fn read_weight(&self, _: usize, mut weight: MatMut<'_, f64>) -> Result<()> {
        weight.copy_from(self.W1_transposed.transpose());
        Ok(())
    }

    fn write_weight(&mut self, _: usize, weight: MatRef<'_, f64>) -> Result<()> {
        self.W1_transposed = weight.transpose().to_owned();
        Ok(())
    }

    fn fingerprint(&self) -> String {
        "two layers".into()
    }

    fn apply(&mut self, _: usize, update: &Update<f64>) -> Result<()> {
        Ok(update.apply_to(self.W1_transposed.as_mut(), Orientation::InputsByOutputs, Par::Seq)?)
    }
}

#[test]
fn a_model_behind_an_adapter_learns_facts_one_after_the_other_and_keeps_the_rest() {
    let mut random = Random::new(31);
    let (inputs, hidden, outputs) = (12, 200, 8);
    let mut model = TwoLayers { W0: random.matrix(hidden, inputs), W1_transposed: random.matrix(hidden, outputs) };
    // What the model is used for: inputs of one half of the space. The facts live in the other half.
    let corpus = Mat::from_fn(inputs, 500, |i, _| if i < inputs / 2 { random.normal() } else { 0.0 });
    let mut moment = SecondMoment::new(hidden);
    moment.observe(model.hidden(&corpus).as_ref(), Par::Seq).unwrap();
    let before = model.run(&corpus);

    let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq).unwrap());
    let method = Memit::default().with_lambda(0.1).with_ridge(1e-4).with_history(History::Absorbed);
    let mut editor = method.editor::<f64>(&spectrum, Par::Seq).unwrap();
    let mut facts = vec![];
    for _ in 0..10 {
        let x = Mat::from_fn(inputs, 1, |i, _| if i < inputs / 2 { 0.0 } else { random.normal() });
        facts.push(Fact { x, y: random.matrix(outputs, 1) });
    }
    let missed = |model: &TwoLayers| {
        let errors = facts.iter().map(|fact| (model.run(&fact.x) - &fact.y).norm_l2() / fact.y.norm_l2());
        errors.fold(0.0, f64::max)
    };
    let missed_before = missed(&model);
    for fact in facts.chunks(1) {
        let (K, R) = (model.keys(1, fact).unwrap(), model.residuals(1, fact).unwrap());
        let update = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
        model.apply(1, &update).unwrap();
    }
    let changed = (model.run(&corpus) - &before).norm_l2() / before.norm_l2();
    assert!(missed_before > 1.0 && missed(&model) < 0.05, "facts are missed by {}", missed(&model));
    assert!(changed < 0.05, "the model changed by {changed}");
    assert!(matches!(model.weight_shape(0), Err(Error::Model(ModelError::UnknownLayer { layer: 0, .. }))));
}

#[cfg(feature = "safetensors")]
#[test]
fn a_recorded_stream_is_an_adapter_of_one_layer() {
    use betaedit_core::adapter::RecordedStream;

    let mut stream = RecordedStream::<f32>::open(crate::common::data("small.safetensors"), Par::Seq).unwrap();
    assert_eq!((stream.len(), stream.layers(), stream.weight_shape(0).unwrap()), (130, [0].as_slice(), (12, 40)));
    let (K, R) = (stream.keys(0, &[7, 3]).unwrap(), stream.residuals(0, &[7, 3]).unwrap());
    assert_eq!((K.shape(), R.shape()), ((40, 2), (12, 2)));
    assert_eq!(K.col(1), stream.keys(0, &[3]).unwrap().col(0));
    let before = stream.weight().to_owned();
    let update = Update::from_factors(R, K.transpose().to_owned()).unwrap();
    stream.apply(0, &update).unwrap();
    assert_ne!(stream.weight(), before);
}
