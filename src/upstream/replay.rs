//! A request's body that is kept, so that another attempt can send it again.
//!
//! The source is read once. What comes goes on at once, as it would without this, and is kept beside:
//! a further attempt gets what is kept first and then the rest of the source. What is longer than the
//! bound is let go as soon as that is known, and then has been sent once for all. Flow control stays
//! with the source: it is asked for more only by an attempt that has taken all before.
//!
//! Invariant: at most one [`View`] reads from the source at a time; whoever has a new one has dropped
//! the one before.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;

use super::source::Source;
use super::source::SourceError;

/// A body for several attempts. Whoever holds it may ask for it again.
#[derive(Debug)]
pub(crate) struct Replay(Option<Rc<RefCell<Kept>>>);

/// The body as one attempt reads it, from its beginning.
#[derive(Debug)]
pub(crate) struct View {
    kept: Rc<RefCell<Kept>>,
    /// Bytes of what is kept that have been read.
    read: usize,
    had_trailers: bool,
    /// What came last was sent before, by another attempt.
    is_again: bool,
}

/// What the body of one attempt is made of.
#[derive(Debug)]
pub(crate) enum Supply {
    /// The source itself: there is no other attempt.
    Once(Source),
    Kept(View),
}

/// What has been read of the source.
#[derive(Debug)]
struct Kept {
    source: Source,
    bound: usize,
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Something was read that is not kept.
    is_gone: bool,
    /// The source has said its last.
    is_over: bool,
}

impl Replay {
    /// Keeps up to `bound` bytes.
    ///
    /// PERF: a body that is empty costs nothing.
    pub(crate) fn new(source: Source, bound: usize) -> Self {
        Self((!source.is_end_stream()).then(|| {
            let (bytes, trailers, is_gone, is_over) = (Vec::new(), None, false, false);
            Rc::new(RefCell::new(Kept { source, bound, bytes, trailers, is_gone, is_over }))
        }))
    }

    /// The body from its beginning, for as long as it is whole.
    pub(crate) fn view(&self) -> Supply {
        debug_assert!(self.is_whole(), "what was let go is sent again");
        let Some(kept) = &self.0 else { return Supply::Once(Source::Empty) };
        let kept = Rc::clone(kept);
        Supply::Kept(View { kept, read: 0, had_trailers: false, is_again: false })
    }

    /// Whether all of it is still to be had.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|kept| !kept.borrow().is_gone)
    }
}

impl View {
    /// Whether there is nobody left who could ask for it again.
    fn is_last(&self) -> bool {
        Rc::strong_count(&self.kept) == 1
    }
}

impl Kept {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            if self.bytes.len() + data.len() > self.bound {
                return self.let_go();
            }
            if self.bytes.is_empty() {
                // PERF: what comes in one piece costs one allocation of its size.
                self.bytes.reserve_exact(data.len());
            }
            self.bytes.extend_from_slice(data);
        } else {
            self.trailers = frame.trailers_ref().cloned();
        }
    }

    fn let_go(&mut self) {
        self.is_gone = true;
        self.bytes = Vec::new();
        self.trailers = None;
    }
}

impl From<Source> for Supply {
    fn from(source: Source) -> Self {
        Self::Once(source)
    }
}

impl Supply {
    /// Whether what came last was sent before, by another attempt.
    pub(crate) fn is_again(&self) -> bool {
        match self {
            Self::Once(_) => false,
            Self::Kept(view) => view.is_again,
        }
    }
}

impl Body for Supply {
    type Data = Bytes;
    type Error = SourceError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SourceError>>> {
        match self.get_mut() {
            Self::Once(source) => Pin::new(source).poll_frame(cx),
            Self::Kept(view) => Pin::new(view).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Once(source) => source.is_end_stream(),
            Self::Kept(view) => view.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Once(source) => source.size_hint(),
            Self::Kept(view) => view.size_hint(),
        }
    }
}

impl Body for View {
    type Data = Bytes;
    type Error = SourceError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SourceError>>> {
        let this = self.get_mut();
        let is_last = this.is_last();
        let kept = &mut *this.kept.borrow_mut();
        this.is_again = true;
        if this.read < kept.bytes.len() {
            let again = Bytes::copy_from_slice(&kept.bytes[this.read..]);
            this.read = kept.bytes.len();
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        if let Some(trailers) = kept.trailers.as_ref().filter(|_| !this.had_trailers) {
            this.had_trailers = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        this.is_again = false;
        if kept.is_over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut kept.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) if kept.is_gone => {}
            Some(Ok(_)) if is_last => kept.let_go(),
            Some(Ok(frame)) => kept.keep(frame),
            Some(Err(_)) => kept.let_go(),
            None => kept.is_over = true,
        }
        this.read = kept.bytes.len();
        this.had_trailers = kept.trailers.is_some();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        let has_more =
            self.read < kept.bytes.len() || kept.trailers.is_some() && !self.had_trailers;
        !has_more && (kept.is_over || kept.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let before = (kept.bytes.len() - self.read) as u64;
        match kept.source.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(before + rest),
            None => SizeHint::default(),
        }
    }
}
