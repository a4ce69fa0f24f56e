//! A client that speaks HTTP/2 with the proxy, on any stream; its connection lives on a task.

use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::SendStream;
use h2::client::ResponseFuture;
use h2::client::SendRequest;
use h2::ext::Protocol;
use http::HeaderMap;
use http::Method;
use http::Request;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::soon;
use crate::support::wait_until;

#[derive(Debug)]
pub(crate) struct Http2 {
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// An open tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) sending: SendStream<Bytes>,
    pub(crate) receiving: RecvStream,
    unread: Vec<u8>,
}

impl Http2 {
    pub(crate) async fn to(address: SocketAddr) -> Http2 {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Http2::over(stream).await
    }

    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let mut builder = h2::client::Builder::new();
        builder.max_header_list_size(1024 * 1024).initial_max_send_streams(1000);
        let handshake = builder.handshake::<_, Bytes>(stream);
        let (sender, connection) = soon("an HTTP/2 handshake", handshake).await.unwrap();
        Http2 { sender, connection: tokio::spawn(connection) }
    }

    /// Sends a request's head, and says what to do its body by.
    pub(crate) async fn begin(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let ready = self.sender.clone().ready();
        self.sender = soon("room for a stream", ready).await.unwrap();
        self.sender.send_request(request, end).unwrap()
    }

    pub(crate) async fn request(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        let (answer, mut sending) = self.begin(request, body.is_empty()).await;
        if !body.is_empty() {
            send(&mut sending, body).await.unwrap();
            sending.send_data(Bytes::new(), true).unwrap();
        }
        Answer::read(answer).await.unwrap()
    }

    pub(crate) async fn get(&mut self, url: &str) -> Answer {
        self.request(Request::get(url).body(()).unwrap(), b"").await
    }

    pub(crate) async fn connect(&mut self, authority: &str) -> Result<Tunnel, Answer> {
        self.open(Request::connect(authority).body(()).unwrap()).await
    }

    /// The tunnel that this request opens, or why there is none.
    pub(crate) async fn open(&mut self, request: Request<()>) -> Result<Tunnel, Answer> {
        let (answer, sending) = self.begin(request, false).await;
        let answer = soon("an answer", answer).await.unwrap();
        if answer.status() == 200 {
            assert_eq!(answer.headers().get("content-length"), None);
            let receiving = answer.into_body();
            return Ok(Tunnel::new(sending, receiving));
        }
        Err(Answer::of(answer).await.unwrap())
    }

    /// An extended CONNECT, once the proxy has said that it knows such.
    pub(crate) async fn extended(&mut self, url: &str, protocol: &'static str) -> Request<()> {
        wait_until("extended CONNECT is allowed", async || {
            self.sender.is_extended_connect_protocol_enabled()
        })
        .await;
        let protocol = Protocol::from_static(protocol);
        let mut request = Request::get(url).extension(protocol).body(()).unwrap();
        *request.method_mut() = Method::CONNECT;
        request
    }

    pub(crate) async fn tunnel(&mut self, authority: &str) -> Tunnel {
        self.connect(authority).await.expect("a tunnel")
    }

    /// How the proxy ended the connection: with the sender there, the client has no reason to.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        let Http2 { sender, connection } = self;
        let ended = soon("the end of the connection", connection).await.unwrap();
        drop(sender);
        ended
    }
}

impl Answer {
    pub(crate) async fn read(answer: ResponseFuture) -> Result<Answer, h2::Error> {
        Answer::of(soon("an answer", answer).await?).await
    }

    pub(crate) async fn of(answer: http::Response<RecvStream>) -> Result<Answer, h2::Error> {
        let (head, mut receiving) = answer.into_parts();
        let mut body = Vec::new();
        while let Some(data) = soon("the rest of a body", receiving.data()).await {
            let data = data?;
            receiving.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        let trailers = soon("trailers or none", receiving.trailers()).await?;
        Ok(Answer { status: head.status.as_u16(), fields: head.headers, body, trailers })
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that it is narrows' own, with this status and this word of RFC 9209.
    pub(crate) fn assert_refused(&self, status: u16, word: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let told = self.field("proxy-status").unwrap_or_default();
        assert_eq!(told.split("error=").nth(1), Some(word), "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["error"], word, "{problem}");
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
    }
}

impl Tunnel {
    pub(crate) fn new(sending: SendStream<Bytes>, receiving: RecvStream) -> Tunnel {
        Tunnel { sending, receiving, unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon("room in the windows", send(&mut self.sending, bytes)).await.unwrap();
    }

    /// Some bytes, none at the end.
    pub(crate) async fn some(&mut self) -> Result<Vec<u8>, h2::Error> {
        if !self.unread.is_empty() {
            return Ok(std::mem::take(&mut self.unread));
        }
        match soon("bytes from the tunnel", self.receiving.data()).await {
            None => Ok(Vec::new()),
            Some(data) => {
                let data = data?;
                self.receiving.flow_control().release_capacity(data.len())?;
                Ok(data.to_vec())
            }
        }
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            let some = self.some().await.unwrap();
            assert!(!some.is_empty(), "the end after {} bytes", all.len());
            all.extend(some);
        }
        self.unread = all.split_off(length);
        all
    }

    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, h2::Error> {
        let mut all = Vec::new();
        loop {
            let some = self.some().await?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some);
        }
    }

    pub(crate) async fn echo(&mut self, word: &str) {
        self.send(word.as_bytes()).await;
        assert_eq!(self.exactly(word.len()).await, word.as_bytes());
    }

    /// Ends our direction.
    pub(crate) fn finish(&mut self) {
        self.sending.send_data(Bytes::new(), true).unwrap();
    }

    pub(crate) fn reset(&mut self) {
        self.sending.send_reset(Reason::CANCEL);
    }

    /// What the proxy resets it with.
    pub(crate) async fn reset_by(&mut self) -> Reason {
        loop {
            match self.some().await {
                Ok(some) if some.is_empty() => panic!("ended in good order"),
                Ok(_) => {}
                Err(error) => return error.reason().expect("a reset"),
            }
        }
    }

    /// The tunnel as a stream of bytes.
    pub(crate) fn into_stream(mut self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let (mut reading, mut writing) = tokio::io::split(far);
            let up = async {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = reading.read(&mut buffer).await {
                    send(&mut self.sending, &buffer[..read]).await.unwrap();
                }
                drop(self.sending.send_data(Bytes::new(), true));
            };
            let down = async {
                while let Some(Ok(data)) = self.receiving.data().await {
                    self.receiving.flow_control().release_capacity(data.len()).unwrap();
                    writing.write_all(&data).await.unwrap();
                }
                drop(writing.shutdown().await);
            };
            tokio::join!(up, down);
        });
        near
    }
}

/// Sends as the windows open.
pub(crate) async fn send(sending: &mut SendStream<Bytes>, bytes: &[u8]) -> Result<(), h2::Error> {
    let mut rest = Bytes::copy_from_slice(bytes);
    while !rest.is_empty() {
        sending.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| match sending.capacity() {
            0 => sending.poll_capacity(cx),
            room => Poll::Ready(Some(Ok(room))),
        });
        let room = room.await.ok_or(h2::Error::from(Reason::STREAM_CLOSED))??;
        sending.send_data(rest.split_to(room.min(rest.len())), false)?;
    }
    Ok(())
}
