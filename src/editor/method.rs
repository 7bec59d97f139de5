//! A method: settings that make editors.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use faer::Par;

use super::{ClosedFormEditor, Recipe};
use crate::error::numerics::Result;
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;

/// A closed-form editing method: anything with a [`Recipe`].
///
/// A method without one, which computes its updates in another way, implements [`Editor`](super::Editor) directly. For
/// a session it implements `session::SessionMethod` as well.
pub trait Method {
    /// The name in the table of methods, such as `"memit-h"`.
    fn name(&self) -> Cow<'static, str>;

    /// The method's row in the table.
    fn recipe(&self) -> Recipe;

    /// Checks that all hyperparameters are in range. Errors use the method's own names for them.
    ///
    /// # Errors
    /// [`NumericsError::Parameter`](crate::error::NumericsError::Parameter).
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Makes an editor for one layer, from the spectrum of the layer's second moment. The editor uses `par` for all its
    /// work.
    ///
    /// # Errors
    /// Hyperparameters outside their range, a threshold that keeps nothing, or a singular start: see
    /// [`InverseGram::diagonal`](crate::InverseGram::diagonal).
    fn editor<T: Scalar>(&self, spectrum: &Arc<Spectrum>, par: Par) -> Result<ClosedFormEditor<T>>
    where
        Self: Sized,
    {
        self.check()?;
        ClosedFormEditor::new(self.name(), self.recipe(), spectrum, par)
    }

    /// Makes an editor for one layer from the layer's second moment alone, for methods that edit in the whole space. Its start is a
    /// Cholesky factorisation ([`InverseGram::from_moment`](crate::InverseGram::from_moment)); its updates are those of
    /// [`editor`](Self::editor), to rounding.
    ///
    /// # Errors
    /// As [`editor`](Self::editor); [`NumericsError::Unsupported`](crate::error::NumericsError::Unsupported) for a method that
    /// [needs the spectrum](Recipe::needs_spectrum).
    fn editor_from_moment<T: Scalar>(&self, moment: &SecondMoment, par: Par) -> Result<ClosedFormEditor<T>>
    where
        Self: Sized,
    {
        self.check()?;
        ClosedFormEditor::from_moment(self.name(), self.recipe(), moment, par)
    }
}

/// Any method, for example one that was selected by its name.
pub type AnyMethod = Box<dyn Method + Send + Sync>;

impl fmt::Debug for dyn Method + Send + Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method").field("name", &self.name()).field("recipe", &self.recipe()).finish()
    }
}

/// A recipe with a name: for example one of your own.
///
/// ```
/// use betaedit_core::editor::{History, Method, NamedRecipe, Recipe, Space};
/// use betaedit_core::Refresh;
///
/// let recipe = Recipe::new(1.0, 0.1, Space::Whole, History::Absorbed, Refresh::Never);
/// let ridge = NamedRecipe::new("ridge", recipe);
/// assert_eq!(ridge.name(), "ridge");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NamedRecipe {
    name: Cow<'static, str>,
    recipe: Recipe,
}

impl NamedRecipe {
    /// Gives a name to a recipe.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>, recipe: Recipe) -> Self {
        Self { name: name.into(), recipe }
    }
}

impl Method for NamedRecipe {
    fn name(&self) -> Cow<'static, str> {
        self.name.clone()
    }

    fn recipe(&self) -> Recipe {
        self.recipe
    }

    fn check(&self) -> Result<()> {
        self.recipe.check()
    }
}

/// A method behind a pointer is a method.
macro_rules! behind {
    ($pointer:ty) => {
        impl<M: Method + ?Sized> Method for $pointer {
            fn name(&self) -> Cow<'static, str> {
                (**self).name()
            }

            fn recipe(&self) -> Recipe {
                (**self).recipe()
            }

            fn check(&self) -> Result<()> {
                (**self).check()
            }
        }
    };
}

behind!(&M);
behind!(Box<M>);
