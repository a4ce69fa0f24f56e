//! The beginning of a request's body, read before the request is sent, and sent on as it came.
//!
//! It is no copy for a second attempt: once sent it is gone. How much may be held is for who fills it
//! to say; nothing is read here that nobody asked for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;

use super::source::Source;
use super::source::SourceError;

/// What has been read of a body, and where the rest comes from.
#[derive(Debug)]
pub(crate) struct Held {
    front: VecDeque<Bytes>,
    length: u64,
    trailers: Option<HeaderMap>,
    rest: Source,
    over: bool,
}

impl Held {
    pub(crate) fn new(rest: Source) -> Self {
        Self { front: VecDeque::new(), length: 0, trailers: None, rest, over: false }
    }

    /// A whole body.
    pub(crate) fn of(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        let front = VecDeque::from([bytes]);
        Self { front, length, trailers: None, rest: Source::Empty, over: true }
    }

    /// Bytes that are held.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads one more part; whether there was one.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, SourceError>> {
        let frame = if self.over { None } else { ready!(Pin::new(&mut self.rest).poll_frame(cx)) };
        let Some(frame) = frame else {
            self.over = true;
            return Poll::Ready(Ok(false));
        };
        match frame?.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                self.length += data.len() as u64;
                self.front.push_back(data);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        Poll::Ready(Ok(true))
    }

    /// All that is held, in one piece.
    pub(crate) fn bytes(&self) -> Bytes {
        if let [one] = self.front.as_slices().0
            && self.front.len() == 1
        {
            return one.clone();
        }
        self.front.iter().flat_map(|part| part.iter().copied()).collect()
    }

    /// Whether all of the body is held.
    pub(crate) fn is_whole(&self) -> bool {
        self.over
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SourceError>>> {
        if let Some(data) = self.front.pop_front() {
            self.length -= data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.front.is_empty() && self.trailers.is_none() && (self.over || self.rest.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let rest = if self.over { Some(0) } else { self.rest.size_hint().exact() };
        match rest {
            Some(rest) => SizeHint::with_exact(self.length + rest),
            None => SizeHint::default(),
        }
    }
}
