//! The guides of `docs/`, as pages of this documentation.
//!
//! | guide | about |
//! |---|---|
//! | [`adding_an_editor`] | a method of your own, with or without a recipe |
//! | [`adding_an_adapter`] | a model that the feature `llm` cannot run |
//! | [`adding_a_model_family`] | a family of language models under other names |
//! | [`sessions`] | what a session guarantees, and its files |
//! | [`matrices`] | ridge streams, concept editing, projection, merging: the engine beyond language models |
//! | [`models`] | which models, tokenizers, statistics and facts are read, and which are refused |
//! | [`files`] | the files that are read and written |
//! | [`performance`] | what edits and refreshes cost |
//! | [`design`] | how it works, and why it is built this way |

/// Makes a page of each guide. In a guide, links to other guides are references, so that they lead to pages here and to files
/// in the repository.
macro_rules! guides {
    ($($(#[$when:meta])? $module:ident: $file:literal),+ $(,)?) => {$(
        $(#[$when])?
        #[doc = "[adding-an-editor]: crate::guides::adding_an_editor"]
        #[doc = "[adding-an-adapter]: crate::guides::adding_an_adapter"]
        #[doc = "[adding-a-model-family]: crate::guides::adding_a_model_family"]
        #[doc = "[sessions]: crate::guides::sessions"]
        #[doc = "[matrices]: crate::guides::matrices"]
        #[doc = "[files]: crate::guides::files"]
        #[doc = "[performance]: crate::guides::performance"]
        #[doc = "[performance#alternatives-that-were-measured]: crate::guides::performance#alternatives-that-were-measured"]
        #[doc = "[design]: crate::guides::design"]
        #[doc = "[command]: https://docs.rs/crate/betaedit-core/latest/source/docs/command.md"]
        #[doc = "[experiments]: https://docs.rs/crate/betaedit-core/latest/source/docs/experiments.md"]
        #[doc = ""]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $module {}
    )+};
}

// Their programs are tested with the features that they need.
guides! {
    #[cfg(any(not(doctest), feature = "session"))]
    adding_an_editor: "adding-an-editor.md",
    #[cfg(any(not(doctest), feature = "session"))]
    adding_an_adapter: "adding-an-adapter.md",
    #[cfg(any(not(doctest), feature = "llm"))]
    adding_a_model_family: "adding-a-model-family.md",
    sessions: "sessions.md",
    #[cfg(any(not(doctest), all(feature = "npz", feature = "safetensors")))]
    matrices: "matrices.md",
    models: "models.md",
    files: "files.md",
    performance: "performance.md",
    design: "design.md",
}
