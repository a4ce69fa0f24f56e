//! A response's body that was read ahead, whole and in memory: its connection is another's already.
//!
//! It is framed as it would have been without that: with a length if it had one, else in chunks.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body::SizeHint;

/// All of a body that has not been taken yet.
#[derive(Debug)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    has_length: bool,
}

impl Ahead {
    /// Nothing yet of a body that announced itself so.
    pub(super) fn new(hint: SizeHint) -> Self {
        Self { bytes: Vec::new(), trailers: None, has_length: hint.exact().is_some() }
    }

    /// Adds what has come, if there is room for it.
    pub(super) fn add(&mut self, frame: Frame<Bytes>, bound: usize) -> Option<()> {
        match frame.into_data() {
            Ok(data) if self.bytes.len() + data.len() > bound => return None,
            Ok(data) => self.bytes.extend_from_slice(&data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        Some(())
    }

    /// The next part of it.
    pub(super) fn take(&mut self) -> Option<Frame<Bytes>> {
        if !self.bytes.is_empty() {
            return Some(Frame::data(std::mem::take(&mut self.bytes).into()));
        }
        self.trailers.take().map(Frame::trailers)
    }

    pub(super) fn is_over(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.has_length {
            SizeHint::with_exact(self.bytes.len() as u64)
        } else {
            SizeHint::default()
        }
    }
}
