//! Where a request's body comes from: the client's connection, or one stream of it.
//!
//! What HTTP/2 has to take back (flow control) is taken back here, and only for bytes that the
//! upstream's side has taken: a client can never be more than its window ahead of it.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use h2::RecvStream;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;
use thiserror::Error;

use super::held::Held;

/// Why a request's body broke off.
#[derive(Debug, Error)]
pub(crate) enum SourceError {
    /// On a connection of HTTP/1.1.
    #[error(transparent)]
    Connection(#[from] hyper::Error),
    /// On a stream of HTTP/2.
    #[error(transparent)]
    Stream(#[from] h2::Error),
}

/// The body of a request, as its client sends it.
#[derive(Debug)]
pub(crate) enum Source {
    /// Over HTTP/1.1.
    Connection(Incoming),
    /// None at all, whatever may come on the same way later.
    Empty,
    /// What was read of it before it is sent on, and the rest.
    Held(Box<Held>),
    /// Over HTTP/2.
    Stream(Received),
}

/// What comes on a stream, and how much of its window is to be given back.
#[derive(Debug)]
pub(crate) struct Received {
    stream: RecvStream,
    taken: usize,
    over: bool,
}

impl From<Incoming> for Source {
    fn from(incoming: Incoming) -> Self {
        Self::Connection(incoming)
    }
}

impl From<RecvStream> for Source {
    fn from(stream: RecvStream) -> Self {
        Self::Stream(Received { stream, taken: 0, over: false })
    }
}

impl Received {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        // Who asks for more has taken what there was.
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.stream.flow_control().release_capacity(taken)?;
        }
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(data) = ready!(self.stream.poll_data(cx)) {
            let data = data?;
            self.taken = data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        self.over = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = SourceError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SourceError>>> {
        match self.get_mut() {
            Self::Connection(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(SourceError::from))),
            Self::Empty => Poll::Ready(None),
            Self::Held(held) => held.poll_frame(cx),
            Self::Stream(received) => received
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(SourceError::from))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Connection(incoming) => incoming.is_end_stream(),
            Self::Empty => true,
            Self::Held(held) => held.is_end_stream(),
            Self::Stream(received) => received.over || received.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Connection(incoming) => incoming.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
            Self::Held(held) => held.size_hint(),
            // Its Content-Length, if there is one, tells.
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
