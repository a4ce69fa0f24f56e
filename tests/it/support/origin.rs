//! A real origin that counts on its own side.
//!
//! Invariant: a connection counts while its peer has sent neither FIN nor RST. The kernel is asked at
//! each accept and each look (`POLLRDHUP`), so a close that nobody has read yet is already seen: the
//! peak never blames the proxy for a connection that it had closed before it opened the next.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::Deref;
use std::ops::DerefMut;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::End;
use crate::support::Head;
use crate::support::Wire;
use crate::support::pattern;
use crate::support::ports_between;

/// The field that marks each response of an origin, so that the proxy's own are told apart.
pub(crate) const MARK: &str = "x-origin";

#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    book: Arc<Book>,
    accepting: JoinHandle<()>,
}

/// One accepted connection, for handlers that a test supplies.
///
/// Its fields are private: a closure that names only one of them would capture, so keep, only that.
#[derive(Debug)]
pub(crate) struct Connection<S = TcpStream> {
    /// Declared, so dropped, before the socket.
    live: Live,
    wire: Wire<S>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: Head,
    /// Empty until the body has ended.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Book {
    page: Mutex<Page>,
}

#[derive(Debug, Default)]
struct Page {
    live: HashMap<usize, Peer>,
    accepted: usize,
    peak: usize,
    /// When the peak rose.
    rises: Vec<(Instant, usize)>,
    /// Connections that do not count, and ports of such as are not accepted yet.
    excused: HashSet<usize>,
    excused_ports: HashSet<u16>,
    suspect: Option<Suspect>,
    seen: Vec<Seen>,
}

/// A process whose connections are excused as soon as the peak would rise, from then on. Looking
/// there at that moment is in time however busy this machine is.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    due: Instant,
    process: u32,
    port: u16,
}

#[derive(Debug)]
struct Peer {
    socket: OwnedFd,
    port: u16,
}

/// Keeps a duplicate of the socket in the book to be polled. It goes before the socket does, or the
/// duplicate would keep the connection from closing.
#[derive(Debug)]
struct Live {
    book: Arc<Book>,
    number: usize,
}

impl Origin {
    /// Speaks HTTP/1.1 on a port of 127.0.0.1; see `answer` for its paths.
    pub(crate) fn start() -> Origin {
        Origin::at("127.0.0.1")
    }

    /// The same on another loopback address.
    pub(crate) fn at(address: &str) -> Origin {
        Origin::http(listen(address))
    }

    fn http(listener: TcpListener) -> Origin {
        Origin::spawn(listener, |mut connection, book| async move {
            if let Ok(After::Reset) = serve(&mut connection, &book).await {
                connection.reset();
            }
        })
    }

