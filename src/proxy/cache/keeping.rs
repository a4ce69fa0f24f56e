//! Bodies that are kept while they pass, and those that another request brings.
//!
//! What is held of those that pass is counted: beyond [`ROOM`] they pass and are not kept.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;

use crate::policy::Cause;
use crate::policy::api::Api;
use crate::policy::cache::entry::Entry;
use crate::policy::cache::entry::Head;
use crate::policy::cache::key::Keys;
use crate::policy::cache::tiers::Follower;
use crate::policy::cache::tiers::Lead;
use crate::upstream::exchange::BodyError;
use crate::upstream::exchange::ResponseBody;

/// Bytes that all bodies which pass may hold. SECURITY: how many pass at once is for clients to say.
const ROOM: u64 = 64 << 20;
/// Bytes that they hold.
static HELD: AtomicU64 = AtomicU64::new(0);

/// A body that a flight brings.
pub(in crate::proxy) struct Followed {
    follower: Follower,
    length: Option<u64>,
    is_over: bool,
}

impl Followed {
    pub(super) fn new(follower: Follower, head: &Head) -> Self {
        let length = head.fields.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self { follower, length, is_over: length == Some(0) }
    }

    /// Whether all of it has come.
    pub(in crate::proxy) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let chunk = ready!(self.follower.poll_chunk(cx));
        match &chunk {
            Some(Ok(bytes)) => {
                if let Some(left) = &mut self.length {
                    *left = left.saturating_sub(bytes.len() as u64);
                    self.is_over = *left == 0;
                }
            }
            Some(Err(_)) => {}
            None => self.is_over = true,
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data).map_err(BodyError::from)))
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body that goes to its client alone, and is kept if it comes whole.
pub(in crate::proxy) struct Kept {
    body: ResponseBody,
    /// None once it is too long, or is kept.
    keeping: Option<Box<Keeping>>,
}

pub(super) struct Keeping {
    pub(super) api: Arc<Api>,
    pub(super) keys: Keys,
    pub(super) head: Head,
    /// The moment that it was asked for.
    pub(super) since: u64,
    pub(super) parts: Vec<Bytes>,
    pub(super) length: u64,
}

impl Kept {
    pub(super) fn new(body: ResponseBody, keeping: Keeping) -> Self {
        Self { body, keeping: Some(Box::new(keeping)) }
    }

    pub(in crate::proxy) fn is_over(&self) -> bool {
        self.body.is_over()
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(keeping)) = (frame.data_ref(), &mut self.keeping)
                    && !keeping.hold(data)
                {
                    self.keeping = None;
                }
            }
            Some(Err(_)) => self.keeping = None,
            None => {}
        }
        if self.body.is_over()
            && let Some(mut keeping) = self.keeping.take()
        {
            keeping.finish();
        }
        Poll::Ready(frame)
    }
}

impl Keeping {
    /// Holds one more part; whether all may still be kept.
    fn hold(&mut self, part: &Bytes) -> bool {
        let more = part.len() as u64;
        let held = HELD.fetch_add(more, Relaxed) + more;
        self.length += more;
        self.parts.push(part.clone());
        let bound = self.api.cache.as_ref().map_or(0, |cache| cache.settings.max_object);
        self.length <= bound && held <= ROOM
    }

    fn finish(&mut self) {
        let mut body = BytesMut::new();
        for part in &self.parts {
            body.extend_from_slice(part);
        }
        let entry = Entry { head: Arc::new(self.head.clone()), body: body.freeze() };
        if let Some(cache) = &self.api.cache {
            cache.drawer.keep(&self.keys, Arc::new(entry), self.since);
            self.api.counts.stored();
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        HELD.fetch_sub(self.length, Relaxed);
    }
}

/// Brings a body to all who follow, however its own client fares.
pub(super) async fn pump(api: Arc<Api>, mut lead: Lead, mut body: ResponseBody) {
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => {
                // A cache may leave trailers out (RFC 9110 §6.5.1).
                let Ok(data) = frame.into_data() else { continue };
                if lead.chunk(data).await.is_err() {
                    return;
                }
            }
            Some(Err(error)) => {
                tracing::debug!(api = %api.name(), %error, "a response for several broke off");
                lead.fail(Some(Cause::Reset));
                return;
            }
            None => break,
        }
    }
    if let Ok(Some(_kept)) = lead.end() {
        api.counts.stored();
    }
}
