//! Models to edit: a stack of layers, with faults where they are asked for.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Once};

use betaedit_core::editor::NamedRecipe;
use betaedit_core::editor::Recipe;
use betaedit_core::error::ModelError;
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::session::{Session, SessionBuilder};
use betaedit_core::{
    Adapter, BetaEdit, KeyStatistics, Method, Orientation, Refresh, Result, SecondMoment, Spectrum, Update,
};

use crate::common::Random;

/// What goes wrong, and at which call of the adapter, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    Error,
    Panic,
    NaN,
    Shape,
}

/// `h <- h + W tanh(A h)`, layer after layer. A request is an input and the output that it should give.
pub struct Stack {
    pub A: Vec<Mat<f64>>,
    pub W: Vec<Mat<f64>>,
    layers: Vec<usize>,
    calls: Cell<usize>,
    pub fault: Rc<Cell<Option<(usize, Fault)>>>,
}

#[derive(Clone)]
pub struct Fact {
    pub x: Mat<f64>,
    pub y: Mat<f64>,
    pub subject: Option<&'static str>,
}

pub const WIDTH: usize = 10;
pub const HIDDEN: usize = 48;

impl Stack {
    pub fn new(depth: usize) -> Self {
        let mut random = Random::new(5);
        let scale = 1.0 / (WIDTH as f64).sqrt();
        let A = (0..depth).map(|_| random.matrix::<f64>(HIDDEN, WIDTH) * betaedit_core::faer::Scale(scale)).collect();
        let W = (0..depth).map(|_| random.matrix::<f64>(WIDTH, HIDDEN) * betaedit_core::faer::Scale(0.02)).collect();
        let layers = (0..depth).map(|layer| 3 * layer + 1).collect();
        Self { A, W, layers, calls: Cell::new(0), fault: Rc::default() }
    }

    fn at(&self, layer: usize) -> Result<usize> {
        let known = self.layers.clone();
        self.layers.iter().position(|&one| one == layer).ok_or(ModelError::UnknownLayer { layer, known }.into())
    }

    fn keys_of(&self, depth: usize, x: &Mat<f64>) -> Mat<f64> {
        let mut h = x.clone();
        for (A, W) in self.A.iter().zip(&self.W).take(depth) {
            h = &h + W * (A * &h).map(|a| a.tanh());
        }
        (&self.A[depth] * &h).map(|a| a.tanh())
    }

    pub fn run(&self, x: &Mat<f64>) -> Mat<f64> {
        let mut h = x.clone();
        for (A, W) in self.A.iter().zip(&self.W) {
            h = &h + W * (A * &h).map(|a| a.tanh());
        }
        h
    }

    /// Counts a call; says whether its result is to be spoilt.
    fn call(&self) -> Result<Option<Fault>> {
        self.calls.set(self.calls.get() + 1);
        match self.fault.get() {
            Some((at, fault)) if at == self.calls.get() => match fault {
                Fault::Error => Err(ModelError::Adapter("a fault".into()).into()),
                Fault::Panic => panic!("a fault"),
                fault => Ok(Some(fault)),
            },
            _ => Ok(None),
        }
    }

    pub fn calls(&self) -> usize {
        self.calls.get()
    }

    fn spoilt(&self, mut matrix: Mat<f64>) -> Result<Mat<f64>> {
        match self.call()? {
            Some(Fault::NaN) => matrix[(0, 0)] = f64::NAN,
            Some(_) => matrix = Mat::zeros(matrix.nrows() + 1, matrix.ncols()),
            None => {}
        }
        Ok(matrix)
    }
}