    /// HTTP/1.1 inside TLS.
    pub(crate) fn https(acceptor: TlsAcceptor) -> Origin {
        Origin::spawn(listen("127.0.0.1"), move |connection, book| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(mut connection) = connection.secured(acceptor).await {
                    // Cut or ended: the socket goes either way.
                    drop(serve(&mut connection, &book).await);
                }
            }
        })
    }

    /// Each connection is left to `handler`; returning closes it.
    pub(crate) fn raw<F, Fut>(handler: F) -> Origin
    where
        F: Fn(Connection) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Origin::spawn(listen("127.0.0.1"), move |connection, _| handler(connection))
    }

    /// The same with a small receive buffer, so that back-pressure is felt soon.
    pub(crate) fn raw_with_small_buffers<F, Fut>(handler: F) -> Origin
    where
        F: Fn(Connection) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.set_send_buffer_size(64 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Origin::spawn(socket.listen(64).unwrap(), move |connection, _| handler(connection))
    }

    /// Sends back what it gets, and ends when its peer does.
    pub(crate) fn echo() -> Origin {
        Origin::raw(|mut connection| async move {
            drop(echo(&mut connection).await);
        })
    }

    fn spawn<F, Fut>(listener: TcpListener, handler: F) -> Origin
    where
        F: Fn(Connection, Arc<Book>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let book = Arc::new(Book::default());
        let ledger = Arc::clone(&book);
        let accepting = tokio::spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let connection = ledger.enter(stream, peer.port());
                running.spawn(handler(connection, Arc::clone(&ledger)));
                while running.try_join_next().is_some() {}
            }
        });
        Origin { address, book, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// `address:port`, which is also the key of this host unless the port were 80 or 443.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// `http://address:port` + `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Connections open now.
    pub(crate) fn current(&self) -> usize {
        self.book.page().sweep()
    }

    /// The most connections ever open at once.
    pub(crate) fn peak(&self) -> usize {
        self.book.page().peak
    }

    /// When the peak rose, and to what.
    pub(crate) fn rises(&self) -> Vec<(Instant, usize)> {
        self.book.page().rises.clone()
    }

    /// Connections that are open now and come from these ports count no more; how many are open.
    pub(crate) fn excuse(&self, ports: &HashSet<u16>) -> usize {
        self.book.page().excuse(ports)
    }

    /// From that moment on, what this process has open then may be excused.
    pub(crate) fn suspect(&self, process: u32, due: Instant) {
        self.book.page().suspect = Some(Suspect { due, process, port: self.port() });
    }

    /// It is excused, if the moment has come.
    pub(crate) fn excuse_suspect(&self) {
        self.book.page().excuse_suspect();
    }

    /// All connections count again.
    pub(crate) fn excuse_nobody(&self) {
        let mut page = self.book.page();
        page.excused.clear();
        page.excused_ports.clear();
        page.suspect = None;
        page.note_peak();
    }

    pub(crate) fn accepted(&self) -> usize {
        self.book.page().accepted
    }

    /// All requests so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.book.page().seen.clone()
    }

    pub(crate) fn hits(&self) -> usize {
        self.book.page().seen.len()
    }

    /// The one request that came.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "not one request: {seen:?}");
        seen.into_iter().next().unwrap()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Connection {
    pub(crate) fn reset(mut self) {
        self.wire.stream().set_zero_linger().unwrap();
    }

    /// The same connection, counted as before, with TLS on it.
    pub(crate) async fn secured(
        self,
        acceptor: TlsAcceptor,
    ) -> io::Result<Connection<TlsStream<TcpStream>>> {
        let stream = acceptor.accept(self.wire.into_stream()).await?;
        Ok(Connection { live: self.live, wire: Wire::new(stream) })
    }

    /// Reads on, whatever comes, until the peer ends; how it did and how many bytes came before.
    pub(crate) async fn end(&mut self) -> (End, usize) {
        let mut read = 0;
        loop {
            match self.wire.some().await {
                Ok(bytes) if bytes.is_empty() => return (End::Fin, read),
                Ok(bytes) => read += bytes.len(),
                Err(_) => return (End::Reset, read),
            }
        }
    }
}

impl<S> Deref for Connection<S> {
    type Target = Wire<S>;

    fn deref(&self) -> &Wire<S> {
        &self.wire
    }
}

impl<S> DerefMut for Connection<S> {
    fn deref_mut(&mut self) -> &mut Wire<S> {
        &mut self.wire
    }
}

impl Book {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap()
    }

    fn enter(self: &Arc<Book>, stream: TcpStream, port: u16) -> Connection {
        stream.set_nodelay(true).unwrap();
        let duplicate = stream.as_fd().try_clone_to_owned().unwrap();
        let mut page = self.page();
        let number = page.accepted;
        page.accepted += 1;
        page.live.insert(number, Peer { socket: duplicate, port });
        if page.excused_ports.remove(&port) {
            page.excused.insert(number);
        }
        page.note_peak();
        let live = Live { book: Arc::clone(self), number };
        Connection { live, wire: Wire::new(stream) }
    }
}

impl Page {
    /// How many peers have not closed and are not excused. The others stay in the book: their handlers still run.
    fn sweep(&self) -> usize {
        let counted = self.live.iter().filter(|(number, _)| !self.excused.contains(number));
        let mut polled: Vec<PollFd<'_>> =
            counted.map(|(_, peer)| PollFd::new(&peer.socket, PollFlags::RDHUP)).collect();
        rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap();
        polled.iter().filter(|socket| socket.revents().is_empty()).count()
    }

    fn excuse(&mut self, ports: &HashSet<u16>) -> usize {
        let has_port = |(_, peer): &(&usize, &Peer)| ports.contains(&peer.port);
        let known: Vec<(usize, u16)> =
            self.live.iter().filter(has_port).map(|(number, peer)| (*number, peer.port)).collect();
        self.excused_ports.extend(ports);
        for (number, port) in &known {
            self.excused.insert(*number);
            self.excused_ports.remove(port);
        }
        known.len()
    }

    fn excuse_suspect(&mut self) {
        if let Some(suspect) = self.suspect.take_if(|suspect| suspect.due <= Instant::now()) {
            self.excuse(&ports_between(suspect.process, suspect.port));
        }
    }

