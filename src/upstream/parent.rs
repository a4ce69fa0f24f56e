//! Asking a parent (a proxy on the way up) for a tunnel: CONNECT and its answer (RFC 9110 §9.3.6).
//!
//! Only bytes are written and read here: the connection was opened, and its slots taken, by
//! [`super::dial`]. The answer is read strictly, by the rules for any response, and not a byte more
//! of it than its head: what stands behind it is the tunnel's.
//!
//! SECURITY: the one place, beside [`absolute`], where a parent's credentials are written; neither is
//! ever used on what is inside a tunnel.

use std::io;
use std::time::Duration;

use http::HeaderValue;
use http::Request;
use http::Uri;
use http::header;
use http::uri::PathAndQuery;
use http::uri::Scheme;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::conn::Socket;
use super::screen::Bounds;
use super::screen::Fault;
use super::screen::connect::Answer;
use crate::base::authority::Authority;
use crate::policy::parents::Parent;

/// Bytes of an answer that are looked at in one step.
const PIECE: usize = 1024;

/// Why a parent opened no tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParentError {
    /// The connection ended before an answer.
    #[error("the parent proxy closed the connection before its answer")]
    Closed,
    /// What came is no sound answer.
    #[error("the parent proxy's answer is no HTTP")]
    Fault(#[source] Fault),
    /// It said no.
    #[error("the parent proxy answered {0} to CONNECT")]
    Status(u16),
    /// There was no answer in time.
    #[error("no answer of the parent proxy within {0:?}")]
    TimedOut(Duration),
}

impl From<io::Error> for ParentError {
    fn from(_error: io::Error) -> Self {
        Self::Closed
    }
}

/// Asks for a tunnel to `to`; the same socket, with the tunnel's first byte next to be read.
pub(super) async fn ask(
    parent: &Parent,
    to: &Authority,
    mut socket: Socket,
    bounds: Bounds,
) -> Result<Socket, ParentError> {
    let request = connect(parent, to);
    match &mut socket {
        Socket::Plain(stream) => stream.write_all(&request).await?,
        Socket::Tls(stream) => {
            stream.write_all(&request).await?;
            stream.flush().await?;
        }
        Socket::Nested(_) => return Err(ParentError::Closed),
    }
    let mut answer = Answer::new(bounds);
    let status = match &mut socket {
        Socket::Plain(stream) => read(stream, &mut answer).await?,
        Socket::Tls(stream) => loop {
            // TLS has no look ahead; byte by byte its buffer does not mind, once for each connection.
            let byte = stream.read_u8().await?;
            if let Some((_, status)) = answer.look(&[byte]).map_err(ParentError::Fault)? {
                break status;
            }
        },
        Socket::Nested(_) => return Err(ParentError::Closed),
    };
    if (200..300).contains(&status) { Ok(socket) } else { Err(ParentError::Status(status)) }
}

/// The head of a CONNECT.
fn connect(parent: &Parent, to: &Authority) -> Vec<u8> {
    let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
    if let Some(authorization) = &parent.authorization {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(authorization.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Reads an answer off a socket: what is looked at ahead is taken only as far as the head goes.
async fn read(stream: &mut TcpStream, answer: &mut Answer) -> Result<u16, ParentError> {
    let mut piece = [0; PIECE];
    loop {
        let seen = stream.peek(&mut piece).await?;
        if seen == 0 {
            return Err(ParentError::Closed);
        }
        let found = answer.look(&piece[..seen]).map_err(ParentError::Fault)?;
        let taken = found.map_or(seen, |(taken, _)| taken);
        stream.read_exact(&mut piece[..taken]).await?;
        if let Some((_, status)) = found {
            return Ok(status);
        }
    }
}

/// Makes a request one for a parent that forwards it: its target in absolute-form (RFC 9112 §3.2.2),
/// and who asks.
pub(super) fn absolute<B>(request: &mut Request<B>, to: &Authority, parent: &Parent) {
    let named = match to.port_number() {
        80 => to.host().to_string(),
        _ => to.to_string(),
    };
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = named.parse().ok();
    // There is no absolute-form of "*" that the types know: the root stands for it.
    let path = parts.path_and_query.take().filter(|path| path.as_str() != "*");
    parts.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    if let Some(authorization) = &parent.authorization {
        let authorization: HeaderValue = authorization.clone();
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
    }
}
