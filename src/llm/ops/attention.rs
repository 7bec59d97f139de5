//! Causal attention over several sequences at once, each with the keys and values of its past.

use std::ops::Range;
use std::sync::Arc;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::elementwise::{capped, exp, largest, sum};
use super::{Function, Rows};
use crate::util::vectorized::vectorized;

/// The rows of one sequence, and the position of its first row, which is the number of tokens before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::llm) struct Span {
    pub(in crate::llm) rows: Range<usize>,
    pub(in crate::llm) start: usize,
}

/// Keys and values of the tokens before a span, at one layer, one row per token. They get no gradient.
#[derive(Clone, Default)]
pub(in crate::llm) struct Past {
    pub(in crate::llm) keys: Vec<f32>,
    pub(in crate::llm) values: Vec<f32>,
}

impl Past {
    /// Appends rows, with room for an eighth more: doubling would leave half of the memory of many sequences unused.
    pub(in crate::llm) fn extend(&mut self, keys: &[f32], values: &[f32]) {
        for (numbers, more) in [(&mut self.keys, keys), (&mut self.values, values)] {
            if numbers.capacity() < numbers.len() + more.len() {
                numbers.reserve_exact(more.len().max(numbers.len() / 8));
            }
            numbers.extend_from_slice(more);
        }
    }
}

pub(in crate::llm) struct Attention {
    pub(in crate::llm) spans: Arc<[Span]>,
    /// One per span, `start` tokens long; empty if no span has a past.
    pub(in crate::llm) past: Vec<Arc<Past>>,
    pub(in crate::llm) heads: usize,
    pub(in crate::llm) kv_heads: usize,
    pub(in crate::llm) head_dim: usize,
    /// Factor of the scores.
    pub(in crate::llm) scale: f32,
    /// Bound on the scores: `x` becomes `cap tanh(x / cap)`.
    pub(in crate::llm) cap: Option<f32>,
    pub(in crate::llm) window: Option<usize>,
    pub(in crate::llm) par: Par,
}

/// One task: a sequence and a head of keys and values, with the heads of queries that share it.
struct HeadTask<'a> {
    attention: &'a Attention,
    span: &'a Span,
    queries: Rows<'a>,
    keys: [MatRef<'a, f32>; 2],
    values: [MatRef<'a, f32>; 2],
    kv_head: usize,
}

/// Head `head` of rows `rows`, `rows x head_dim`.
fn head_of(x: Rows<'_>, rows: Range<usize>, head: usize, head_dim: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(x.numbers, x.count(), x.cols).submatrix(
        rows.start,
        head * head_dim,
        rows.len(),
        head_dim,
    )
}

fn product(dst: MatMut<'_, f32>, accumulate: Accum, lhs: MatRef<'_, f32>, rhs: MatRef<'_, f32>, scale: f32) {
    matmul(dst, accumulate, lhs, rhs, scale, Par::Seq);
}

