//! One small document from elsewhere, for narrows itself: a key set.
//!
//! It is nobody's traffic: it takes no slot, and goes where the operator's settings say. Always holds: it ends within
//! its time-out and its bound, follows no redirect, and trusts whom `https://` requests trust.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use futures_util::future::select;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::Settings;
use super::resolve::Lookup;
use super::tls::Tls;
use crate::base::authority::Authority;

/// Where a document is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document<'a> {
    pub(crate) tls: bool,
    pub(crate) authority: &'a Authority,
    /// With its query.
    pub(crate) path: &'a str,
    /// What it is made of, as Accept says it.
    pub(crate) accept: &'static str,
    /// The most bytes that it may have.
    pub(crate) longest: usize,
}

/// Fetches documents. For one thread, as its look-ups are.
pub(crate) struct Fetcher {
    lookup: Lookup,
    tls: Tls,
}

impl Fetcher {
    pub(crate) fn new(settings: &Settings, tls: Tls) -> io::Result<Self> {
        let pinned = settings.pinned.clone();
        Ok(Self { lookup: Lookup::new(&settings.resolver, pinned, settings.dns_timeout)?, tls })
    }

    /// The text of a document, or in words why it is not to be had.
    pub(crate) async fn get(
        &self,
        document: Document<'_>,
        timeout: Duration,
    ) -> Result<String, String> {
        match tokio::time::timeout(timeout, self.fetch(document)).await {
            Ok(fetched) => fetched,
            Err(_elapsed) => Err(format!("no answer within {timeout:?}")),
        }
    }

    async fn fetch(&self, document: Document<'_>) -> Result<String, String> {
        let addresses = self.lookup.addresses(document.authority).await;
        let mut failure = "the name has no address".to_owned();
        for address in addresses.map_err(|error| error.to_string())? {
            #[expect(
                clippy::disallowed_methods,
                reason = "it is nobody's connection, and takes no slot"
            )]
            let connected = TcpStream::connect(address).await;
            match connected {
                Ok(stream) if document.tls => {
                    let stream = self.tls.handshake(document.authority.host(), stream).await;
                    return ask(stream.map_err(|error| error.to_string())?, document).await;
                }
                Ok(stream) => return ask(stream, document).await,
                Err(error) => failure = error.to_string(),
            }
        }
        Err(failure)
    }
}

async fn ask<S>(stream: S, document: Document<'_>) -> Result<String, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let told = |error: &dyn std::error::Error| error.to_string();
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    let request = Request::get(document.path)
        .header(header::HOST, document.authority.to_string())
        .header(header::ACCEPT, document.accept)
        .header(header::USER_AGENT, concat!("narrows/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| told(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| told(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer was {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), document.longest).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        String::from_utf8(bytes.into()).map_err(|_bytes| "it is not UTF-8".to_owned())
    };
    match select(std::pin::pin!(exchange), std::pin::pin!(connection)).await {
        Either::Left((came, _)) => came,
        // The connection may end with the answer.
        Either::Right((_ended, exchange)) => exchange.await,
    }
}
