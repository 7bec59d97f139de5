//! Where tensors come from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::error::Result;
use crate::llm::numbers::StoredNumbers;

/// A tensor as it is stored.
#[derive(Clone, PartialEq)]
pub struct StoredTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, the last index fastest.
    pub numbers: StoredNumbers,
}

impl fmt::Debug for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredTensor").field("shape", &self.shape).field("numbers", &self.numbers).finish()
    }
}

/// Where the tensors of a model come from: files, or a map from names to tensors.
pub trait Source {
    /// A tensor, or `None` if there is none of that name.
    ///
    /// # Errors
    /// A file that cannot be read, or numbers of an unknown type.
    fn tensor(&mut self, name: &str) -> Result<Option<StoredTensor>>;

    /// The file that errors name.
    fn path(&self) -> &Path;

    /// The names of all tensors. A model that leaves any of them unread is refused, except those that its family calls
    /// [`unused`](crate::llm::families::TensorLayout::unused). By default no names are known, and nothing is checked.
    fn names(&self) -> Vec<String> {
        vec![]
    }
}

impl Source for BTreeMap<String, StoredTensor> {
    fn tensor(&mut self, name: &str) -> Result<Option<StoredTensor>> {
        Ok(self.get(name).cloned())
    }

    fn path(&self) -> &Path {
        Path::new("tensors in memory")
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
