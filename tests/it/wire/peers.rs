//! The two peers of a row: an origin that says what it is told and keeps the bytes it hears, and a
//! client that sends a row's bytes and keeps what comes back.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Case;
use super::Expected;
use super::Last;
use super::OK;
use super::Step;
use crate::support::soon;
use crate::support::wait_until;

/// The path of the sentinel.
const SENTINEL: &str = "/sentinel";
/// What the sentinel's answer has that no other has.
const SERVED: &[u8] = b"HTTP/1.1 200 Sentinel\r\n";

/// What an origin says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    lines: VecDeque<Line>,
    /// The peer is no HTTP server: says this, and keeps all it hears.
    raw: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Line {
    bytes: Vec<u8>,
    /// As soon as the head is there.
    early: bool,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Keep,
    Close,
    Reset,
}

impl Script {
    pub(super) fn say(&mut self, bytes: &[u8], early: bool) {
        self.lines.push_back(Line { bytes: bytes.to_vec(), early, then: Then::Keep });
    }

    pub(super) fn close(&mut self) {
        self.end(Then::Close);
    }

    pub(super) fn reset(&mut self) {
        self.end(Then::Reset);
    }

    fn end(&mut self, then: Then) {
        if self.lines.is_empty() {
            self.say(OK, false);
        }
        self.lines.back_mut().unwrap().then = then;
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.raw = Some(bytes.to_vec());
    }
}

/// What came of a row.
#[derive(Debug)]
pub(crate) struct Heard {
    origin: SocketAddr,
    messages: Vec<Vec<u8>>,
    /// The last message at the origin is not whole.
    pub(super) is_cut: bool,
    pub(super) connections: usize,
    /// All that the client got, but for the sentinel's answer.
    pub(super) at_client: Vec<u8>,
    pub(super) went_on: bool,
    pub(super) is_reset: bool,
}

impl Heard {
    pub(super) fn at_origin(&self) -> Vec<u8> {
        self.messages.concat()
    }

    pub(super) fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        filled(bytes, self.origin)
    }
}

/// `{o}` and `{p}` replaced.
fn filled(bytes: &[u8], origin: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"{o}") {
            out.extend(origin.to_string().as_bytes());
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"{p}") {
            out.extend(origin.port().to_string().as_bytes());
            rest = after;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

/// What the origin has heard so far.
#[derive(Debug, Default)]
struct Page {
    script: Script,
    messages: Vec<Vec<u8>>,
    is_cut: bool,
    /// Bytes of the message that has begun.
    begun: usize,
    /// Where its connections come from, in order.
    peers: Vec<SocketAddr>,
    /// Connections with a message that has begun, and has neither ended nor been cut yet.
    busy: HashSet<SocketAddr>,
}

#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<Page>>);

impl Book {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.0.lock().unwrap()
    }
}

/// Plays one row to its end.
pub(super) async fn play(proxy: SocketAddr, case: &Case) -> Heard {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let book = Book::default();
    book.page().script = case.script.clone();
    let ledger = book.clone();
    let accepting = tokio::spawn(async move {
        let mut running = JoinSet::new();
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            ledger.page().peers.push(peer);
            let mut served =
                Served { stream, peer, origin, book: ledger.clone(), unread: Vec::new() };
            running.spawn(async move {
                // A peer that resets has said all it will.
                drop(served.run().await);
                served.over();
            });
        }
    });
    let (mut at_client, is_reset) = talk(proxy, case, origin, &book).await;
    let served = find(&at_client, SERVED);
    at_client.truncate(served.unwrap_or(at_client.len()));
    settle(&book, origin).await;
    accepting.abort();
    let page = book.page();
    Heard {
        origin,
        messages: page.messages.clone(),
        is_cut: page.is_cut,
        // One was the bench's own.
        connections: page.peers.len() - 1,
        at_client,
        went_on: served.is_some(),
        is_reset,
    }
}

/// Waits until the origin has taken all that is on its way: connections are accepted in order, so the
/// last is ours; and what has begun comes to an end.
async fn settle(book: &Book, origin: SocketAddr) {
    let last = soon("a connection", TcpStream::connect(origin)).await.unwrap();
    let ours = last.local_addr().unwrap();
    wait_until("the last connection is accepted", async || book.page().peers.contains(&ours)).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    wait_until("no message is half there", async || book.page().busy.is_empty()).await;
}

