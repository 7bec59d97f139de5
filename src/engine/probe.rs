//! A probe of the state: measures how far rounding has moved it.

use faer::{Mat, MatRef, Par};

use super::unsettled::{Fate, Unsettled};
use crate::linalg;
use crate::linalg::symmetric::Symmetric;

/// A pair with `Q a = x` in exact arithmetic, updated by algebra alone at every change of `Q`.
#[derive(Clone)]
pub(super) struct Probe {
    pub(super) a: Mat<f64>,
    pub(super) x: Mat<f64>,
}

impl Probe {
    pub(super) fn new(Q: &Symmetric) -> Self {
        // Any generic vector will do.
        let a = Mat::from_fn(Q.dim(), 1, |i, _| (1.0 + i as f64 * 1.618_033_988_749_895).sin());
        let mut x = Mat::new();
        Q.product(a.as_ref(), &mut x, &mut Default::default());
        Self { a, x }
    }

    /// `A <- A ± K Kᵀ` keeps `x` and changes `a = A x`.
    pub(super) fn absorb(&mut self, K: MatRef<'_, f64>, sign: f64) {
        for k in K.col_iter() {
            let share = sign * k.iter().zip(self.x.col_as_slice(0)).map(|(k, x)| k * x).sum::<f64>();
            self.a.col_as_slice_mut(0).iter_mut().zip(k.iter()).for_each(|(a, k)| *a += share * k);
        }
    }

    /// Follows the unsettled keys one by one, with the pending column of each, up to a common scale of their products.
    pub(super) fn follow<'a>(&mut self, unsettled: &Unsettled, scale: f64, column: impl Fn(usize) -> MatRef<'a, f64>) {
        let K = unsettled.as_mat(self.a.nrows());
        for (i, fate) in unsettled.fates.iter().enumerate() {
            match fate {
                Fate::Absorbed => self.absorb(K.subcols(i, 1), 1.0),
                Fate::Removed => self.change(column(i), column(i), -scale),
            }
        }
    }

    /// Any other change `Q <- Q + B Cᵀ` keeps `a` and changes `x = Q a`.
    pub(super) fn change(&mut self, B: MatRef<'_, f64>, C: MatRef<'_, f64>, sign: f64) {
        let coordinates = linalg::product(C.transpose(), self.a.as_ref(), Par::Seq);
        self.x += linalg::product(B, coordinates.as_ref(), Par::Seq) * faer::Scale(sign);
    }
}