impl Adapter for Stack {
    type Scalar = f64;
    type Request = Fact;

    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        Ok(self.W[self.at(layer)?].shape())
    }

    fn keys(&mut self, layer: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        let depth = self.at(layer)?;
        let columns: Vec<_> = facts.iter().map(|fact| self.keys_of(depth, &fact.x)).collect();
        self.spoilt(Mat::from_fn(HIDDEN, facts.len(), |i, j| columns[j][(i, 0)]))
    }

    fn residuals(&mut self, layer: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        self.at(layer)?;
        let columns: Vec<_> = facts.iter().map(|fact| &fact.y - self.run(&fact.x)).collect();
        self.spoilt(Mat::from_fn(WIDTH, facts.len(), |i, j| columns[j][(i, 0)]))
    }

    fn read_weight(&self, layer: usize, mut weight: MatMut<'_, f64>) -> Result<()> {
        weight.copy_from(&self.W[self.at(layer)?]);
        Ok(())
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, f64>) -> Result<()> {
        let at = self.at(layer)?;
        self.W[at] = weight.to_owned();
        Ok(())
    }

    fn fingerprint(&self) -> String {
        format!("a stack of {}", self.W.len())
    }

    fn subject(&self, fact: &Fact) -> Option<String> {
        fact.subject.map(str::to_owned)
    }

    fn encode(&self, fact: &Fact) -> Option<Vec<u8>> {
        Some(fact.x.col(0).iter().chain(fact.y.col(0).iter()).flat_map(|x| x.to_le_bytes()).collect())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Fact> {
        let number = |i: usize| f64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap());
        let [x, y] = [0, WIDTH].map(|start| Mat::from_fn(WIDTH, 1, |i, _| number(start + i)));
        Ok(Fact { x, y, subject: None })
    }

    /// A fault comes when half is done.
    fn apply(&mut self, layer: usize, update: &Update<f64>) -> Result<()> {
        let at = self.at(layer)?;
        let fault = self.fault.get().filter(|&(call, _)| call == self.calls.get() + 1);
        if fault.is_some() {
            self.W[at][(0, 0)] += 1.0;
        }
        if self.call()?.is_some() {
            return Err(ModelError::Adapter("a fault".into()).into());
        }
        Ok(update.apply_to(self.W[at].as_mut(), Orientation::OutputsByInputs, Par::Seq)?)
    }
}

/// The panics of faults are meant: their messages are not to fill the log.
pub fn quiet_faults() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"a fault") {
                hook(info);
            }
        }));
    });
}

pub fn fact(random: &mut Random) -> Fact {
    Fact { x: random.matrix(WIDTH, 1), y: random.matrix(WIDTH, 1), subject: None }
}

pub fn facts(seed: u64, n: usize) -> Vec<Fact> {
    let mut random = Random::new(seed);
    (0..n).map(|_| fact(&mut random)).collect()
}

/// BetaEdit with a projector of the whole space's lower part, and a small ridge.
pub fn recipe(refresh: Refresh) -> Recipe {
    let threshold = betaedit_core::Threshold::Directions(3 * HIDDEN / 4);
    BetaEdit::default().with_lambda1(0.05).with_lambda2(0.1).with_threshold(threshold).with_refresh(refresh).recipe()
}

/// Statistics of what a layer sees.
pub fn statistics(stack: &Stack, depth: usize) -> (Arc<SecondMoment>, Arc<Spectrum>) {
    let mut random = Random::new(17 + depth as u64);
    let mut moment = SecondMoment::new(HIDDEN);
    let mixed = Mat::from_fn(WIDTH, 300, |i, _| random.normal() * 0.6_f64.powi(i as i32));
    let keys: Vec<_> = (0..300).map(|j| stack.keys_of(depth, &mixed.as_ref().subcols(j, 1).to_owned())).collect();
    let keys = Mat::from_fn(HIDDEN, 300, |i, j| keys[j][(i, 0)] + 1e-3 * random.normal());
    moment.observe(keys.as_ref(), Par::Seq).unwrap();
    let spectrum = Spectrum::new(&moment, Par::Seq).unwrap();
    (Arc::new(moment), Arc::new(spectrum))
}

/// Statistics as one value.
pub fn known(moment: Arc<SecondMoment>, spectrum: Arc<Spectrum>) -> KeyStatistics {
    KeyStatistics::from_parts(moment, spectrum, Par::Seq).unwrap()
}

