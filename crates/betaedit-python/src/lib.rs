//! The extension module `betaedit._core`: the types of `betaedit-core` for Python.
//!
//! Every class here is a shell: it reads arguments, releases the interpreter, calls the library, and returns numpy arrays or plain values.
//! What is only convenience (methods as classes, files of models, models of `transformers`) is Python, beside this module.
//!
//! | file | holds |
//! |---|---|
//! | `arrays` | numpy arrays and what can become one, as views and back |
//! | `errors`, `settings`, `working` | exceptions; settings and reports; long calls without the interpreter |
//! | `moment`, `spectrum`, `projector`, `method`, `editor`, `update`, `metrics` | the library's types of these names |
//! | `session`, `adapter` | sessions, on adapters that are Python objects |
//! | `files` | statistics, deltas, LoRA adapters, spectra |
//! | `shipped` | texts, facts and names that come with the library |

#![allow(non_snake_case)]

mod adapter;
mod arrays;
mod editor;
mod errors;
mod files;
mod method;
mod metrics;
mod moment;
mod projector;
mod session;
mod settings;
mod shipped;
mod spectrum;
mod update;
mod working;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<moment::SecondMoment>()?;
    module.add_class::<spectrum::Spectrum>()?;
    module.add_class::<spectrum::KeyStatistics>()?;
    module.add_class::<projector::Projector>()?;
    module.add_class::<method::Method>()?;
    module.add_class::<editor::Editor>()?;
    module.add_class::<editor::Proposal>()?;
    module.add_class::<update::Update>()?;
    module.add_class::<metrics::RunningTotal>()?;
    module.add_class::<metrics::Retention>()?;
    module.add_class::<session::Session>()?;
    module.add_class::<files::Statistics>()?;
    module.add_class::<files::LoraAdapter>()?;
    method::add_functions(module)?;
    metrics::add_functions(module)?;
    adapter::add_functions(module)?;
    session::add_functions(module)?;
    files::add_functions(module)?;
    shipped::add_functions(module)
}
