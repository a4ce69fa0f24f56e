//! A client of the proxy over a raw socket: it sends exactly the bytes that a test gives it, and tells
//! FIN from RST. Each response it reads passes the standing check.

use std::fmt;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

use crate::support::Head;
use crate::support::Wire;
use crate::support::check;
use crate::support::soon;
use crate::support::wire::Trailers;

#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire<TcpStream>,
}

/// How a peer ended its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Trailers,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        write!(f, "{:?} {:?} {body:?} {:?}", self.head.start, self.head.fields, self.trailers)
    }
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    /// The RFC 9209 word of an answer of narrows' own.
    pub(crate) fn error(&self) -> String {
        check::word(&self.head)
    }

    /// Asserts status and error word of a refusal at once.
    pub(crate) fn assert_refused(&self, status: u16, error: &str) {
        assert_eq!((self.status(), self.error().as_str()), (status, error), "{self:?}");
    }
}

impl Client {
    pub(crate) async fn to(address: SocketAddr) -> Client {
        let stream = soon("a connection", TcpStream::connect(address)).await;
        Client::over(stream.unwrap_or_else(|error| panic!("{address}: {error}")))
    }

    /// A client at this address of its own.
    pub(crate) async fn from(client: &str, to: SocketAddr) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(client.parse().unwrap(), 0)).unwrap();
        Client::over(soon("a connection", socket.connect(to)).await.unwrap())
    }

    /// A client whose socket buffers little, so that back-pressure is felt soon.
    pub(crate) async fn with_small_buffers(address: SocketAddr) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(64 * 1024).unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        Client::over(soon("a connection", socket.connect(address)).await.unwrap())
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        Client { wire: Wire::new(stream) }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("the proxy to take bytes", self.wire.send(bytes)).await.unwrap();
    }

    /// Sends to a proxy that may have ended the connection meanwhile.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(soon("the proxy to take bytes", self.wire.send(bytes)).await);
    }

    /// A request with its fields as lines without line ends; Host is added.
    pub(crate) async fn send_request(&mut self, method: &str, url: &str, fields: &[&str]) {
        let authority = url.split("://").last().unwrap_or(url).split(['/', '?']).next();
        let host = authority.filter(|host| !host.is_empty()).unwrap_or("narrows");
        let mut head = format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        self.send(head + "\r\n").await;
    }

    pub(crate) async fn request(&mut self, method: &str, url: &str, fields: &[&str]) -> Response {
        self.send_request(method, url, fields).await;
        self.response(method).await
    }

    pub(crate) async fn get(&mut self, url: impl Display) -> Response {
        self.request("GET", &url.to_string(), &[]).await
    }

    pub(crate) async fn post(&mut self, url: impl Display, body: &[u8]) -> Response {
        let length = format!("Content-Length: {}", body.len());
        self.send_request("POST", &url.to_string(), &[&length]).await;
        self.send(body).await;
        self.response("POST").await
    }

    /// Asks for a tunnel; its answer, after which a 2xx leaves this client in the tunnel.
    pub(crate) async fn connect(&mut self, authority: impl Display) -> Response {
        self.connect_with(authority, &[]).await
    }

    pub(crate) async fn connect_with(
        &mut self,
        authority: impl Display,
        fields: &[&str],
    ) -> Response {
        self.request("CONNECT", &authority.to_string(), fields).await
    }

    /// The next head, be it of an interim response.
    pub(crate) async fn head(&mut self) -> Head {
        self.try_head().await.expect("a response")
    }

    /// The next head, or none if the proxy ended or cut the connection instead.
    pub(crate) async fn try_head(&mut self) -> Option<Head> {
        let head = soon("a response head", self.wire.head()).await.ok().flatten()?;
        check::head(&head);
        Some(head)
    }

    /// The next final response; interim ones fail the test, ask for [`Client::head`] where they are due.
    pub(crate) async fn response(&mut self, method: &str) -> Response {
        let head = self.head().await;
        self.rest_of_response(method, head).await
    }

    pub(crate) async fn rest_of_response(&mut self, method: &str, head: Head) -> Response {
        let status = head.status();
        assert!(status >= 200, "an interim response: {head:?}");
        let (body, trailers) = if method == "CONNECT" && status < 300 {
            (Vec::new(), Vec::new())
        } else {
            soon("a body", self.wire.response_body(method, &head)).await.expect("a whole body")
        };
        check::body(&head, method, &body);
        Response { head, body, trailers }
    }

    /// A response that no rule of the proxy's applies to: one of the admin port.
    pub(crate) async fn unchecked_response(&mut self) -> Response {
        let head = soon("a response head", self.wire.head()).await.unwrap().expect("a response");
        let body = soon("a body", self.wire.response_body("GET", &head)).await;
        let (body, trailers) = body.expect("a whole body");
        Response { head, body, trailers }
    }

    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        soon("a chunk", self.wire.chunk()).await.unwrap()
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        soon("bytes", self.wire.exactly(length)).await.unwrap()
    }

    pub(crate) async fn rest(&mut self) -> io::Result<Vec<u8>> {
        soon("the end", self.wire.rest()).await
    }

    /// Sends `bytes`, reads as many back: the far side is an echo.
    pub(crate) async fn echo(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.send(bytes).await;
        assert_eq!(self.exactly(bytes.len()).await, bytes);
    }

    /// Reads on, whatever comes, until the proxy ends the connection.
    pub(crate) async fn end(&mut self) -> End {
        match self.rest().await {
            Ok(_) => End::Fin,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
            Err(error) => panic!("neither an end nor a reset: {error}"),
        }
    }

    /// How many bytes the proxy takes until it takes none for 300 ms, at most `limit`.
    pub(crate) async fn send_until_it_blocks(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let stream = self.wire.stream();
            let quiet = Duration::from_millis(300);
            if tokio::time::timeout(quiet, stream.writable()).await.is_err() {
                break;
            }
            match stream.try_write(&bytes[sent..]) {
                Ok(some) => sent += some,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        sent
    }

    /// FIN: no more from us, but we listen on.
    pub(crate) async fn finish(&mut self) {
        self.wire.finish().await.unwrap();
    }

    /// RST: as if this program had been killed with bytes unread.
    pub(crate) fn reset(mut self) {
        self.wire.stream().set_zero_linger().unwrap();
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.wire.into_stream()
    }
}
