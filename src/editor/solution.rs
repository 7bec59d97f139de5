//! What an editor finds for keys on its present `Q`.

use faer::MatRef;

use super::{ClosedFormEditor, History};
use crate::batch::Order;
use crate::engine::Solution;
use crate::error::numerics::Result;
use crate::refresh::memory::Plan;
use crate::scalar::{Scalar, cast};

impl<T: Scalar> ClosedFormEditor<T> {
    /// Keys that leave the space are multiplied exactly, so that nothing of them is left.
    pub(super) fn solve(&self, keys: MatRef<'_, T>, plan: &Plan) -> Result<Solution> {
        if plan.saturated() > 0 { self.Q.solve(cast::<T, f64>(keys).as_ref()) } else { self.Q.solve(keys) }
    }

    /// The solution for keys on the present `Q`, with the recipe's slack.
    pub(super) fn solution(&self, keys: MatRef<'_, T>, order: Order, plan: &Plan) -> Result<Solution> {
        let (mut solution, size) = match (order, self.recipe.history) {
            (Order::Together, _) => (self.solve(keys, plan)?, keys.ncols()),
            (Order::InSequence, History::Absorbed) => (self.Q.solve_in_sequence(keys)?, 1),
            (Order::InSequence, _) => (self.Q.solve_each(keys)?, 1),
        };
        self.Q.set_slack(&mut solution, self.recipe.slack.of(size), order)?;
        Ok(solution)
    }
}
