//! CONNECT on a stream (RFC 9113 §8.5): a slot and a connection first, then 200, then DATA both ways.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf as _;
use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::SendStream;
use http::Request;
use http::Response;
use http::header;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::Outcome;
use super::Stream;
use super::request;
use super::wire::Wire;
use crate::policy::access::Given;
use crate::proxy::Thread;
use crate::proxy::asker::Asker;
use crate::proxy::head::Flaw;
use crate::proxy::headers;
use crate::proxy::reject::Reject;
use crate::proxy::relay;
use crate::proxy::relay::End;
use crate::proxy::relay::Near;
use crate::proxy::relay::Side;
use crate::proxy::status;
use crate::proxy::tunnel;
use crate::proxy::tunnel::Line;
use crate::telemetry::metrics::Route;
use crate::upstream::conn::Conn;

/// Serves a CONNECT, to the end of its tunnel or of its refusal.
pub(super) async fn serve(
    thread: &Rc<Thread>,
    stream: Rc<Stream>,
    request: Request<RecvStream>,
) -> Outcome {
    let (head, receiving) = request.into_parts();
    let target = head.uri.authority().map_or_else(String::new, ToString::to_string);
    let asker = Asker::Stream(Rc::clone(&stream));
    let mut line = Line::begin(thread, asker.peer(), target);
    let wait = head.headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let wait = headers::wait(wait);
    let head = Request::from_parts(head, ());
    let opened = match judge(thread, &head) {
        // Boxed, so that the tunnel does not keep the room for a dial.
        Ok(()) => {
            let given = Given::of(head.headers());
            Box::pin(tunnel::open(thread, &asker, &mut line, wait, given)).await
        }
        Err(flaw) => Some(Err(Reject::Flaw(flaw))),
    };
    let reject = match opened {
        Some(Ok(upstream)) => {
            thread.cells.answered(Route::Connect, 200);
            let mut response = Response::new(());
            if thread.settings.explain
                && let Some(told) = status::explained(upstream.waited(), upstream.attempts(), false)
            {
                response.headers_mut().insert("proxy-status", told);
            }
            if let Some(told) = line.told.take() {
                told.put(response.headers_mut());
            }
            let Some(sending) = stream.answer(response, false) else {
                line.end(thread, 200, None, (0, 0), "client left");
                return Outcome::Left;
            };
            drop(head);
            run(thread, &stream, (receiving, sending), upstream, line).await;
            return Outcome::Answered;
        }
        Some(Err(reject)) => reject,
        None => {
            line.end(thread, 0, None, (0, 0), "client left");
            return Outcome::Left;
        }
    };
    refuse(thread, &stream, reject, line)
}

/// Sends the refusal of a CONNECT, and tells of it.
pub(super) fn refuse(thread: &Thread, stream: &Stream, reject: Reject, mut line: Line) -> Outcome {
    let mut answer = reject.answer(thread.settings.manner());
    answer.told = line.told.take();
    let status = answer.status.as_u16();
    thread.cells.answered(Route::Connect, status);
    line.end(thread, status, Some(answer.error), (0, 0), "refused");
    request::refuse(stream, answer);
    Outcome::Answered
}

fn judge(thread: &Thread, head: &Request<()>) -> Result<(), Flaw> {
    request::check(thread, head)?;
    if head.headers().contains_key(header::CONTENT_LENGTH) {
        return Err(Flaw::Body("CONNECT"));
    }
    Ok(())
}

async fn run(
    thread: &Thread,
    stream: &Stream,
    (receiving, sending): (RecvStream, SendStream<Bytes>),
    upstream: Conn,
    line: Line,
) {
    let near = StreamSide::new(stream, receiving, sending);
    let moved = relay::relay_near(near, upstream, &[], stream.pulse(), thread).await;
    tunnel::count(thread, &moved);
    line.end(thread, 200, None, (moved.sent, moved.received), tunnel::told(moved.end));
}

/// The client's side of a tunnel. Reset when it is dropped before the tunnel has ended.
pub(super) struct StreamSide {
    receiving: RecvStream,
    sending: SendStream<Bytes>,
    wire: Rc<Wire>,
    /// What has come and was not passed on.
    chunk: Bytes,
    /// Bytes that were passed on, but not given back to the window.
    taken: usize,
    reset: Option<Reason>,
}

impl StreamSide {
    pub(super) fn new(stream: &Stream, receiving: RecvStream, sending: SendStream<Bytes>) -> Self {
        let wire = Rc::clone(stream.wire());
        let reset = Some(Reason::CANCEL);
        Self { receiving, sending, wire, chunk: Bytes::new(), taken: 0, reset }
    }

    /// Gets the next bytes; whether there are any before the end.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.chunk.is_empty() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(data) => self.chunk = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl Drop for StreamSide {
    fn drop(&mut self) {
        if let Some(reason) = self.reset {
            self.sending.send_reset(reason);
        }
    }
}

impl Side for StreamSide {
    fn poll_take(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Who asks for more has passed on what there was.
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.receiving.flow_control().release_capacity(taken).map_err(io::Error::other)?;
        }
        if ready!(self.poll_chunk(cx))? {
            self.taken = self.chunk.len().min(buf.remaining());
            buf.put_slice(&self.chunk[..self.taken]);
            self.chunk.advance(self.taken);
        }
        Poll::Ready(Ok(()))
    }

    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Near for StreamSide {
    fn has_failed(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_reset(cx)
    }

    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        self.sending.poll_reset(cx).is_ready()
    }

    fn is_still(&mut self, cx: &mut Context<'_>, read_end: bool) -> bool {
        let is_silent = self.chunk.is_empty() && (read_end || self.poll_chunk(cx).is_pending());
        is_silent && !self.wire.is_blocked()
    }

    fn finish(&mut self, end: End) {
        self.reset = match end {
            End::Complete => None,
            End::Upstream => Some(Reason::CONNECT_ERROR),
            End::Client | End::Silent | End::Yielded => Some(Reason::CANCEL),
        };
    }
}

impl AsyncWrite for StreamSide {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(request::poll_room(&mut self.sending, buf.len(), cx));
        let written = room.map_err(io::Error::other)?.min(buf.len());
        let data = Bytes::copy_from_slice(&buf[..written]);
        self.sending.send_data(data, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.sending.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(io::Error::other))
    }
}
