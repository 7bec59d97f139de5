//! The methods, one file a paper.

pub(super) mod alphaedit;
pub(super) mod betaedit;
pub(super) mod emmet;
pub(super) mod encore;
pub(super) mod memit;
pub(super) mod null_space;
pub(super) mod pmet;
pub(super) mod rlsedit;
pub(super) mod simie;
