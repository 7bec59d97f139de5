//! Layers at rest: between its turns, what is large of a layer is on disk, and one layer is in memory at a time.

use std::path::Path;

use faer::Mat;

use super::layer::Layer;
use super::rest::{Lasting, Rest, Whereabouts};
use crate::editor::Editor;
use crate::error::{NumericsError, Result};
use crate::scalar::Scalar;
use crate::util::bytes;
use crate::util::scratch::Scratch;

impl<T: Scalar, E: Editor<T> + Clone> Layer<T, E> {
    /// Puts the matrices away, if the layer is one of those that rest. If they cannot be written, they stay in memory.
    pub(super) fn lie_down(&mut self) {
        let Some(mut rest) = self.rest.take() else { return };
        if rest.place == Whereabouts::Memory && self.write_to(&mut rest.file).is_ok() {
            rest.place = Whereabouts::Both;
        }
        if rest.place == Whereabouts::Both {
            self.drop_matrices();
            rest.place = Whereabouts::File;
        }
        self.rest = Some(rest);
    }

    /// Puts the matrices away until the layer's next turn, and forgets the weight from before the last batch.
    pub(super) fn lie_down_once(&mut self, directory: &Path) -> Result<()> {
        if self.rest.is_none() {
            self.rest = Some(Rest::new(directory, Lasting::Once)?);
        }
        self.lie_down();
        self.forget_before();
        // Written or not: what is in memory now stays there.
        self.rest = self.rest.take().filter(|rest| rest.lasting == Lasting::Always || rest.place == Whereabouts::File);
        Ok(())
    }

    /// Brings the matrices back.
    fn get_up(&mut self) -> Result<()> {
        let Some(mut rest) = self.rest.take() else { return Ok(()) };
        let read = match rest.place {
            Whereabouts::File => self.read_from(&rest.file),
            Whereabouts::Memory | Whereabouts::Both => Ok(()),
        };
        if read.is_ok() && rest.lasting == Lasting::Once {
            return Ok(());
        }
        if read.is_ok() && rest.place == Whereabouts::File {
            rest.place = Whereabouts::Both;
        }
        self.rest = Some(rest);
        read
    }

    /// The total comes first, so that it can be read alone.
    fn write_to(&mut self, file: &mut Scratch) -> Result<()> {
        let mut editor = Ok(());
        let written = file.write(|out| {
            self.write_total(out)?;
            editor = self.editor.write_matrices(out);
            Ok(())
        });
        editor?;
        Ok(written.map_err(NumericsError::AtRest)?)
    }

    fn read_from(&mut self, file: &Scratch) -> Result<()> {
        let mut editor = Ok(());
        let total = file.read(|from| {
            self.read_total(from)?;
            editor = self.editor.read_matrices(from);
            Ok(())
        });
        let read = total.map_err(NumericsError::AtRest).and(editor);
        if read.is_err() {
            self.drop_matrices();
        }
        Ok(read?)
    }

    /// A copy of the sum of all updates, wherever it is.
    pub(super) fn total(&self) -> Result<Option<Mat<f64>>> {
        let (d_out, d_in) = self.shape();
        match (self.total_here(), &self.rest) {
            (Some(_), Some(Rest { file, place: Whereabouts::File, .. })) => {
                let total = file.read(|from| bytes::read_matrix(from, d_out, d_in));
                Ok(Some(total.map_err(NumericsError::AtRest)?))
            }
            (total, _) => Ok(total.map(|total| total.to_owned())),
        }
    }

    /// A copy of the matrices in a file of its own; `None` for a layer that does not rest, whose matrices are in memory then.
    pub(super) fn copied(&mut self, directory: Option<&Path>) -> Result<Option<Rest>> {
        self.get_up()?;
        let Some(directory) = directory else { return Ok(None) };
        let mut copy = Rest::new(directory, Lasting::Always)?;
        self.write_to(&mut copy.file)?;
        copy.place = Whereabouts::File;
        Ok(Some(copy))
    }

    /// Takes matrices in another file for its own.
    pub(super) fn take_over(&mut self, rest: Rest) {
        self.drop_matrices();
        self.rest = Some(rest);
    }
}

/// A layer with its matrices in memory, and those of the others put away. What is done to it is written when it lies down.
pub(super) fn awake<T: Scalar, E: Editor<T> + Clone>(layers: &mut [Layer<T, E>], i: usize) -> Result<&mut Layer<T, E>> {
    let layer = awake_to_read(layers, i)?;
    if let Some(rest) = &mut layer.rest {
        rest.place = Whereabouts::Memory;
    }
    Ok(layer)
}

/// As [`awake`], for a layer that will not be changed.
pub(super) fn awake_to_read<T: Scalar, E: Editor<T> + Clone>(
    layers: &mut [Layer<T, E>],
    i: usize,
) -> Result<&mut Layer<T, E>> {
    layers.iter_mut().enumerate().filter(|(j, _)| *j != i).for_each(|(_, layer)| layer.lie_down());
    let layer = &mut layers[i];
    layer.get_up()?;
    Ok(layer)
}
