//! A client's connection as bytes: plain TCP, or TLS that ends here.
//!
//! Whoever reads and writes need not know which it is. What only a socket has (its FIN and RST, a
//! reset at the close, splice) is reached through [`Stream::tcp`] and [`Stream::plain`].
//!
//! A client of TLS ends what it says by `close_notify` (RFC 8446 §6.1), which reads as an end; a
//! FIN without it is an error, since anybody on the way could have sent it. Both, and an RST, mean
//! that the client has left, as a FIN does without TLS.

use std::io;
use std::io::BufRead;
use std::io::IoSlice;
use std::io::Write;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use rustls_pki_types::CertificateDer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::bounds::Full;
use super::bounds::Place;
use crate::base::socket;
use crate::base::socket::ReadSide;

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Watched),
    Tls(Box<TlsStream<Watched>>),
}

/// A client's socket, whose FIN is watched while its bytes are left alone.
#[derive(Debug)]
pub(crate) struct Watched {
    tcp: TcpStream,
    reads: ReadSide,
    /// Behind the socket: its descriptor is free before its place is. None where it is only told
    /// that there is none.
    place: Option<Place>,
}

impl Stream {
    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.watched().tcp
    }

    /// The socket, where bytes may be moved past us: no TLS, and nothing known of what is unread.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(watched) => (!watched.reads.has_unread()).then_some(&watched.tcp),
            Self::Tls(_) => None,
        }
    }

    /// The protocol that was agreed upon in the handshake (ALPN, RFC 7301).
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The name that the client called us by in the handshake (SNI, RFC 6066 §3).
    pub(crate) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.server_name(),
        }
    }

    /// The certificate that the client proved to have, with those that lead to its authority.
    pub(crate) fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates(),
        }
    }

    /// Ready when the client has left. Takes no byte, and sees an end behind unread ones; a
    /// `close_notify` only once it has been read with what stood before it.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Watched { tcp, reads, .. } = match self {
            Self::Plain(watched) => watched,
            Self::Tls(stream) => {
                let (watched, session) = stream.get_mut();
                if session.reader().fill_buf().is_ok_and(<[u8]>::is_empty) {
                    return Poll::Ready(());
                }
                watched
            }
        };
        reads.poll_left(tcp, cx)
    }

    /// Whether nothing is on its way, as [`socket::is_still`] has it.
    pub(crate) fn is_still(&self, read_end: bool) -> bool {
        match self {
            Self::Plain(_) => socket::is_still(self.tcp(), read_end),
            Self::Tls(stream) => {
                !stream.get_ref().1.wants_write() && socket::is_still(self.tcp(), read_end)
            }
        }
    }

    /// Writes what can be written at once, and wakes nobody for the rest.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(watched) => watched.tcp.try_write(bytes),
            Self::Tls(stream) => {
                let (watched, session) = stream.get_mut();
                let written = session.writer().write(bytes)?;
                while session.wants_write() {
                    match session.write_tls(&mut AtOnce(&watched.tcp)) {
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
                if written == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) }
            }
        }
    }

    fn watched(&self) -> &Watched {
        match self {
            Self::Plain(watched) => watched,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// A socket that is written to without waiting.
struct AtOnce<'a>(&'a TcpStream);

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Stream {
    /// `Ok` without new bytes is the end of what the client says.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(watched) => Pin::new(watched).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    /// What TLS has taken is sent by [`AsyncWrite::poll_flush`] at the latest.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(watched) => Pin::new(watched).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(watched) => Pin::new(watched).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    /// Ends what we say, by `close_notify` and a FIN; the client may go on.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(watched) => Pin::new(watched).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

impl Watched {
    pub(crate) fn new(tcp: TcpStream, place: Option<Place>) -> Self {
        Self { tcp, reads: ReadSide::default(), place }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Counts the connection as one of this address.
    pub(crate) fn claim(&mut self, address: IpAddr) -> Result<(), Full> {
        self.place.as_mut().map_or(Ok(()), |place| place.claim(address))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, reads, .. } = self.get_mut();
        reads.poll_read(tcp, cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        socket::poll_write_pieces(&mut self.get_mut().tcp, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
