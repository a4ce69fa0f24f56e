//! How much of everything a client may send before its request is refused.
//!
//! Numbers alone; who reads the bytes obeys them.

use crate::base::framing::MAX_CHUNK_EXTRAS;

/// What one message may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a request's head.
    pub head_size: u32,
    /// Fields in a request's head.
    pub fields: u32,
    /// Bytes of a request line.
    pub request_line: u32,
    /// Bytes of chunk extensions in a request's body.
    pub chunk_extensions: u32,
    /// Bytes of a request's trailer section.
    pub trailers: u32,
    /// Interim responses (1xx) to one request.
    pub interim: u32,
}

impl Bounds {
    /// As many fields as hyper takes without more room on its stack.
    pub(crate) const USUAL_FIELDS: u32 = 100;
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head_size: 64 * 1024,
            fields: Self::USUAL_FIELDS,
            request_line: 16 * 1024,
            chunk_extensions: MAX_CHUNK_EXTRAS,
            trailers: MAX_CHUNK_EXTRAS,
            interim: 32,
        }
    }
}