pub fn builder(depth: usize, recipe: Recipe) -> SessionBuilder<NamedRecipe> {
    let stack = Stack::new(depth);
    let builder = SessionBuilder::new(NamedRecipe::new("betaedit", recipe));
    (0..depth).fold(builder, |builder, at| {
        let (moment, spectrum) = statistics(&stack, at);
        builder.layer(stack.layers[at], known(moment, spectrum))
    })
}

/// As [`builder`], with statistics at rest.
pub fn resting_builder(depth: usize, recipe: Recipe) -> SessionBuilder<NamedRecipe> {
    let stack = Stack::new(depth);
    let builder = SessionBuilder::new(NamedRecipe::new("betaedit", recipe)).layers_at_rest(std::env::temp_dir());
    (0..depth).fold(builder, |builder, at| {
        let (moment, spectrum) = statistics(&stack, at);
        builder.layer(stack.layers[at], known(moment, spectrum).at_rest(std::env::temp_dir()).unwrap())
    })
}

pub fn session(depth: usize, refresh: Refresh) -> Session<Stack> {
    builder(depth, recipe(refresh)).open(Stack::new(depth), Par::Seq).unwrap()
}

/// Every refresh rule, often enough to be due within a short stream.
pub fn refreshes() -> Vec<Refresh> {
    use betaedit_core::RefreshRule;
    use betaedit_core::projector::HistoryWeighting;
    let every = |rule| Refresh::Every { edits: 4, rule };
    vec![
        Refresh::Never,
        every(RefreshRule::Full(HistoryWeighting::Mean { lambda1: 3.0 })),
        every(RefreshRule::Full(HistoryWeighting::Sum { weight: 1e-4 })),
        every(RefreshRule::Maximal { weight: 1e-4 }),
        every(RefreshRule::Nested { weight: 1e-4 }),
        Refresh::Continuous { weight: 1e-4 },
    ]
}

/// One wide layer with endless requests: the key and target of a request are made from its number.
pub struct Wide {
    W: Mat<f64>,
}

impl Wide {
    pub fn new(d_in: usize) -> Self {
        Self { W: Mat::zeros(4, d_in) }
    }

    fn key(&self, request: u64) -> Mat<f64> {
        let mut random = Random::new(1000 + request);
        let d_in = self.W.ncols();
        Mat::from_fn(d_in, 1, |_, _| (random.uniform() - 0.5) / (d_in as f64).sqrt())
    }
}

impl Adapter for Wide {
    type Scalar = f64;
    type Request = u64;

    fn layers(&self) -> &[usize] {
        &[0]
    }

    fn weight_shape(&self, _: usize) -> Result<(usize, usize)> {
        Ok(self.W.shape())
    }

    fn keys(&mut self, _: usize, requests: &[u64]) -> Result<Mat<f64>> {
        Ok(self.key(requests[0]))
    }

    fn residuals(&mut self, _: usize, requests: &[u64]) -> Result<Mat<f64>> {
        Ok(Mat::from_fn(4, 1, |i, _| (requests[0] % 7) as f64 - i as f64) - &self.W * self.key(requests[0]))
    }

    fn read_weight(&self, _: usize, mut weight: MatMut<'_, f64>) -> Result<()> {
        weight.copy_from(&self.W);
        Ok(())
    }

    fn write_weight(&mut self, _: usize, weight: MatRef<'_, f64>) -> Result<()> {
        self.W = weight.to_owned();
        Ok(())
    }

    fn fingerprint(&self) -> String {
        "wide".into()
    }

    fn apply(&mut self, _: usize, update: &Update<f64>) -> Result<()> {
        Ok(update.apply_to(self.W.as_mut(), Orientation::OutputsByInputs, Par::Seq)?)
    }
}

pub fn wide(d_in: usize) -> SessionBuilder<NamedRecipe> {
    let moment = Random::new(3).moment(d_in, d_in, 1e-3);
    let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq).unwrap());
    SessionBuilder::new(NamedRecipe::new("betaedit", recipe(Refresh::Never)))
        .layer(0, known(Arc::new(moment), spectrum))
}
