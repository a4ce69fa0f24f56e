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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use h2::SendStream;
    use http_body_util::BodyExt as _;
    use tokio::io::duplex;

    use super::*;

    /// A body over HTTP/2 whose client may be so many bytes ahead, and where that sends it.
    async fn body(window: u32) -> (Source, SendStream<Bytes>) {
        let (near, far) = duplex(1024 * 1024);
        let mut server = h2::server::Builder::new();
        server.initial_window_size(window);
        let (client, server) =
            tokio::join!(h2::client::handshake(near), server.handshake::<_, Bytes>(far));
        let (mut client, connection) = client.unwrap();
        tokio::spawn(connection);
        let mut server = server.unwrap();
        let put = http::Request::put("http://a.test/").body(()).unwrap();
        let (answer, sending) = client.send_request(put, false).unwrap();
        let (request, respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move {
            let _rest = (client, answer, respond);
            while server.accept().await.is_some() {}
        });
        (request.into_body().into(), sending)
    }

    async fn next(supply: &mut Supply) -> Vec<u8> {
        supply.frame().await.unwrap().unwrap().into_data().unwrap().to_vec()
    }

    async fn rest(supply: Supply) -> (Vec<u8>, Option<HeaderMap>) {
        let all = supply.collect().await.unwrap();
        let trailers = all.trailers().cloned();
        (all.to_bytes().to_vec(), trailers)
    }

    #[tokio::test]
    async fn what_was_read_comes_again_before_the_rest() {
        let (source, mut sending) = body(65_535).await;
        let replay = Replay::new(source, 100);
        sending.send_data("one".into(), false).unwrap();
        let mut first = replay.view();
        assert_eq!((next(&mut first).await, first.is_again()), (b"one".to_vec(), false));
        drop(first);
        let mut second = replay.view();
        assert_eq!((next(&mut second).await, second.is_again()), (b"one".to_vec(), true));
        sending.send_data("two".into(), false).unwrap();
        assert_eq!((next(&mut second).await, second.is_again()), (b"two".to_vec(), false));
        drop(second);
        let mut trailers = HeaderMap::new();
        trailers.insert("sum", "6".parse().unwrap());
        sending.send_trailers(trailers.clone()).unwrap();
        for _ in 0..2 {
            let view = replay.view();
            assert!(!view.is_end_stream());
            assert_eq!(rest(view).await, (b"onetwo".to_vec(), Some(trailers.clone())));
        }
        assert!(replay.is_whole());
    }

    #[tokio::test]
    async fn what_is_beyond_the_bound_is_let_go_and_still_goes_on() {
        let (source, mut sending) = body(65_535).await;
        let replay = Replay::new(source, 5);
        let mut first = replay.view();
        for part in ["one", "two", "six"] {
            sending.send_data(part.into(), false).unwrap();
            assert_eq!(next(&mut first).await, part.as_bytes());
            assert_eq!(replay.is_whole(), part == "one");
        }
        assert!(replay.0.as_ref().unwrap().borrow().bytes.is_empty());
        sending.send_data(Bytes::new(), true).unwrap();
        assert_eq!(rest(first).await.0, b"");
    }

    #[tokio::test]
    async fn what_nobody_has_read_is_whole_however_long_it_is() {
        let (source, mut sending) = body(65_535).await;
        let replay = Replay::new(source, 0);
        drop(replay.view());
        assert!(replay.is_whole());
        sending.send_data("all".into(), true).unwrap();
        assert_eq!(rest(replay.view()).await.0, b"all");
    }

    #[tokio::test]
    async fn nothing_is_kept_for_the_last_attempt() {
        let (source, mut sending) = body(65_535).await;
        let replay = Replay::new(source, 100);
        let mut view = replay.view();
        drop(replay);
        sending.send_data("one".into(), false).unwrap();
        assert_eq!(next(&mut view).await, b"one");
        let Supply::Kept(view) = view else { panic!("no view") };
        assert!(view.kept.borrow().bytes.is_empty());
    }

    #[tokio::test]
    async fn a_window_opens_for_what_an_attempt_has_taken_and_once() {
        let (source, mut sending) = body(10).await;
        let replay = Replay::new(source, 100);
        sending.reserve_capacity(100);
        sending.send_data(vec![1; 30].into(), true).unwrap();
        let mut first = replay.view();
        assert_eq!(next(&mut first).await, [1; 10]);
        drop(first);
        let mut second = replay.view();
        assert_eq!(next(&mut second).await, [1; 10]);
        // Unless it asks for more, it has taken nothing that opened the window.
        tokio::task::yield_now().await;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Supply::Kept(view) = &mut second else { panic!("no view") };
        assert_eq!(view.kept.borrow().bytes.len(), 10);
        assert!(Pin::new(&mut *view).poll_frame(&mut cx).is_pending());
        assert_eq!(rest(second).await.0, [1; 20]);
        assert_eq!(rest(replay.view()).await.0, [1; 30]);
    }

    #[tokio::test]
    async fn an_empty_body_has_nothing_to_keep() {
        let replay = Replay::new(Source::Empty, 100);
        assert!(replay.0.is_none() && replay.is_whole());
        let mut view = replay.view();
        assert!(view.is_end_stream());
        assert!(poll_fn(|cx| Pin::new(&mut view).poll_frame(cx)).await.is_none());
    }
}
