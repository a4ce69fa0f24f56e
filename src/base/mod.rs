//! Floor 0: values without I/O. Every other module may use these; these use nothing of ours.

pub mod authority;
pub mod clock;
pub(crate) mod framing;
pub mod identity;
pub(crate) mod network;
pub mod pattern;
pub(crate) mod socket;
