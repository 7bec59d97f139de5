//! The statement that needs no conditions: the stream is one ridge regression.

use betaedit_core::Refresh;
use betaedit_core::editor::Recipe;
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, Scale};

use super::contender::{Contender, Past, projector};
use super::long_stream::{Residuals, Run, Trial};
use super::random::Random;
use super::world::{D_IN, EDITS, World};
use super::{PAR, ensure};
use crate::terminal::{Done, Terminal};

/// Section 5: the stronger statement, checked against a dense solve and in another order.
pub fn show(world: &World, trials: &[Trial], random: &mut Random, terminal: Terminal) -> Done {
    terminal.say(
        "
5. WHAT IS TRUE WITHOUT CONDITIONS

With measured residuals, editing with history is recursive least squares: after all edits, D is the
unique matrix that minimises

    cost(D) = sum_i |v_i - (W0 + D) k_i|^2 + tr(D A0 D^T),

in the space in which the method writes, whatever the order of the edits. No other D has both a
smaller total error and a smaller tr(D A0 D^T). Nothing is assumed about updates or about s.

Here D is compared with the minimiser from one dense system for all edits, with each method's own
A0: the relative distance, with the edits in order and shuffled, and the cost over the least cost.

                            distance    shuffled        cost / least",
    );
    let order = random.permutation(EDITS);
    for Trial { contender, measured, .. } in trials {
        let solution = ridge_solution(world, contender)?;
        let shuffled = Run::of(world, contender, Residuals::Measured, &order)?;
        let [here, there] = [measured, &shuffled].map(|run| (&run.total - &solution).norm_l2() / solution.norm_l2());
        let ratio = cost(world, &contender.recipe, &measured.total)? / cost(world, &contender.recipe, &solution)?;
        terminal.say(format!("  {:<22} {here:>11.1e} {there:>11.1e} {ratio:>19.12}", contender.name));
        if contender.past == Past::Keys && contender.recipe.refresh == Refresh::Never {
            ensure(here < 1e-10 && there < 1e-10, "editing with history is not the one-shot solution")?;
            ensure((ratio - 1.0).abs() < 1e-10, "editing with history does not have the least cost")?;
        }
    }
    terminal.say("\nBetaEdit's space changes with every refresh; the comparison uses the first one.");
    Ok(())
}

/// The minimiser `D = V Kᵀ (A0 + K Kᵀ)⁻¹` in a method's space, as the papers print it, by a dense LU: for `D = V Xᵀ`,
/// `(P (weight C + K Kᵀ) + ridge I) X = P K`.
fn ridge_solution(world: &World, contender: &Contender) -> Done<Mat<f64>> {
    let (P, K) = (projector(world, &contender.recipe)?.to_dense(PAR), &world.keys);
    let A = world.moment.to_mean(PAR)? * Scale(contender.recipe.weight) + K * K.transpose();
    let system = &P * A + Mat::<f64>::identity(D_IN, D_IN) * Scale(contender.recipe.ridge);
    Ok(&world.goals * system.partial_piv_lu().solve(&P * K).transpose())
}

fn cost(world: &World, recipe: &Recipe, D: &Mat<f64>) -> Done<f64> {
    let error = D * &world.keys - &world.goals;
    let leakage = (D * world.moment.to_mean(PAR)? * D.transpose()).diagonal().column_vector().sum();
    Ok(error.squared_norm_l2() + recipe.weight * leakage + recipe.ridge * D.squared_norm_l2())
}