    fn note_peak(&mut self) {
        let mut now = self.sweep();
        if now > self.peak {
            self.excuse_suspect();
            now = self.sweep();
        }
        if now > self.peak {
            self.peak = now;
            self.rises.push((Instant::now(), now));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.book.page().live.remove(&self.number);
    }
}

fn listen(address: &str) -> TcpListener {
    let address: IpAddr = address.parse().unwrap();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket.listen(1024).unwrap()
}

/// What becomes of the connection after a response.
enum After {
    Close,
    Keep,
    Reset,
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> io::Result<()> {
    loop {
        let bytes = wire.some().await?;
        if bytes.is_empty() {
            return Ok(());
        }
        wire.send(bytes).await?;
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    book: &Book,
) -> io::Result<After> {
    while let Some(head) = wire.head().await? {
        let at = {
            let mut page = book.page();
            let seen = Seen { head: head.clone(), body: Vec::new(), trailers: Vec::new() };
            page.seen.push(seen);
            page.seen.len() - 1
        };
        if head.target().starts_with("/continue") {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let (body, trailers) = wire.request_body(&head).await?;
        {
            let mut page = book.page();
            page.seen[at].body.clone_from(&body);
            page.seen[at].trailers = trailers;
        }
        match answer(wire, &head, body).await? {
            After::Keep => {}
            last @ (After::Close | After::Reset) => return Ok(last),
        }
    }
    Ok(After::Close)
}

/// `/slow?ms=N` `/status/N` `/echo` `/size?n=N` `/chunked?n=N` `/trailers` `/early-hints` `/continue`
/// `/hop` `/close` `/truncate` `/truncate-chunked` `/reset` `/die` `/upgrade`; any other is answered
/// with its own target.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    head: &Head,
    body: Vec<u8>,
) -> io::Result<After> {
    let is_head = head.method() == "HEAD";
    let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
    let number = query.split_once('=').and_then(|(_, n)| n.parse::<usize>().ok()).unwrap_or(0);
    let (step, rest) = path[1..].split_once('/').unwrap_or((path.get(1..).unwrap_or(""), ""));
    let mut status = "200 OK".to_owned();
    let mut fields = String::new();
    let mut content = Vec::new();
    let mut after = After::Keep;
    match step {
        "chunked" => {
            wire.send(start("200 OK", "Transfer-Encoding: chunked\r\n")).await?;
            for chunk in pattern(number).chunks(8000) {
                wire.send(format!("{:x}\r\n", chunk.len())).await?;
                wire.send(chunk).await?;
                wire.send("\r\n").await?;
            }
            wire.send("0\r\n\r\n").await?;
            return Ok(After::Keep);
        }
        "close" => {
            fields.push_str("Connection: close\r\n");
            after = After::Close;
        }
        "continue" => content = format!("{} bytes", body.len()).into_bytes(),
        "die" => return Ok(After::Close),
        "early-hints" => {
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n").await?;
            content = b"hinted".to_vec();
        }
        "echo" => content = body,
        "hop" => fields.push_str(
            "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\nX-End: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n",
        ),
        "reset" => return Ok(After::Reset),
        "size" => content = pattern(number),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number as u64)).await;
            content = b"slow".to_vec();
        }
        "status" => {
            status = format!("{rest} Told So");
            if !["204", "304"].contains(&rest) {
                content = format!("status {rest}").into_bytes();
            }
        }
        "trailers" => {
            let head = start("200 OK", "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n");
            wire.send(head + "5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n").await?;
            return Ok(After::Keep);
        }
        "truncate" => {
            wire.send(start("200 OK", "Content-Length: 100\r\n") + "only this").await?;
            return Ok(After::Close);
        }
        "truncate-chunked" => {
            wire.send(start("200 OK", "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n").await?;
            return Ok(After::Close);
        }
        "upgrade" if head.list("connection").contains(&"upgrade".to_owned()) => {
            let fields = "Connection: Upgrade\r\nUpgrade: echo\r\n";
            wire.send(start("101 Switching Protocols", fields) + "first").await?;
            echo(wire).await?;
            return Ok(After::Close);
        }
        _ => content = head.target().as_bytes().to_vec(),
    }
    if !["204", "304"].contains(&rest) {
        fields += &format!("Content-Length: {}\r\n", content.len());
    }
    wire.send(start(&status, &fields)).await?;
    if !is_head {
        wire.send(content).await?;
    }
    Ok(after)
}

/// A response head with our mark.
fn start(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\nX-Origin: yes\r\n{fields}\r\n")
}
