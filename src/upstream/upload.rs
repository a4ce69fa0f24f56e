//! A request's body on its way up: what it is made of, what holds it back and what times it.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use tokio::time::Sleep;

use super::replay::Supply;
use super::source::SourceError;
use crate::base::clock::Pulse;

/// How long a request's body waits for the upstream's 100 before it is sent all the same
/// (RFC 9110 §10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens when the upstream asks for the body with a 100.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.open.store(true, Release);
        self.waker.wake();
    }
}

/// The body of a request on its way up.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Stream(Box<Upload>),
}

/// A body that streams, with what holds it back and what times it.
#[derive(Debug)]
pub(crate) struct Upload {
    source: Supply,
    gate: Option<(Arc<Gate>, Pin<Box<Sleep>>)>,
    pulse: Rc<Pulse>,
}

impl RequestBody {
    /// `gate` holds the body back until it opens, or [`CONTINUE_TIMEOUT`] has passed.
    pub(crate) fn new(source: Supply, gate: Option<Arc<Gate>>, pulse: Rc<Pulse>) -> Self {
        if source.is_end_stream() {
            return Self::Empty;
        }
        let gate = gate.map(|gate| (gate, Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT))));
        Self::Stream(Box::new(Upload { source, gate, pulse }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = SourceError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SourceError>>> {
        let Self::Stream(upload) = self.get_mut() else { return Poll::Ready(None) };
        if let Some((gate, timeout)) = &mut upload.gate {
            gate.waker.register(cx.waker());
            if !gate.open.load(Acquire) && timeout.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            upload.gate = None;
        }
        let frame = Pin::new(&mut upload.source).poll_frame(cx);
        match &frame {
            Poll::Pending => upload.pulse.upload(0, true),
            Poll::Ready(frame) => {
                let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                let more = frame.is_some() && !upload.source.is_end_stream();
                // What is sent again is no more of the client's.
                let bytes = bytes.filter(|_| !upload.source.is_again());
                upload.pulse.upload(bytes.map_or(0, |bytes| bytes.len() as u64), more);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(upload) => upload.source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(upload) => upload.source.size_hint(),
        }
    }
}
