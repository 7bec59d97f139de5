//! An editor behind a pointer is an editor.

use std::io;

use faer::{Mat, MatRef};

use super::{Editor, EditorState, Proposal, Reversal};
use crate::batch::EditBatch;
use crate::error::numerics::Result;
use crate::refresh::RefreshReport;
use crate::scalar::Scalar;
use crate::update::Update;

impl<T: Scalar, E: Editor<T> + ?Sized> Editor<T> for Box<E> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn d_in(&self) -> usize {
        (**self).d_in()
    }

    fn state(&self) -> EditorState {
        (**self).state()
    }

    fn propose(&self, batch: &EditBatch<'_, T>) -> Result<Proposal<T>> {
        (**self).propose(batch)
    }

    fn commit(&mut self, proposal: Proposal<T>) -> Result<()> {
        (**self).commit(proposal)
    }

    fn refresh_if_due(&mut self) -> Result<Option<RefreshReport>> {
        (**self).refresh_if_due()
    }

    fn protect(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        (**self).protect(keys)
    }

    fn reversal(&self) -> Reversal {
        (**self).reversal()
    }

    fn release(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        (**self).release(keys)
    }

    fn product(&self, keys: MatRef<'_, T>) -> Result<Mat<f64>> {
        (**self).product(keys)
    }

    fn stability(&self, keys: MatRef<'_, T>) -> Result<Option<Vec<f64>>> {
        (**self).stability(keys)
    }

    fn save(&self, out: &mut dyn io::Write) -> io::Result<()> {
        (**self).save(out)
    }

    fn load(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        (**self).load(from)
    }

    fn write_matrices(&mut self, out: &mut dyn io::Write) -> Result<()> {
        (**self).write_matrices(out)
    }

    fn drop_matrices(&mut self) {
        (**self).drop_matrices();
    }

    fn read_matrices(&mut self, from: &mut dyn io::Read) -> Result<()> {
        (**self).read_matrices(from)
    }

    fn edit(&mut self, batch: &EditBatch<'_, T>) -> Result<Update<T>> {
        (**self).edit(batch)
    }
}
