//! Adam.

/// Adam with the usual constants (Kingma and Ba, 2015).
pub(in crate::llm) struct Adam {
    rate: f32,
    mean: Vec<f32>,
    square: Vec<f32>,
    steps: i32,
}

impl Adam {
    pub(in crate::llm) fn new(n: usize, rate: f32) -> Self {
        Self { rate, mean: vec![0.0; n], square: vec![0.0; n], steps: 0 }
    }

    pub(in crate::llm) fn step(&mut self, x: &mut [f32], gradient: &[f32]) {
        let (first, second) = (0.9_f32, 0.999_f32);
        self.steps += 1;
        let (unbias_mean, unbias_square) = (1.0 - first.powi(self.steps), 1.0 - second.powi(self.steps));
        for (i, g) in gradient.iter().enumerate() {
            self.mean[i] += (1.0 - first) * (g - self.mean[i]);
            self.square[i] += (1.0 - second) * (g * g - self.square[i]);
            x[i] -= self.rate * (self.mean[i] / unbias_mean) / ((self.square[i] / unbias_square).sqrt() + 1e-8);
        }
    }
}