async fn talk(proxy: SocketAddr, case: &Case, origin: SocketAddr, book: &Book) -> (Vec<u8>, bool) {
    let name = case.name;
    let mut stream = soon("a connection", TcpStream::connect(proxy)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut reads, mut writes) = stream.split();
    let mut got = Vec::new();
    let mut heard = 0;
    for step in &case.steps {
        match step {
            Step::Send(bytes) => {
                // It may have refused and closed already.
                drop(soon("bytes to go", writes.write_all(&filled(bytes, origin))).await);
            }
            Step::Hear(bytes) => {
                heard += filled(bytes, origin).len();
                while got.len() < heard {
                    let read = soon(name, reads.read_buf(&mut got)).await;
                    if !read.is_ok_and(|read| read > 0) {
                        break;
                    }
                }
            }
        }
    }
    if case.last == Last::Sentinel {
        let sentinel = format!(
            "GET http://{origin}{SENTINEL} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n"
        );
        drop(soon("the sentinel to go", writes.write_all(sentinel.as_bytes())).await);
    } else if case.last == Last::Ends {
        // A client that has left before its request went out would be none.
        for cut in case.expected.iter().filter_map(Expected::cut) {
            let all = filled(cut, origin).len();
            wait_until(case.name, async || book.page().begun >= all).await;
        }
        drop(writes.shutdown().await);
    }
    let mut is_reset = soon(&format!("the end of {name:?}"), async {
        loop {
            match reads.read_buf(&mut got).await {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => return true,
            }
        }
    })
    .await;
    // A reset behind an end shows in no read, and loses what was not read yet where clients are not
    // Linux. The proxy reads on for two seconds; this is a twentieth of them.
    for _ in 0..20 {
        if !case.probes || is_reset {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(stream.try_write(b"x"));
        is_reset = stream.take_error().unwrap().is_some();
    }
    (got, is_reset)
}

/// One connection of the origin.
struct Served {
    stream: TcpStream,
    peer: SocketAddr,
    origin: SocketAddr,
    book: Book,
    unread: Vec<u8>,
}

impl Served {
    /// Serves as the script says.
    async fn run(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let raw = self.book.page().script.raw.clone();
        if let Some(says) = raw {
            self.stream.write_all(&filled(&says, self.origin)).await?;
            while self.fill_until(|_| false).await {}
            return self.stream.shutdown().await;
        }
        while self.fill_until(|bytes| find(bytes, b"\r\n\r\n").is_some()).await {
            let end = find(&self.unread, b"\r\n").unwrap();
            let is_sentinel = find(&self.unread[..end], SENTINEL.as_bytes()).is_some();
            let line = if is_sentinel {
                let served = [SERVED, b"Content-Length: 0\r\n\r\n"].concat();
                Line { bytes: served, early: false, then: Then::Keep }
            } else {
                let next = self.book.page().script.lines.pop_front();
                next.unwrap_or_else(|| Line { bytes: OK.to_vec(), early: false, then: Then::Keep })
            };
            let says = filled(&line.bytes, self.origin);
            if line.early {
                self.stream.write_all(&says).await?;
            }
            if !(line.early && line.then != Then::Keep) {
                if !self.fill_until(|bytes| end_of_message(bytes).is_some()).await {
                    return Ok(());
                }
                let rest = self.unread.split_off(end_of_message(&self.unread).unwrap());
                let message = std::mem::replace(&mut self.unread, rest);
                let mut page = self.book.page();
                if !is_sentinel {
                    page.messages.push(message);
                }
                if self.unread.is_empty() {
                    page.busy.remove(&self.peer);
                }
            }
            if !line.early {
                self.stream.write_all(&says).await?;
            } else if says.starts_with(b"HTTP/1.1 1") {
                let next = self.book.page().script.lines.pop_front();
                let says = next.map_or(OK.to_vec(), |line| filled(&line.bytes, self.origin));
                self.stream.write_all(&says).await?;
            }
            match line.then {
                Then::Keep => {}
                Then::Reset => return self.stream.set_zero_linger(),
                Then::Close => {
                    self.stream.shutdown().await?;
                    // Closed with bytes unread it would be a reset, which may overtake what was said.
                    while self.fill_until(|_| false).await {}
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether `is_enough` came true before the peer ended.
    async fn fill_until(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> bool {
        while !is_enough(&self.unread) {
            if !self.stream.read_buf(&mut self.unread).await.is_ok_and(|read| read > 0) {
                return false;
            }
            let mut page = self.book.page();
            page.busy.insert(self.peer);
            page.begun = self.unread.len();
        }
        true
    }

    /// What is left is a message that was cut, but for a peer that speaks no HTTP.
    fn over(&mut self) {
        let mut page = self.book.page();
        page.busy.remove(&self.peer);
        if !self.unread.is_empty() {
            page.messages.push(std::mem::take(&mut self.unread));
            page.is_cut = page.script.raw.is_none();
        }
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Where the message at the front ends, if it is whole.
fn end_of_message(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = bytes[..head].to_ascii_lowercase();
    let after = |name: &[u8]| {
        let at = find(&text, name)? + name.len();
        let end = at + find(&text[at..], b"\r\n")?;
        Some(String::from_utf8_lossy(&text[at..end]).trim().to_owned())
    };
    if after(b"\r\ntransfer-encoding:").is_some() {
        return Some(head + end_of_chunks(&bytes[head..])?);
    }
    let length = after(b"\r\ncontent-length:").map_or(0, |length| length.parse().unwrap());
    (bytes.len() >= head + length).then_some(head + length)
}

fn end_of_chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + line]).unwrap();
        let size = usize::from_str_radix(text.split(';').next().unwrap(), 16).unwrap();
        at += line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
    }
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        at += line + 2;
        if line == 0 {
            return Some(at);
        }
    }
}
