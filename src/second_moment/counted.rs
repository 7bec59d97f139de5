//! The keys that were counted: their sum, and those that wait to be added to it.

use std::io::{Read, Write};

use faer::{Mat, MatRef, Par};

use crate::error::numerics::Result;
use crate::linalg::triangle::{PartialSums, Triangle};
use crate::linalg::{self, Need};
use crate::scalar::{Scalar, cast};
use crate::util::bytes;

/// Keys are gathered here, one per column, until one matrix product adds the whole block.
const BLOCK: usize = 64;

/// A large batch is added in parts of this many keys: each addition passes over the whole sum.
const AT_ONCE: usize = 512;

/// The keys that were counted.
#[derive(Clone)]
pub(super) struct Counted {
    d_in: usize,
    /// `sum k kᵀ` over the folded keys; the mean if the number of tokens is unknown. `None` before the first key is folded.
    pub(super) sum: Option<Triangle<f64>>,
    /// Keys not yet in `sum`: the first `waiting` columns.
    pub(super) block: Mat<f64>,
    pub(super) waiting: usize,
}

impl Counted {
    pub(super) fn need(d_in: usize) -> Need {
        let need = Need::new("a second moment", d_in, d_in);
        need.bytes(Triangle::<f64>::bytes(d_in)).matrix::<f64>(d_in, BLOCK + AT_ONCE)
    }

    pub(super) fn new(d_in: usize) -> Result<Self> {
        let need = Self::need(d_in);
        need.reserve()?;
        Ok(Self { d_in, sum: None, block: need.zeros(d_in, BLOCK)?, waiting: 0 })
    }

    /// `matrix(i, j)` for `i >= j` as the sum of keys.
    pub(super) fn from_fn(d_in: usize, entry: impl Fn(usize, usize) -> f64) -> Result<Self> {
        let need = Self::need(d_in);
        let sum = Some(Triangle::from_fn(d_in, need, entry)?);
        Ok(Self { d_in, sum, block: need.zeros(d_in, BLOCK)?, waiting: 0 })
    }

    /// The sum, zeros if no key was folded yet.
    pub(super) fn sum(&mut self) -> Result<&mut Triangle<f64>> {
        Ok(match &mut self.sum {
            Some(sum) => sum,
            none => none.insert(Triangle::zeros(self.d_in, Self::need(self.d_in))?),
        })
    }

    pub(super) fn waiting(&self) -> MatRef<'_, f64> {
        self.block.as_ref().subcols(0, self.waiting)
    }

    /// Counts keys: many at once, or gathered in the block. After an error nothing is counted.
    pub(super) fn add<T: Scalar>(&mut self, keys: MatRef<'_, T>, par: Par) -> Result<()> {
        if self.waiting + keys.ncols() >= BLOCK {
            self.sum()?;
        }
        let fold = |sum: &mut Option<Triangle<f64>>, keys: MatRef<'_, f64>| {
            sum.iter_mut().for_each(|sum| sum.add_product(keys, keys, 1.0, par));
        };
        let mut done = 0;
        while done < keys.ncols() {
            let left = keys.ncols() - done;
            if left >= BLOCK {
                let now = cast::<T, f64>(keys.subcols(done, left.min(AT_ONCE)));
                fold(&mut self.sum, now.as_ref());
                done += now.ncols();
                continue;
            }
            let n = (BLOCK - self.waiting).min(left);
            for j in 0..n {
                let (to, from) = (self.block.col_mut(self.waiting + j), keys.col(done + j));
                to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = from.to_f64());
            }
            self.waiting += n;
            done += n;
            if self.waiting == BLOCK {
                fold(&mut self.sum, self.block.as_ref());
                self.waiting = 0;
            }
        }
        Ok(())
    }

    /// Adds the keys that another worker counted.
    pub(super) fn merge(&mut self, other: &Self) -> Result<()> {
        let sum = self.sum()?;
        if let Some(theirs) = &other.sum {
            sum.add(theirs);
        }
        sum.add_product(other.waiting(), other.waiting(), 1.0, Par::Seq);
        Ok(())
    }

    pub(super) fn trace(&self) -> f64 {
        self.sum.as_ref().map_or(0.0, Triangle::trace)
            + linalg::squared_column_norms(self.waiting()).iter().sum::<f64>()
    }

    /// `sum k kᵀ X` for a `d_in x n` matrix `X`, into zeros.
    pub(super) fn product(&self, X: MatRef<'_, f64>, SX: &mut Mat<f64>, par: Par) {
        match &self.sum {
            None => {}
            Some(sum) if X.ncols() == 1 && X.row_stride() == 1 => {
                let x = X.col(0).try_as_col_major().expect("the stride is 1").as_slice();
                sum.times_vector(x, 1.0, SX.col_as_slice_mut(0), &mut PartialSums::default(), |_, _, _| (), par);
            }
            Some(sum) => sum.times_matrix(X, 1.0, SX.as_mut(), par),
        }
        let coordinates = linalg::product(self.waiting().transpose(), X, par);
        *SX += linalg::product(self.waiting(), coordinates.as_ref(), par);
    }

    /// Writes the state, bit for bit; `None` as zeros.
    pub(super) fn save(counted: Option<&Self>, d_in: usize, out: &mut dyn Write) -> bytes::Result<()> {
        match counted.and_then(|counted| counted.sum.as_ref()) {
            Some(sum) => sum.save(out, 1.0)?,
            None => Triangle::save_zeros(d_in, out)?,
        }
        let waiting = counted.map(Self::waiting);
        bytes::write_len(out, waiting.map_or(0, |keys| d_in * keys.ncols()))?;
        let numbers = waiting.iter().flat_map(|keys| keys.col_iter()).flat_map(|column| column.iter().copied());
        bytes::write_numbers(out, numbers)
    }

    /// Loads a state of the same size. After an error it is unspecified.
    pub(super) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.sum().map_err(bytes::out_of_memory)?.load(from)?;
        let d_in = self.d_in;
        let waiting = bytes::read_slice(from, d_in)?;
        self.waiting = waiting.len() / d_in;
        if self.waiting >= BLOCK {
            return Err(bytes::invalid("more waiting keys than fit"));
        }
        let waiting = MatRef::from_column_major_slice(&waiting, d_in, self.waiting);
        self.block.as_mut().subcols_mut(0, self.waiting).copy_from(waiting);
        Ok(())
    }
}