impl HeadTask<'_> {
    fn heads(&self) -> Range<usize> {
        let group = self.attention.heads / self.attention.kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    fn query(&self, head: usize) -> MatRef<'_, f32> {
        head_of(self.queries, self.span.rows.clone(), head, self.attention.head_dim)
    }

    /// The scores of a head, bounded, also of what is not seen: `tokens x (past + tokens)`, row by row.
    fn scores(&self, head: usize) -> Vec<f32> {
        let (past, tokens) = (self.span.start, self.span.rows.len());
        let all = past + tokens;
        let mut scores = vec![0.0; tokens * all];
        let mut view = MatMut::from_row_major_slice_mut(&mut scores, tokens, all);
        let (before, own) = view.as_mut().split_at_col_mut(past);
        for (part, keys) in [before, own].into_iter().zip(self.keys) {
            product(part, Accum::Replace, self.query(head), keys.transpose(), self.attention.scale);
        }
        if let Some(cap) = self.attention.cap {
            vectorized(
                #[inline(always)]
                || {
                    for x in &mut scores {
                        *x = capped(*x, cap);
                    }
                },
            );
        }
        scores
    }

    /// The probabilities of a head: `tokens x (past + tokens)`, row by row.
    fn probabilities(&self, head: usize) -> Vec<f32> {
        let past = self.span.start;
        let all = past + self.span.rows.len();
        let mut scores = self.scores(head);
        for (i, row) in scores.chunks_exact_mut(all).enumerate() {
            let end = past + i + 1;
            let seen = self.attention.window.map_or(0, |window| end.saturating_sub(window))..end;
            row[..seen.start].fill(0.0);
            row[end..].fill(0.0);
            softmax(&mut row[seen]);
        }
        scores
    }

    /// The outputs of the heads, one after the other, `tokens x head_dim` each, row by row.
    fn value(&self) -> Vec<f32> {
        let (tokens, head_dim) = (self.span.rows.len(), self.attention.head_dim);
        let mut outputs = vec![0.0; self.heads().len() * tokens * head_dim];
        for (head, output) in self.heads().zip(outputs.chunks_exact_mut((tokens * head_dim).max(1))) {
            let probabilities = self.probabilities(head);
            let probabilities = MatRef::from_row_major_slice(&probabilities, tokens, self.span.start + tokens);
            let (before, own) = probabilities.split_at_col(self.span.start);
            let mut output = MatMut::from_row_major_slice_mut(output, tokens, head_dim);
            for (part, values) in [before, own].into_iter().zip(self.values) {
                product(output.as_mut(), Accum::Add, part, values, 1.0);
            }
        }
        outputs
    }

    /// The gradients with respect to the heads of queries, one after the other, the head of keys, and the head of values; all
    /// `tokens x head_dim`, row by row.
    fn gradient(&self, g: Rows<'_>) -> [Vec<f32>; 3] {
        let (past, tokens, head_dim) = (self.span.start, self.span.rows.len(), self.attention.head_dim);
        let all = past + tokens;
        let size = tokens * head_dim;
        let (mut dq, mut dk, mut dv) = (vec![0.0; self.heads().len() * size], vec![0.0; size], vec![0.0; size]);
        for (head, dq) in self.heads().zip(dq.chunks_exact_mut(size.max(1))) {
            let probabilities = self.probabilities(head);
            let own = MatRef::from_row_major_slice(&probabilities, tokens, all).split_at_col(past).1;
            let g = head_of(g, self.span.rows.clone(), head, head_dim);
            product(MatMut::from_row_major_slice_mut(&mut dv, tokens, head_dim), Accum::Add, own.transpose(), g, 1.0);

            // With respect to the probabilities, then to the scores: d_ij = p_ij (d_ij - sum_l p_il d_il).
            let mut scores = vec![0.0; tokens * all];
            let view = MatMut::from_row_major_slice_mut(&mut scores, tokens, all);
            let (before, own) = view.split_at_col_mut(past);
            for (part, values) in [before, own].into_iter().zip(self.values) {
                product(part, Accum::Replace, g, values.transpose(), 1.0);
            }
            for (d, p) in scores.chunks_exact_mut(all).zip(probabilities.chunks_exact(all)) {
                let mean: f32 = d.iter().zip(p).map(|(d, p)| d * p).sum();
                d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean));
            }
            // The slope of c tanh(x / c) is 1 - tanh².
            if let Some(cap) = self.attention.cap {
                for (d, bounded) in scores.iter_mut().zip(self.scores(head)) {
                    *d *= 1.0 - (bounded / cap) * (bounded / cap);
                }
            }

            let (before, own) = MatRef::from_row_major_slice(&scores, tokens, all).split_at_col(past);
            let mut dq = MatMut::from_row_major_slice_mut(dq, tokens, head_dim);
            for (part, keys) in [before, own].into_iter().zip(self.keys) {
                product(dq.as_mut(), Accum::Add, part, keys, self.attention.scale);
            }
            let dk = MatMut::from_row_major_slice_mut(&mut dk, tokens, head_dim);
            product(dk, Accum::Add, own.transpose(), self.query(head), self.attention.scale);
        }
        [dq, dk, dv]
    }
}

