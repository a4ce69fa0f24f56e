//! Who asks: a connection that speaks HTTP/1.1, or one stream of a connection that speaks HTTP/2.
//!
//! All that answers a request speaks with its client through this, and does not know which it is; or
//! nobody, where a kept response is asked for anew.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;

use super::guard::Client;
use super::headers;
use super::http2::Stream;
use crate::base::clock::Pulse;
use crate::base::framing::Malformed;
use crate::base::identity::Identity;
use crate::upstream::conn::Conn;

/// Who asks. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Asker {
    Connection(Rc<Client>),
    /// No client waits for the answer.
    Nobody(Rc<Nobody>),
    Stream(Rc<Stream>),
}

/// Nobody, in the name of the client whose request it was.
pub(crate) struct Nobody {
    peer: SocketAddr,
    identity: Identity,
    pulse: Rc<Pulse>,
}

impl Nobody {
    pub(crate) fn new(peer: SocketAddr) -> Rc<Self> {
        let (identity, pulse) = (Identity::of_address(peer.ip()), Rc::new(Pulse::new()));
        Rc::new(Self { peer, identity, pulse })
    }
}

impl Asker {
    pub(crate) fn peer(&self) -> SocketAddr {
        match self {
            Self::Connection(client) => client.peer(),
            Self::Nobody(nobody) => nobody.peer,
            Self::Stream(stream) => stream.client().peer(),
        }
    }

    /// Who the client is by the certificate that it proved to have.
    pub(crate) fn certificate(&self) -> Option<&Arc<str>> {
        match self {
            Self::Connection(client) => client.certificate(),
            Self::Nobody(_) => None,
            Self::Stream(stream) => stream.client().certificate(),
        }
    }

    /// Whether it speaks TLS with us.
    pub(crate) fn is_secure(&self) -> bool {
        match self {
            Self::Connection(client) => client.is_secure(),
            Self::Nobody(_) => false,
            Self::Stream(stream) => stream.client().is_secure(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        match self {
            Self::Connection(client) => client.identity(),
            Self::Nobody(nobody) => &nobody.identity,
            Self::Stream(stream) => stream.client().identity(),
        }
    }

    pub(crate) fn pulse(&self) -> &Rc<Pulse> {
        match self {
            Self::Connection(client) => client.pulse(),
            Self::Nobody(nobody) => &nobody.pulse,
            Self::Stream(stream) => stream.pulse(),
        }
    }

    /// Whether the request is `OPTIONS http://host` without a path (RFC 9112 §3.2.4). HTTP/2 says
    /// that by its path, which then is `*`.
    pub(crate) fn is_starred(&self) -> bool {
        match self {
            Self::Connection(client) => client.is_starred(),
            Self::Nobody(_) | Self::Stream(_) => false,
        }
    }

    /// Whether a 100 goes to the client by itself when its body is asked for.
    pub(crate) fn continues_by_itself(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Nobody(_) => true,
            Self::Stream(_) => false,
        }
    }

    /// Runs `future` for as long as the client wants its outcome.
    pub(crate) async fn unless_left<F: Future>(&self, future: F) -> Option<F::Output> {
        match self {
            Self::Connection(client) => client.unless_left(future).await,
            Self::Nobody(_) => Some(future.await),
            Self::Stream(stream) => stream.unless_left(future).await,
        }
    }

    /// What is wrong with the body of the request, if that is why it broke off.
    pub(crate) fn broken(&self) -> Option<Malformed> {
        match self {
            Self::Connection(client) => client.broken(),
            Self::Nobody(_) | Self::Stream(_) => None,
        }
    }

    /// Passes a 1xx answer on.
    pub(crate) fn interim(&self, status: StatusCode, fields: HeaderMap) {
        match self {
            Self::Connection(client) => client.write(&interim_head(status, &fields)),
            Self::Nobody(_) => {}
            Self::Stream(stream) => stream.interim(status, fields),
        }
    }

    /// The client has said that this request is its last.
    pub(crate) fn says_goodbye(&self) {
        match self {
            Self::Connection(client) => client.says_goodbye(),
            Self::Nobody(_) | Self::Stream(_) => {}
        }
    }

    /// The answer's head goes out.
    pub(crate) fn begin_answer(&self) {
        match self {
            Self::Connection(client) => client.begin_answer(),
            Self::Nobody(_) => {}
            Self::Stream(stream) => stream.pulse().beat(),
        }
    }

    /// The answer is complete.
    pub(crate) fn end_answer(&self) {
        match self {
            Self::Connection(client) => client.end_answer(),
            Self::Nobody(_) => {}
            Self::Stream(stream) => stream.pulse().beat(),
        }
    }

    /// The answer is cut short, which the client must see.
    pub(crate) fn cut(&self) {
        match self {
            Self::Connection(client) => client.cut(),
            Self::Nobody(_) => {}
            Self::Stream(stream) => stream.cut(),
        }
    }

    /// The protocol switches with this answer: a tunnel to `upstream` follows, whose bytes so far
    /// are `early`.
    pub(crate) fn switch(&self, upstream: Conn, early: Bytes) {
        match self {
            Self::Connection(client) => client.switch(upstream, early),
            Self::Nobody(_) => {}
            Self::Stream(stream) => stream.switch(upstream, early),
        }
    }
}

fn interim_head(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in fields {
        headers::write(name, value, &mut head);
    }
    head.extend_from_slice(b"\r\n");
    head
}
