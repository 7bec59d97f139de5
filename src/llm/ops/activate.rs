//! The MLP's nonlinearity, with a gate or without.

use candle_core::{Result as Computed, Tensor};
use faer::Par;

use super::elementwise::{capped, erf, exp};
use super::{Function, Op, Rows};
use crate::llm::config::Activation;
use crate::util::vectorized::vectorized;

/// A function of one number.
pub(in crate::llm) trait Pointwise: Send + Sync + 'static {
    const NAME: &'static str;

    /// Value and derivative.
    fn at(&self, x: f32) -> (f32, f32);
}

/// `x / (1 + e^-x)`.
struct Silu;

/// The tanh approximation of GELU.
struct Gelu;

/// GELU by the error function.
struct GeluErf;

impl Pointwise for Silu {
    const NAME: &'static str = "silu";

    #[inline(always)]
    fn at(&self, x: f32) -> (f32, f32) {
        let sigmoid = 1.0 / (1.0 + exp(-x));
        (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
    }
}

impl Pointwise for Gelu {
    const NAME: &'static str = "gelu";

    #[inline(always)]
    fn at(&self, x: f32) -> (f32, f32) {
        // sqrt(2 / pi), and the published constant.
        let (a, b) = (0.797_884_6_f32, 0.044_715_f32);
        // tanh by exp is as exact as f32 allows here.
        let tanh = 1.0 - 2.0 / (1.0 + exp(2.0 * a * (x + b * x * x * x)));
        let slope = (1.0 - tanh * tanh) * a * (1.0 + 3.0 * b * x * x);
        (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * slope)
    }
}

impl Pointwise for GeluErf {
    const NAME: &'static str = "gelu-erf";

    #[inline(always)]
    fn at(&self, x: f32) -> (f32, f32) {
        // The distribution function of a normal variable, and its density.
        let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        let density = 0.398_942_3 * exp(-0.5 * x * x);
        (x * below, below + x * density)
    }
}

/// The nonlinearity of some rows, times the other rows if there is a gate. The function is chosen here, once: a choice for every number
/// would keep the compiler from using vector instructions.
pub(in crate::llm) fn activate(activation: Activation, x: &Tensor, up: Option<&Tensor>, par: Par) -> Computed<Tensor> {
    fn run<F: Pointwise>(f: F, x: &Tensor, up: Option<&Tensor>, par: Par) -> Computed<Tensor> {
        match up {
            Some(up) => x.apply_op2(up, Op(Gate(f, par))),
            None => x.apply_op1(Op(Apply(f, par))),
        }
    }
    match activation {
        Activation::Silu => run(Silu, x, up, par),
        Activation::Gelu => run(Gelu, x, up, par),
        Activation::GeluErf => run(GeluErf, x, up, par),
    }
}

/// Numbers per task.
const CHUNK: usize = 8 * 1024;

/// Runs `work` on slices of equal length, in parts, on the threads of `par`.
fn in_parts<const N: usize, const M: usize>(
    from: [&[f32]; N],
    mut to: [&mut [f32]; M],
    par: Par,
    work: impl Fn([&[f32]; N], [&mut [f32]; M]) + Sync + Copy,
) {
    let n = from[0].len();
    if matches!(par, Par::Seq) || n <= CHUNK {
        return vectorized(
            #[inline(always)]
            || work(from, to.each_mut().map(|to| &mut **to)),
        );
    }
    let middle = n / 2;
    let first = to.each_mut().map(|to| to.split_off_mut(..middle).expect("as long as the others"));
    rayon::join(
        || in_parts(from.map(|from| &from[..middle]), first, par, work),
        || in_parts(from.map(|from| &from[middle..]), to, par, work),
    );
}

/// `bound tanh(x / bound)`.
pub(in crate::llm) struct Cap(pub(in crate::llm) f32);

impl Pointwise for Cap {
    const NAME: &'static str = "cap";

    #[inline(always)]
    fn at(&self, x: f32) -> (f32, f32) {
        let value = capped(x, self.0);
        let tanh = value / self.0;
        (value, 1.0 - tanh * tanh)
    }
}

/// `f(x)`.
pub(in crate::llm) struct Apply<F>(pub(in crate::llm) F, pub(in crate::llm) Par);

impl<F: Pointwise> Function<1> for Apply<F> {
    const NAME: &'static str = F::NAME;

    fn value(&self, [x]: [Rows<'_>; 1]) -> (Vec<f32>, usize) {
        let mut result = vec![0.0; x.numbers.len()];
        in_parts(
            [x.numbers],
            [&mut result],
            self.1,
            #[inline(always)]
            |[x], [y]| {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = self.0.at(*x).0;
                }
            },
        );
        (result, x.cols)
    }

    fn gradient(&self, [x]: [Rows<'_>; 1], g: Rows<'_>) -> [Vec<f32>; 1] {
        let mut dx = vec![0.0; x.numbers.len()];
        in_parts(
            [x.numbers, g.numbers],
            [&mut dx],
            self.1,
            #[inline(always)]
            |[x, g], [dx]| {
                for ((dx, x), g) in dx.iter_mut().zip(x).zip(g) {
                    *dx = g * self.0.at(*x).1;
                }
            },
        );
        [dx]
    }
}

/// `f(x) y`.
struct Gate<F>(F, Par);

impl<F: Pointwise> Function<2> for Gate<F> {
    const NAME: &'static str = "gate";

    fn value(&self, [x, y]: [Rows<'_>; 2]) -> (Vec<f32>, usize) {
        let mut result = vec![0.0; x.numbers.len()];
        in_parts(
            [x.numbers, y.numbers],
            [&mut result],
            self.1,
            #[inline(always)]
            |[x, y], [z]| {
                for ((z, x), y) in z.iter_mut().zip(x).zip(y) {
                    *z = self.0.at(*x).0 * y;
                }
            },
        );
        (result, x.cols)
    }

    fn gradient(&self, [x, y]: [Rows<'_>; 2], g: Rows<'_>) -> [Vec<f32>; 2] {
        let (mut dx, mut dy) = (vec![0.0; x.numbers.len()], vec![0.0; x.numbers.len()]);
        in_parts(
            [x.numbers, y.numbers, g.numbers],
            [&mut dx, &mut dy],
            self.1,
            #[inline(always)]
            |[x, y, g], [dx, dy]| {
                for ((((dx, dy), x), y), g) in dx.iter_mut().zip(dy).zip(x).zip(y).zip(g) {
                    let (value, slope) = self.0.at(*x);
                    (*dx, *dy) = (g * slope * y, g * value);
                }
            },
        );
        [dx, dy]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the error function by its series, and slopes by differences.
    #[test]
    fn gelu_is_that_of_the_error_function() {
        let exact = |x: f64| {
            let t = x / std::f64::consts::SQRT_2;
            let (mut term, mut sum) = (t, t);
            for n in 1..200 {
                term *= -t * t / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            x * 0.5 * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
        };
        for i in -500..=500 {
            let x = f64::from(i) / 100.0;
            let (value, slope) = GeluErf.at(x as f32);
            assert!((f64::from(value) - exact(x)).abs() < 2e-6, "{x}: {value} for {}", exact(x));
            let difference = (exact(x + 1e-4) - exact(x - 1e-4)) / 2e-4;
            assert!((f64::from(slope) - difference).abs() < 2e-6, "{x}: {slope} for {difference}");
        }
    }
}
