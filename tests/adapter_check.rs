//! `adapter::check`: a good adapter passes, in full and in half precision, and every broken promise is named.

use betaedit_core::adapter::check;
use betaedit_core::error::{ModelError, NumericsError};
use betaedit_core::faer::{Mat, MatMut, MatRef, Par, Scale};
use betaedit_core::{Adapter, Error, Result, Update};

use crate::common::Random;

/// What the adapter does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    /// Rounds what it stores to eight bits of mantissa, as `bf16` does.
    HalfPrecision,
    NoLayers,
    LayersOutOfOrder,
    KnowsEveryLayer,
    KeysOfAnotherShape,
    ResidualsWithNaN,
    OtherKeysEachTime,
    AppliesHalf,
    AppliesTwice,
    AppliesNothing,
    AppliesToTheOtherSide,
    AddsSomethingElse,
    ReadsTheFirstWeight,
    RestoresRoughly,
    FingerprintOfTheEditedModel,
    FingerprintOfTheWeights,
    ChangesAnotherLayer,
    DecodesAnotherRequest,
    EncodesEveryRequestAlike,
}

struct Sample {
    flaw: Flaw,
    weight: Mat<f32>,
    first: Mat<f32>,
    /// The weight of layer 5, which only one flaw has.
    other: Mat<f32>,
    asked: f32,
}

/// Square, so that a transposed update fits.
const D: usize = 24;

impl Sample {
    fn new(flaw: Flaw) -> Self {
        let weight = Random::new(1).matrix::<f32>(D, D);
        let mut sample = Self { flaw, first: weight.clone(), other: weight.clone(), weight, asked: 0.0 };
        sample.store();
        sample.first = sample.weight.clone();
        sample
    }

    fn store(&mut self) {
        if self.flaw == Flaw::HalfPrecision {
            let rounded = |x: f32| f32::from_bits((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) & 0xffff_0000);
            self.weight = Mat::from_fn(D, D, |i, j| rounded(self.weight[(i, j)]));
        }
    }
}

impl Adapter for Sample {
    type Scalar = f32;
    type Request = f32;

    fn layers(&self) -> &[usize] {
        match self.flaw {
            Flaw::NoLayers => &[],
            Flaw::LayersOutOfOrder => &[5, 3],
            Flaw::ChangesAnotherLayer => &[3, 5],
            _ => &[3],
        }
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        if self.layers().contains(&layer) || self.flaw == Flaw::KnowsEveryLayer {
            return Ok((D, D));
        }
        Err(ModelError::UnknownLayer { layer, known: self.layers().to_vec() }.into())
    }

    fn keys(&mut self, _: usize, requests: &[f32]) -> Result<Mat<f32>> {
        self.asked += 1.0;
        let rows = if self.flaw == Flaw::KeysOfAnotherShape { D - 1 } else { D };
        let more = if self.flaw == Flaw::OtherKeysEachTime { self.asked } else { 0.0 };
        Ok(Mat::from_fn(rows, requests.len(), |i, j| (requests[j] + i as f32).sin() + more))
    }

    fn residuals(&mut self, _: usize, requests: &[f32]) -> Result<Mat<f32>> {
        let more = if self.flaw == Flaw::ResidualsWithNaN { f32::NAN } else { 0.0 };
        Ok(Mat::from_fn(D, requests.len(), |i, j| requests[j] - i as f32 + more))
    }

    fn read_weight(&self, layer: usize, mut weight: MatMut<'_, f32>) -> Result<()> {
        if layer == 5 {
            weight.copy_from(&self.other);
            return Ok(());
        }
        weight.copy_from(if self.flaw == Flaw::ReadsTheFirstWeight { &self.first } else { &self.weight });
        Ok(())
    }

    fn write_weight(&mut self, _: usize, weight: MatRef<'_, f32>) -> Result<()> {
        self.weight = weight.to_owned();
        if self.flaw == Flaw::RestoresRoughly {
            self.weight[(3, 4)] += 1e-4;
        }
        Ok(())
    }

    fn fingerprint(&self) -> String {
        let edited = self.flaw == Flaw::FingerprintOfTheEditedModel && self.asked > 0.0;
        if self.flaw == Flaw::FingerprintOfTheWeights {
            return format!("{}", self.weight.norm_l2());
        }
        if edited { "edited" } else { "a sample" }.into()
    }

    fn encode(&self, request: &f32) -> Option<Vec<u8>> {
        let request = if self.flaw == Flaw::EncodesEveryRequestAlike { 1.0 } else { *request };
        Some(request.to_le_bytes().to_vec())
    }

    fn decode(&self, bytes: &[u8]) -> Result<f32> {
        let more = if self.flaw == Flaw::DecodesAnotherRequest { 1.0 } else { 0.0 };
        Ok(f32::from_le_bytes(bytes.try_into().unwrap()) + more)
    }

