//! Dense kernels: products on all cores, factorisations with checked pivots, decompositions that are verified.

pub(crate) mod cholesky;
pub(crate) mod lanczos;
pub(crate) mod memory;
pub(crate) mod product;
pub(crate) mod range;
pub(crate) mod svd;
pub(crate) mod symmetric;
pub(crate) mod tolerance;
pub(crate) mod triangle;

pub(crate) use cholesky::cholesky;
pub(crate) use memory::Need;
pub(crate) use product::*;
pub(crate) use svd::{Svd, svd};
