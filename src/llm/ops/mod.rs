//! The expensive operations of a model, with their derivatives with respect to the **activations**. The search for a target does
//! not change the weights, so no gradient with respect to a weight is formed. A general autograd would spend most of its time
//! on these.
//!
//! All tensors are matrices with one row per token.

mod activate;
mod add_at;
mod attention;
mod elementwise;
mod norm;
mod objective;
mod parameter;

mod project;
mod rotate;

pub(super) use activate::{Apply, Cap, activate};
pub(super) use add_at::AddAt;
pub(super) use attention::{Attention, Past, Span};
pub(super) use elementwise::{likeliest, norm};
pub(super) use norm::Normalize;
pub(super) use objective::{Objective, Term, log_sum_exp};
pub(super) use parameter::{Parameter, copy};

pub(super) use project::Project;
pub(super) use rotate::{Angles, Rotate};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor};

/// A matrix, row by row.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) cols: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn count(self) -> usize {
        self.numbers.len() / self.cols
    }

    pub(super) fn row(self, i: usize) -> &'a [f32] {
        &self.numbers[i * self.cols..(i + 1) * self.cols]
    }

    pub(super) fn iter(self) -> std::slice::ChunksExact<'a, f32> {
        self.numbers.chunks_exact(self.cols)
    }
}

/// A differentiable function of `N` matrices.
pub(super) trait Function<const N: usize>: Send + Sync + 'static {
    const NAME: &'static str;

    /// The result, row by row, and its number of columns.
    fn value(&self, x: [Rows<'_>; N]) -> (Vec<f32>, usize);

    /// The gradient with respect to each argument, given the gradient with respect to the result.
    fn gradient(&self, x: [Rows<'_>; N], result: Rows<'_>) -> [Vec<f32>; N];
}

/// A [`Function`] as a candle operation.
pub(super) struct Op<F>(pub(super) F);

fn rows<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Rows<'a>> {
    let (_, cols) = layout.shape().dims2()?;
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "rows" })?;
    Ok(Rows { numbers: &storage.as_slice::<f32>()?[start..end], cols })
}

/// Calls `f` with the numbers of some matrices.
pub(super) fn with_rows<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([Rows<'_>; N]) -> R) -> Result<R> {
    let contiguous: Vec<Tensor> = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut views = [Rows { numbers: &[], cols: 1 }; N];
    for (view, (storage, layout)) in views.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else {
            return Err(Error::Msg("a tensor is not in main memory, where these operations need it".into()));
        };
        *view = rows(storage, layout)?;
    }
    Ok(f(views))
}

fn evaluate<const N: usize, F: Function<N>>(function: &F, x: [Rows<'_>; N]) -> Result<(CpuStorage, Shape)> {
    let (numbers, cols) = function.value(x);
    let shape = Shape::from((numbers.len() / cols, cols));
    Ok((CpuStorage::F32(numbers), shape))
}

fn differentiate<const N: usize, F: Function<N>>(
    function: &F,
    arguments: [&Tensor; N],
    gradient: &Tensor,
) -> Result<[Option<Tensor>; N]> {
    let gradient = gradient.contiguous()?;
    let gradients = with_rows(arguments, |x| with_rows([&gradient], |[g]| function.gradient(x, g)))??;
    let mut tensors = [const { None }; N];
    for ((tensor, numbers), argument) in tensors.iter_mut().zip(gradients).zip(arguments) {
        *tensor = Some(Tensor::from_vec(numbers, argument.shape(), argument.device())?);
    }
    Ok(tensors)
}

impl<F: Function<1>> CustomOp1 for Op<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        evaluate(&self.0, [rows(s, l)?])
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        differentiate(&self.0, [x], gradient).map(|[x]| x)
    }
}

impl<F: Function<2>> CustomOp2 for Op<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        evaluate(&self.0, [rows(s1, l1)?, rows(s2, l2)?])
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        differentiate(&self.0, [x, y], g).map(|[x, y]| (x, y))
    }
}

impl<F: Function<3>> CustomOp3 for Op<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        evaluate(&self.0, [rows(s1, l1)?, rows(s2, l2)?, rows(s3, l3)?])
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        differentiate(&self.0, [x, y, z], g).map(|[x, y, z]| (x, y, z))
    }
}