    fn apply(&mut self, _: usize, update: &Update<f32>) -> Result<()> {
        let times = match self.flaw {
            Flaw::AppliesHalf => 0.5,
            Flaw::AppliesTwice => 2.0,
            Flaw::AppliesNothing => 0.0,
            _ => 1.0,
        };
        let Delta = update.to_dense(Par::Seq) * Scale(times);
        let Delta = if self.flaw == Flaw::AppliesToTheOtherSide { Delta.transpose().to_owned() } else { Delta };
        self.weight += Delta;
        if self.flaw == Flaw::ChangesAnotherLayer {
            self.other[(1, 1)] += 0.5;
        }
        if self.flaw == Flaw::AddsSomethingElse {
            self.weight[(0, 0)] += 3.0;
        }
        self.store();
        Ok(())
    }
}

#[test]
fn an_adapter_that_keeps_its_promises_passes_and_is_left_as_it_was() {
    for flaw in [Flaw::None, Flaw::HalfPrecision] {
        let mut sample = Sample::new(flaw);
        check(&mut sample, &[1.0, 2.0], Par::Seq).unwrap();
        assert_eq!(sample.weight, sample.first);
    }
    let error = check(&mut Sample::new(Flaw::None), &[], Par::Seq).unwrap_err();
    assert!(matches!(error, Error::Numerics(NumericsError::Empty { argument: "requests", .. })));
}

#[test]
fn every_broken_promise_is_named() {
    for (flaw, expected) in [
        (Flaw::NoLayers, "`layers` is empty"),
        (Flaw::LayersOutOfOrder, "ascending order"),
        (Flaw::KnowsEveryLayer, "`weight_shape` knows it"),
        (Flaw::KeysOfAnotherShape, "`keys` is 23 x 2, expected 24 x 2"),
        (Flaw::ResidualsWithNaN, "`residuals` holds NaN"),
        (Flaw::OtherKeysEachTime, "differ between two calls"),
        (Flaw::AppliesHalf, "adds the update 0.500 times"),
        (Flaw::AppliesTwice, "adds the update 2.000 times"),
        (Flaw::AppliesNothing, "adds the update 0.000 times"),
        (Flaw::AppliesToTheOtherSide, "more than the update"),
        (Flaw::AddsSomethingElse, "more than the update"),
        (Flaw::ReadsTheFirstWeight, "read the weight as it is now"),
        (Flaw::RestoresRoughly, "bit for bit"),
        (Flaw::FingerprintOfTheEditedModel, "`fingerprint` has changed"),
        (Flaw::FingerprintOfTheWeights, "`fingerprint` has changed"),
        (Flaw::ChangesAnotherLayer, "also changes layer 5"),
        (Flaw::DecodesAnotherRequest, "`decode` makes another request"),
        (Flaw::EncodesEveryRequestAlike, "`decode` makes another request"),
    ] {
        let error = check(&mut Sample::new(flaw), &[1.0, 2.0], Par::Seq).unwrap_err();
        assert!(matches!(error, Error::Model(ModelError::Contract { .. })), "{flaw:?}: {error}");
        assert!(error.to_string().contains(expected), "{flaw:?}: {error}");
    }
}

/// A session looks for its first update in the weight, and takes it back if it is not there.
#[cfg(feature = "session")]
#[test]
fn a_session_refuses_what_an_adapter_applies_wrongly() {
    use betaedit_core::session::{Outcome, Rejection, SessionBuilder};
    use betaedit_core::{KeyStatistics, Memit, SecondMoment};

    let mut moment = SecondMoment::new(D);
    moment.observe(Random::new(2).matrix::<f64>(D, 200).as_ref(), Par::Seq).unwrap();
    let statistics = KeyStatistics::new(moment, Par::Seq).unwrap();
    let open = |flaw| {
        let builder = SessionBuilder::new(Memit::default().with_lambda(1.0)).layer(3, statistics.clone());
        builder.open(Sample::new(flaw), Par::Seq).unwrap()
    };
    for flaw in [Flaw::None, Flaw::HalfPrecision] {
        open(flaw).edit(&[1.0]).unwrap().applied().unwrap();
    }
    for flaw in [Flaw::AppliesHalf, Flaw::AppliesTwice, Flaw::AppliesNothing, Flaw::AddsSomethingElse] {
        let mut session = open(flaw);
        let Outcome::Rejected { reason: Rejection::Failed { layer: 3, error }, .. } = session.edit(&[1.0]).unwrap()
        else {
            panic!("{flaw:?} is not noticed")
        };
        assert!(matches!(*error, Error::Model(ModelError::Contract { layer: 3, .. })), "{error}");
        assert_eq!(session.adapter().weight, session.adapter().first);
    }
}
