//! Erases a concept from the cross-attention of a made-up diffusion model, by UCE and by SPEED.
//!
//! ```sh
//! cargo run --release --example erase_concept
//! ```
//!
//! The projections of all blocks read the same embeddings of the prompt. One system is solved, and its solution is written into each
//! of them. With a real model, take the embeddings from its text encoder, and the weights from its file; `betaedit solve` does it
//! with files.

use std::error::Error;

use betaedit_core::concept::{ConceptEdit, Speed, Uce};
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::{Orientation, Threshold};

const D: usize = 96;
const PAR: Par = Par::Seq;

fn main() -> Result<(), Box<dyn Error>> {
    // The concept's tokens, and what they are to be drawn as.
    let (concept, anchors) = (embeddings(3, 1), embeddings(3, 2));
    let preserved = embeddings(40, 3);
    let start_token = embeddings(1, 4);
    let blocks: Vec<Mat<f64>> = (0..4).map(|block| noise(32 << block, D, 100 + block)).collect();

    let uce = Uce::default().edit(concept.as_ref(), Some(preserved.as_ref()), PAR)?;
    let speed = Speed::default().with_threshold(Threshold::Absolute(1e-3)).with_ridge(0.1);
    let speed = speed.edit(concept.as_ref(), preserved.as_ref(), Some(start_token.as_ref()), PAR)?;
    println!(
        "{:>6}  {:>5}  {:>11}  {:>17}  {:>11}",
        "method", "block", "not erased", "preserved changed", "start token"
    );
    for (method, edit) in [("UCE", uce), ("SPEED", speed)] {
        for (block, weight) in blocks.iter().enumerate() {
            let edited = edited(weight, &edit, &anchors)?;
            let target = weight * &anchors;
            let missed = (&edited * &concept - &target).norm_l2() / (weight * &concept - &target).norm_l2();
            let changed = |keys: MatRef<'_, f64>| ((&edited - weight) * keys).norm_l2() / (weight * keys).norm_l2();
            let (others, start) = (changed(preserved.as_ref()), changed(start_token.as_ref()));
            println!("{method:>6}  {block:>5}  {missed:>11.4}  {others:>17.1e}  {start:>11.1e}");
            if missed > 0.2 || others > 0.1 {
                return Err("the concept must be gone, and the others must stay".into());
            }
        }
    }
    Ok(())
}

fn edited(weight: &Mat<f64>, edit: &ConceptEdit, anchors: &Mat<f64>) -> Result<Mat<f64>, Box<dyn Error>> {
    let update = edit.update_to_anchors(weight.as_ref(), anchors.as_ref())?;
    let mut edited = weight.clone();
    update.apply_to(edited.as_mut(), Orientation::OutputsByInputs, PAR)?;
    Ok(edited)
}

/// Embeddings as columns, of length 10 or so.
fn embeddings(count: usize, seed: usize) -> Mat<f64> {
    noise(D, count, seed)
}

fn noise(rows: usize, cols: usize, seed: usize) -> Mat<f64> {
    // A hash of the place, uniform between -1.7 and 1.7.
    let hash = |i: usize, j: usize| {
        let x = (i * 7919 + j * 104_729 + seed * 1_299_709) as u64;
        let x = (x ^ (x >> 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (x ^ (x >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11
    };
    Mat::from_fn(rows, cols, |i, j| 3.4 * (hash(i, j) as f64 / (1_u64 << 53) as f64 - 0.5))
}
