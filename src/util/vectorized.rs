//! Loops over many numbers, with the processor's widest vector instructions.

use pulp::{Arch, NullaryFnOnce};

/// Runs loops with the processor's vector instructions. The closure needs `#[inline(always)]`. Use `for` loops in it: inner
/// closures that are not inlined, such as those of `for_each`, are compiled without these instructions.
pub(crate) fn vectorized<R>(f: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Inlined(f))
}

struct Inlined<F>(F);

impl<R, F: FnMut() -> R> NullaryFnOnce for Inlined<F> {
    type Output = R;

    // Not `FnOnce`: the compiler puts a function around a closure that could be called twice, and may not inline that one.
    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}