fn softmax(row: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            let largest = largest(row);
            for x in row.iter_mut() {
                *x = exp(*x - largest);
            }
            let total = sum([row], |[x]| x);
            for x in row.iter_mut() {
                *x /= total;
            }
        },
    );
}

impl Attention {
    /// Runs `work` for every sequence and head of keys and values.
    fn for_each<R: Send>(&self, [q, k, v]: [Rows<'_>; 3], work: impl Fn(&HeadTask<'_>) -> R + Sync) -> Vec<R> {
        let tasks: Vec<(usize, usize)> =
            (0..self.spans.len()).flat_map(|span| (0..self.kv_heads).map(move |head| (span, head))).collect();
        let run = |&(index, kv_head): &(usize, usize)| {
            let span = &self.spans[index];
            let (before_keys, before_values) =
                self.past.get(index).map_or((&[][..], &[][..]), |past| (&past.keys[..], &past.values[..]));
            let (keys, values) =
                (self.parts(span, kv_head, before_keys, k), self.parts(span, kv_head, before_values, v));
            work(&HeadTask { attention: self, span, queries: q, keys, values, kv_head })
        };
        match self.par {
            Par::Seq => tasks.iter().map(run).collect(),
            Par::Rayon(_) => tasks.par_iter().map(run).collect(),
        }
    }

    /// A head of the past of a span, and of the span itself.
    fn parts<'a>(&self, span: &Span, head: usize, before: &'a [f32], own: Rows<'a>) -> [MatRef<'a, f32>; 2] {
        let before = Rows { numbers: before, cols: own.cols };
        [head_of(before, 0..span.start, head, self.head_dim), head_of(own, span.rows.clone(), head, self.head_dim)]
    }

    /// Where the results of the tasks go: span and head of keys and values, in the order of [`Self::for_each`].
    fn places(&self) -> impl Iterator<Item = (&Span, usize)> {
        self.spans.iter().flat_map(|span| (0..self.kv_heads).map(move |head| (span, head)))
    }

    /// Writes consecutive heads, `tokens x head_dim` each, to their place in rows of `cols` numbers.
    fn scatter(&self, to: &mut [f32], cols: usize, span: &Span, first_head: usize, from: &[f32]) {
        for (i, head) in from.chunks_exact((span.rows.len() * self.head_dim).max(1)).enumerate() {
            for (row, numbers) in span.rows.clone().zip(head.chunks_exact(self.head_dim)) {
                let start = row * cols + (first_head + i) * self.head_dim;
                to[start..start + self.head_dim].copy_from_slice(numbers);
            }
        }
    }
}

impl Function<3> for Attention {
    const NAME: &'static str = "attention";

    fn value(&self, x: [Rows<'_>; 3]) -> (Vec<f32>, usize) {
        let cols = x[0].cols;
        let group = self.heads / self.kv_heads;
        let mut result = vec![0.0; x[0].numbers.len()];
        for ((span, head), heads) in self.places().zip(self.for_each(x, |task| task.value())) {
            self.scatter(&mut result, cols, span, head * group, &heads);
        }
        (result, cols)
    }

    fn gradient(&self, x: [Rows<'_>; 3], g: Rows<'_>) -> [Vec<f32>; 3] {
        let group = self.heads / self.kv_heads;
        let mut result = x.map(|x| vec![0.0; x.numbers.len()]);
        for ((span, head), gradients) in self.places().zip(self.for_each(x, |task| task.gradient(g))) {
            for (i, first) in [head * group, head, head].into_iter().enumerate() {
                self.scatter(&mut result[i], x[i].cols, span, first, &gradients[i]);
            }
        }
        result
    }
}
