//! What an adapter is asked about requests, checked.

use faer::{Mat, Scale};

use super::Session;
use super::transaction::guarded;
use crate::adapter::{Adapter, Companions};
use crate::editor::{Editor, merging};
use crate::error::{Error, ModelError, Result};
use crate::scalar::Scalar;
use crate::util::validate;

/// The columns of some requests at a layer.
pub(super) struct AskedColumns<T: Scalar> {
    pub(super) keys: Mat<T>,
    /// The layer's share of the residuals.
    pub(super) residuals: Mat<T>,
    /// How many columns are of the requests themselves. Behind them are those of their companions.
    pub(super) own: usize,
}

/// The error of companions that belong to other requests than at the layers below.
fn differing(layer: usize) -> Error {
    let problem = "`companions` belong to other requests than at the layers below: return the same at every layer";
    ModelError::Contract { layer, problem: problem.into() }.into()
}

impl<A: Adapter, E: Editor<A::Scalar> + Clone> Session<A, E> {
    /// The columns of some requests at a layer.
    ///
    /// * `groups`: the requests of every column
    /// * `keys`: the keys, if they are known already
    /// * `belonging`: the groups that the companions belong to, as they were at the layers below
    pub(super) fn asked(
        &mut self,
        i: usize,
        requests: &[A::Request],
        groups: &[Vec<usize>],
        keys: Option<Mat<A::Scalar>>,
        belonging: &mut Option<Vec<usize>>,
    ) -> Result<AskedColumns<A::Scalar>> {
        let keys = keys.map_or_else(|| self.keys(i, requests), Ok)?;
        let residuals = self.residuals(i, requests)?;
        let companions = self.companions(i, requests, groups)?;
        let (keys, residuals) = match groups.len() == requests.len() {
            true => (keys, residuals),
            false => (merging::merged(keys.as_ref(), groups), merging::merged(residuals.as_ref(), groups)),
        };
        let own = keys.ncols();
        let here = companions.iter().flat_map(|all| &all.of).map(|(group, _)| *group).collect();
        if *belonging.get_or_insert_with(|| Vec::clone(&here)) != here {
            return Err(differing(self.layers[i].number));
        }
        let (keys, residuals) = match companions {
            None => (keys, residuals),
            Some(companions) => companions.joined(keys.as_ref(), residuals.as_ref())?,
        };
        Ok(AskedColumns { keys, residuals, own })
    }

    pub(super) fn keys(&mut self, i: usize, requests: &[A::Request]) -> Result<Mat<A::Scalar>> {
        let Self { adapter, layers, .. } = self;
        let keys = guarded(|| adapter.keys(layers[i].number, requests))?;
        validate::shape("the adapter's keys", keys.as_ref(), layers[i].shape().1, requests.len())?;
        validate::finite("the adapter's keys", keys.as_ref())?;
        Ok(keys)
    }

    /// The companions at a layer, each with the group of its request.
    fn companions(
        &mut self,
        i: usize,
        requests: &[A::Request],
        groups: &[Vec<usize>],
    ) -> Result<Option<Companions<A::Scalar>>> {
        let Self { adapter, layers, .. } = self;
        let Some(companions) = guarded(|| adapter.companions(layers[i].number, requests))? else { return Ok(None) };
        validate::shape(
            "the adapter's companions",
            companions.keys.as_ref(),
            layers[i].shape().1,
            companions.of.len(),
        )?;
        if let Some(&(index, _)) = companions.of.iter().find(|(of, _)| *of >= requests.len()) {
            return Err(ModelError::UnknownRequest { index, len: requests.len() }.into());
        }
        // Those of an overruled request are not written.
        let mut group_of = vec![None; requests.len()];
        groups.iter().enumerate().for_each(|(i, group)| group.iter().for_each(|&request| group_of[request] = Some(i)));
        let kept: Vec<(usize, (usize, f64))> = (companions.of.iter().enumerate())
            .filter_map(|(j, &(of, times))| Some((j, (group_of[of]?, times))))
            .collect();
        let keys = Mat::from_fn(layers[i].shape().1, kept.len(), |row, j| companions.keys[(row, kept[j].0)]);
        Ok((!kept.is_empty()).then(|| Companions::new(keys, kept.into_iter().map(|(_, of)| of).collect())))
    }

    fn residuals(&mut self, i: usize, requests: &[A::Request]) -> Result<Mat<A::Scalar>> {
        let share = self.share.with_layers_left(self.layers.len() - i);
        let Self { adapter, layers, .. } = self;
        let residuals = guarded(|| adapter.residuals(layers[i].number, requests))?;
        validate::shape("the adapter's residuals", residuals.as_ref(), layers[i].shape().0, requests.len())?;
        validate::finite("the adapter's residuals", residuals.as_ref())?;
        Ok(residuals * Scale(A::Scalar::from_f64(share)))
    }
}
