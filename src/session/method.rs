//! What a session needs from a method: the first editor of each layer, and what identifies the method on disk.

use std::sync::Arc;

use faer::{Mat, Par};

use crate::editor::{ClosedFormEditor, Description, Editor, Merging, Method, Recipe, Share};
use crate::error::Result;
use crate::key_statistics::KeyStatistics;
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::util::shown::{Shown, shown};

/// A layer of a session and the statistics of its keys.
#[derive(Clone)]
#[non_exhaustive]
pub struct LayerStatistics {
    /// The layer, by the adapter's number.
    pub layer: usize,
    /// The statistics of the layer's keys.
    pub statistics: KeyStatistics,
    /// Keys to draw from, `d_in x m`, for methods with [`History::Random`](crate::editor::History::Random).
    pub random_keys: Option<Arc<Mat<f64>>>,
    /// The second moment of the gradients of the loss by the layer's output, `d_out x d_out`, for the gauge of the
    /// [expected loss](crate::metrics::expected_loss).
    pub gradients: Option<Arc<SecondMoment>>,
}

shown!([] LayerStatistics, "LayerStatistics", self => {
    "layer": self.layer,
    "statistics": self.statistics,
    "random_keys": self.random_keys.as_ref().map(|keys| Shown::from(keys.shape())),
    "gradients": self.gradients.as_ref().map(|gradients| gradients.d_in()),
});

impl LayerStatistics {
    /// The statistics of a layer, without random keys and gradients.
    #[must_use]
    pub fn new(layer: usize, statistics: KeyStatistics) -> Self {
        Self { layer, statistics, random_keys: None, gradients: None }
    }
}

/// A method that a [`Session`](super::Session) can run. Every [`Method`] is one. Implement this trait for a method of your own
/// whose editor is not a [`ClosedFormEditor`], see `docs/adding-an-editor.md`.
pub trait SessionMethod<T: Scalar>: Send + Sync {
    /// The editor of a layer.
    type Editor: Editor<T> + Clone;

    /// The method and all settings that its results depend on. A session in a directory opens only with an equal description.
    fn description(&self) -> Description;

    /// The editor of a layer before the first edit. A session calls this when it is opened, and again when it replays its edits
    /// from the start.
    ///
    /// # Errors
    /// Settings outside their range, or statistics that do not fit.
    fn layer_editor(&self, layer: &LayerStatistics, par: Par) -> Result<Self::Editor>;

    /// How residuals are divided among the layers.
    fn share(&self) -> Share {
        Share::Even
    }

    /// Whether edits of a batch with nearly parallel keys, or with the same subject, are merged into one.
    fn merging(&self) -> Merging {
        Merging::Never
    }

    /// The recipe, if there is one, to recognise sessions of the first format.
    #[doc(hidden)]
    fn first_format(&self) -> Option<Recipe> {
        None
    }
}

impl<T: Scalar, M: Method + Send + Sync> SessionMethod<T> for M {
    type Editor = ClosedFormEditor<T>;

    fn description(&self) -> Description {
        self.recipe().description()
    }

    fn layer_editor(&self, layer: &LayerStatistics, par: Par) -> Result<ClosedFormEditor<T>> {
        self.check()?;
        // The session merges requests itself, once for all layers.
        let recipe = Recipe { merging: Merging::Never, ..self.recipe() };
        let editor = ClosedFormEditor::with_statistics(self.name(), recipe, &layer.statistics, par)?;
        match &layer.random_keys {
            Some(keys) => Ok(editor.with_random_keys(keys)?),
            None => Ok(editor),
        }
    }

    fn share(&self) -> Share {
        self.recipe().share
    }

    fn merging(&self) -> Merging {
        self.recipe().merging
    }

    fn first_format(&self) -> Option<Recipe> {
        Some(self.recipe())
    }
}
