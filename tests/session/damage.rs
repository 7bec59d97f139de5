//! Journals whose checks are right and whose contents are not: refused, or a session that is sound.

use super::durability::Folder;
use crate::common::Random;

use super::small::Journals;

#[test]
fn journals_that_hold_nonsense_are_refused_or_sound() {
    let folder = Folder::new("nonsense");
    let journals = Journals::new(folder.path());
    let good = journals.good();
    assert!(good.iter().all(|bytes| journals.check(bytes)));
    let mut random = Random::new(8);
    let mut below = |n: usize| (random.uniform() * n as f64) as usize;
    let (mut taken, runs) = (0, 500);
    for _ in 0..runs {
        let mut bytes = good[below(good.len())].clone();
        for _ in 0..=below(3) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at] = [0, 1, 2, 3, 127, 255][below(6)],
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let other = &good[below(good.len())];
                    let from = 1 + below(other.len() - 1);
                    bytes.extend(&other[from..]);
                }
            }
        }
        taken += usize::from(journals.check(&bytes));
    }
    assert!(taken > runs / 10 && taken < runs, "{taken}");
}

#[test]
#[ignore = "writes into fuzz/corpus, what the fuzzer starts from"]
fn journal_seeds() {
    let folder = Folder::new("seeds");
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/journal");
    std::fs::create_dir_all(&corpus).unwrap();
    for (i, good) in Journals::new(folder.path()).good().iter().enumerate() {
        std::fs::write(corpus.join(format!("good-{i}")), good).unwrap();
    }
}
