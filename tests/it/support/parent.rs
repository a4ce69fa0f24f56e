//! A parent proxy that records: CONNECT and absolute-form, plain or by TLS, with credentials or
//! without, and made to fail as a test likes. What it counts it counts on its own side.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::Head;
use crate::support::Wire;

#[derive(Debug)]
pub(crate) struct Parent {
    address: SocketAddr,
    scheme: &'static str,
    book: Arc<Mutex<Book>>,
    accepting: JoinHandle<()>,
}

/// What it does to a request instead of sending it on.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with this status.
    Answer(u16),
    /// Sends these bytes, and closes.
    Say(&'static [u8]),
    Close,
    /// Says nothing, for ever.
    Hang,
}

#[derive(Debug, Default)]
struct Book {
    accepted: usize,
    open: usize,
    handshakes: usize,
    /// Heads of CONNECT and of requests in absolute-form.
    connects: Vec<Head>,
    requests: Vec<Head>,
    next: VecDeque<Act>,
    /// For a destination.
    always: Vec<(String, Act)>,
    /// What stands in front of the first bytes of a tunnel, in one write with the answer.
    first: Vec<u8>,
}

impl Parent {
    pub(crate) async fn start() -> Parent {
        Parent::run(None, None).await
    }

    /// One that wants to know who comes: the value of Proxy-Authorization.
    pub(crate) async fn for_user(authorization: &'static str) -> Parent {
        Parent::run(None, Some(authorization)).await
    }

    /// One that is spoken to by TLS.
    pub(crate) async fn secure(acceptor: TlsAcceptor) -> Parent {
        Parent::run(Some(acceptor), None).await
    }

    async fn run(acceptor: Option<TlsAcceptor>, user: Option<&'static str>) -> Parent {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let book = Arc::<Mutex<Book>>::default();
        let ledger = Arc::clone(&book);
        let accepting = tokio::spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (acceptor, book) = (acceptor.clone(), Arc::clone(&ledger));
                running.spawn(async move {
                    {
                        let mut page = book.lock().unwrap();
                        page.accepted += 1;
                        page.open += 1;
                    }
                    // However it ends, the connection closes.
                    drop(match acceptor {
                        None => serve(stream, &book, user).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => {
                                book.lock().unwrap().handshakes += 1;
                                serve(stream, &book, user).await
                            }
                            Err(error) => Err(error),
                        },
                    });
                    book.lock().unwrap().open -= 1;
                });
                while running.try_join_next().is_some() {}
            }
        });
        Parent { address, scheme, book, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL; `userinfo` ends with `@` if there is any.
    pub(crate) fn url(&self, userinfo: &str) -> String {
        format!("{}://{userinfo}{}", self.scheme, self.address)
    }

    /// Connections that it took.
    pub(crate) fn accepted(&self) -> usize {
        self.book().accepted
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.book().open
    }

    /// TLS handshakes with it.
    pub(crate) fn handshakes(&self) -> usize {
        self.book().handshakes
    }

    pub(crate) fn connects(&self) -> Vec<Head> {
        self.book().connects.clone()
    }

    pub(crate) fn requests(&self) -> Vec<Head> {
        self.book().requests.clone()
    }

    /// Requests of either kind.
    pub(crate) fn hits(&self) -> usize {
        let book = self.book();
        book.connects.len() + book.requests.len()
    }

    /// What it does to the next request.
    pub(crate) fn next(&self, act: Act) {
        self.book().next.push_back(act);
    }

    /// What it does to all requests for this destination.
    pub(crate) fn always(&self, destination: impl Into<String>, act: Act) {
        self.book().always.push((destination.into(), act));
    }

    /// These bytes come in one write with the answer to CONNECT.
    pub(crate) fn speaks_first(&self, bytes: &[u8]) {
        self.book().first = bytes.to_vec();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    book: &Mutex<Book>,
    user: Option<&str>,
) -> io::Result<()> {
    let mut near = Wire::new(stream);
    while let Some(head) = near.head().await? {
        let is_tunnel = head.method() == "CONNECT";
        let target = head.target().to_owned();
        let rest = target.strip_prefix("http://").unwrap_or(&target);
        let (destination, path) = rest.split_once('/').unwrap_or((rest, ""));
        let act = {
            let mut book = book.lock().unwrap();
            let seen = if is_tunnel { &mut book.connects } else { &mut book.requests };
            seen.push(head.clone());
            let always = book.always.iter().find(|(to, _)| to == destination || to == "*");
            let always = always.map(|(_, act)| act.clone());
            book.next.pop_front().or(always)
        };
        let body = near.request_body(&head).await?.0;
        let is_user = user.is_none_or(|user| head.field("proxy-authorization") == Some(user));
        match act {
            None if is_user => {}
            None => {
                answer(&mut near, 407, "Proxy-Authenticate: Basic\r\n").await?;
                continue;
            }
            Some(Act::Answer(status)) => {
                answer(&mut near, status, "").await?;
                continue;
            }
            Some(Act::Say(bytes)) => return near.send(bytes).await,
            Some(Act::Close) => return Ok(()),
            Some(Act::Hang) => return near.rest().await.map(drop),
        }
        let Ok(far) = TcpStream::connect(destination).await else {
            answer(&mut near, 502, "").await?;
            continue;
        };
        far.set_nodelay(true)?;
        if is_tunnel {
            let mut opening = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
            opening.extend(&book.lock().unwrap().first);
            near.send(opening).await?;
            let (mut near, mut far) = (near.into_stream(), far);
            tokio::io::copy_bidirectional(&mut near, &mut far).await?;
            return Ok(());
        }
        let mut far = Wire::new(far);
        let mut request = format!("{} /{path} HTTP/1.1\r\n", head.method());
        let hop = ["proxy-authorization", "transfer-encoding", "content-length", "connection"];
        for (name, value) in &head.fields {
            if !hop.contains(&name.to_ascii_lowercase().as_str()) {
                request.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        request.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()));
        far.send(request).await?;
        far.send(body).await?;
        let head = far.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (body, _) = far.response_body("GET", &head).await?;
        let mut response = format!("{}\r\n", head.start);
        for (name, value) in &head.fields {
            if !hop.contains(&name.to_ascii_lowercase().as_str()) {
                response.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        response.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        near.send(response).await?;
        near.send(body).await?;
    }
    Ok(())
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    near: &mut Wire<S>,
    status: u16,
    fields: &str,
) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} Parent Says\r\nX-Origin: parent\r\n{fields}");
    near.send(format!("{head}Content-Length: 0\r\n\r\n")).await
}
