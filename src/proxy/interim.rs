//! The 1xx answers of an upstream, on their way to the client.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use http::HeaderMap;
use http::Request;
use http::StatusCode;
use http::Version;

use super::Thread;
use super::asker::Asker;
use super::headers;
use crate::upstream::upload::Gate;
use crate::upstream::upload::RequestBody;

/// The 1xx answers of one request's upstream, on their way to the client.
pub(super) struct Interim<'a> {
    heads: Arc<Mutex<Heads>>,
    bound: u32,
    /// Whether a 100 has gone to the client, and whether one had before this attempt.
    told: &'a Cell<bool>,
    was_told: bool,
    /// HTTP/1.0 knows no such answers (RFC 9110 §15.2).
    is_wanted: bool,
}

#[derive(Default)]
struct Heads {
    seen: u32,
    waiting: Vec<(StatusCode, HeaderMap)>,
}

impl<'a> Interim<'a> {
    /// Hears the 1xx answers to `request`. 100 opens the gate, and need not be passed on where it
    /// `continues` by itself, or where another attempt's was. 101 is the answer itself.
    pub(super) fn listen(
        request: &mut Request<RequestBody>,
        gate: Option<Arc<Gate>>,
        continues: bool,
        (version, bound): (Version, u32),
        told: &'a Cell<bool>,
    ) -> Self {
        let heads = Arc::<Mutex<Heads>>::default();
        let queue = Arc::clone(&heads);
        hyper::ext::on_informational(request, move |interim| {
            let mut heads = queue.lock().unwrap_or_else(PoisonError::into_inner);
            heads.seen = heads.seen.saturating_add(1);
            if let Some(gate) = gate.as_ref().filter(|_| interim.status() == StatusCode::CONTINUE) {
                gate.open();
                if continues {
                    return;
                }
            }
            if heads.seen <= bound {
                heads.waiting.push((interim.status(), interim.headers().clone()));
            }
        });
        let (was_told, is_wanted) = (told.get(), version != Version::HTTP_10);
        Self { heads, bound, told, was_told, is_wanted }
    }

    /// Writes to the client what has come; whether there were not too many.
    pub(super) fn pass_on(&self, client: &Asker, thread: &Thread) -> bool {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.seen > self.bound {
            return false;
        }
        for (status, mut fields) in heads.waiting.drain(..).filter(|_| self.is_wanted) {
            if status == StatusCode::CONTINUE {
                if self.was_told {
                    continue;
                }
                self.told.set(true);
            }
            headers::strip(&mut fields, Version::HTTP_11);
            if let Some(via) = &thread.via {
                via.add(&mut fields, Version::HTTP_11);
            }
            client.interim(status, fields);
        }
        true
    }
}
