//! Work on sequences, shared out among threads.

use std::collections::BTreeMap;

use candle_core::Result as Computed;
use faer::{Mat, Par};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::error::Result;
use crate::second_moment::SecondMoment;

/// Runs consecutive shares of some sequences, a share a thread: threads wait for each other at the end, and not at every product. Results
/// are in the order of the shares.
///
/// * `run`: gets a share, and the threads that it may use
pub(super) fn by_thread<T: Sync, R: Send>(
    sequences: &[T],
    par: Par,
    run: impl Fn(&[T], Par) -> Computed<R> + Sync,
) -> Computed<Vec<R>> {
    let threads = par.degree().clamp(1, sequences.len().max(1));
    if threads == 1 {
        return Ok(vec![run(sequences, par)?]);
    }
    let shares: Vec<_> = sequences.chunks(sequences.len().div_ceil(threads)).collect();
    let par = of_share(par, shares.len());
    shares.into_par_iter().map(|share| run(share, par)).collect()
}

/// The threads of each of so many shares.
pub(super) fn of_share(par: Par, shares: usize) -> Par {
    match par.degree() / shares.max(1) {
        0 | 1 => Par::Seq,
        threads => Par::rayon(threads),
    }
}

/// Counts keys or gradients, a matrix for each layer, in the moments of the layers: layers side by side, if there are enough of them.
pub(super) fn observe_each(moments: &mut BTreeMap<usize, SecondMoment>, found: &[Mat<f32>], par: Par) -> Result<()> {
    let of_layers: Vec<_> = moments.values_mut().zip(found).collect();
    let of_layer = |(moment, found): (&mut SecondMoment, &Mat<f32>), par| moment.observe(found.as_ref(), par);
    if par.degree() > 1 && of_layers.len() >= par.degree() {
        Ok(of_layers.into_par_iter().try_for_each(|one| of_layer(one, Par::Seq))?)
    } else {
        Ok(of_layers.into_iter().try_for_each(|one| of_layer(one, par))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_in_order_and_one_thread_has_all() {
        let sums = |par: Par, n: usize| {
            let all: Vec<usize> = (0..n).collect();
            by_thread(&all, par, |share, par| Ok((share.to_vec(), par.degree()))).unwrap()
        };
        assert_eq!(sums(Par::Seq, 3), [(vec![0, 1, 2], 1)]);
        assert_eq!(sums(Par::rayon(2), 5), [(vec![0, 1, 2], 1), (vec![3, 4], 1)]);
        assert_eq!(sums(Par::rayon(4), 2), [(vec![0], 2), (vec![1], 2)]);
        assert_eq!(sums(Par::rayon(4), 0), [(vec![], 4)]);
    }
}
