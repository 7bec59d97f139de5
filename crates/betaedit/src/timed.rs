//! An adapter that measures its time.

use std::time::{Duration, Instant};

use betaedit_core::adapter::Companions;
use betaedit_core::faer::{Mat, MatMut, MatRef};
use betaedit_core::llm::{ModelAdapter, Request};
use betaedit_core::{Adapter, Result, Update};

/// Measures the time of an adapter.
pub struct Timed {
    pub inner: ModelAdapter,
    /// Time for targets (including the residuals at each layer).
    pub targets: Duration,
    /// Time for keys.
    pub keys: Duration,
}

impl Timed {
    pub fn new(inner: ModelAdapter) -> Self {
        Self { inner, targets: Duration::ZERO, keys: Duration::ZERO }
    }
}

impl Adapter for Timed {
    type Scalar = f32;
    type Request = Request;

    fn layers(&self) -> &[usize] {
        self.inner.layers()
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        self.inner.weight_shape(layer)
    }

    fn keys(&mut self, layer: usize, requests: &[Request]) -> Result<Mat<f32>> {
        let clock = Instant::now();
        let keys = self.inner.keys(layer, requests);
        self.keys += clock.elapsed();
        keys
    }

    fn companions(&mut self, layer: usize, requests: &[Request]) -> Result<Option<Companions<f32>>> {
        self.inner.companions(layer, requests)
    }

    fn residuals(&mut self, layer: usize, requests: &[Request]) -> Result<Mat<f32>> {
        let clock = Instant::now();
        let residuals = self.inner.residuals(layer, requests);
        self.targets += clock.elapsed();
        residuals
    }

    fn read_weight(&self, layer: usize, weight: MatMut<'_, f32>) -> Result<()> {
        self.inner.read_weight(layer, weight)
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, f32>) -> Result<()> {
        self.inner.write_weight(layer, weight)
    }

    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }

    fn subject(&self, request: &Request) -> Option<String> {
        self.inner.subject(request)
    }

    fn encode(&self, request: &Request) -> Option<Vec<u8>> {
        self.inner.encode(request)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Request> {
        self.inner.decode(bytes)
    }

    fn find_targets(&mut self, requests: &[Request]) -> Result<Option<Mat<f32>>> {
        let clock = Instant::now();
        let targets = self.inner.find_targets(requests);
        self.targets += clock.elapsed();
        targets
    }

    fn hold_targets(&mut self, requests: &[Request], targets: MatRef<'_, f32>) -> Result<()> {
        self.inner.hold_targets(requests, targets)
    }

    fn release_targets(&mut self) {
        self.inner.release_targets();
    }

    fn apply(&mut self, layer: usize, update: &Update<f32>) -> Result<()> {
        self.inner.apply(layer, update)
    }
}
