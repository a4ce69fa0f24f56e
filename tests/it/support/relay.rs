//! The path between one instance and Redis, which a test can make bad: cut it, slow it down, lose
//! answers, hold back what was said on an old connection, drop hints.
//!
//! What it cannot do is say something twice: TCP does not deliver a segment twice, and a client
//! that says a command again does that itself. A command that arrives late, from a connection that
//! its sender has long given up, can be made: [`Path::Late`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;

/// How bad the path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Connections are closed, and new ones at once.
    Closed,
    /// Published messages do not arrive, answers do.
    Hintless,
    /// What is said on connections with a lower number is held back; new ones work.
    Late(usize),
    /// Commands arrive, answers do not; connections that lost one end when that changes.
    Mute,
    Open,
    /// Connections stay, and nothing arrives; it does when that changes.
    Silent,
    /// Each piece takes so long, in each direction.
    Slow(Duration),
}

pub(crate) struct Relay {
    address: SocketAddr,
    path: watch::Sender<Path>,
    opened: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A good path to this address.
    pub(crate) async fn to(server: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (path, opened) = (watch::Sender::new(Path::Open), Arc::new(AtomicUsize::new(0)));
        let dropped = Arc::new(AtomicUsize::new(0));
        let (rules, numbers, hints) = (path.clone(), Arc::clone(&opened), Arc::clone(&dropped));
        let accepting = tokio::spawn(async move {
            let mut pumps = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if *rules.borrow() == Path::Closed {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let ((from, to), (back, forth)) = (client.into_split(), server.into_split());
                pumps.spawn(commands(from, forth, rules.subscribe(), number));
                pumps.spawn(answers(back, to, rules.subscribe(), Arc::clone(&hints)));
                while pumps.try_join_next().is_some() {}
            }
        });
        Relay { address, path, opened, dropped, accepting }
    }

    /// For `--redis-addr`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn set(&self, path: Path) {
        self.path.send_replace(path);
    }

    /// Holds back what is said on the connections that there are.
    pub(crate) fn hold_old(&self) {
        self.set(Path::Late(self.opened()));
    }

    /// Connections so far.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Published messages that did not arrive.
    pub(crate) fn hints_dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Until the path is as wanted; false if it is closed, or the relay is gone.
async fn pass(path: &mut watch::Receiver<Path>, is_free: impl Fn(Path) -> bool) -> bool {
    let found = path.wait_for(|path| *path == Path::Closed || is_free(*path)).await;
    found.is_ok_and(|path| *path != Path::Closed)
}

/// Some bytes, none at the end or when the path is closed.
async fn read(
    from: &mut OwnedReadHalf,
    path: &mut watch::Receiver<Path>,
    buffer: &mut [u8],
) -> usize {
    tokio::select! {
        length = from.read(buffer) => length.unwrap_or(0),
        _ = path.wait_for(|path| *path == Path::Closed) => 0,
    }
}

async fn commands(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut path: watch::Receiver<Path>,
    number: usize,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = read(&mut from, &mut path, &mut buffer).await;
        let is_free = |path| match path {
            Path::Late(first) => number >= first,
            Path::Silent => false,
            Path::Closed | Path::Hintless | Path::Mute | Path::Open | Path::Slow(_) => true,
        };
        let delay = if let Path::Slow(delay) = *path.borrow() { delay } else { Duration::ZERO };
        tokio::time::sleep(delay).await;
        if length == 0 || !pass(&mut path, is_free).await {
            break; // the end, too, waits its time: dropping the half below says it
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut path: watch::Receiver<Path>,
    dropped: Arc<AtomicUsize>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut unread = Vec::new();
    let mut has_lost = false;
    let mut mended = path.clone();
    loop {
        let length = tokio::select! {
            length = read(&mut from, &mut path, &mut buffer) => length,
            _ = mended.wait_for(|path| *path != Path::Mute), if has_lost => 0,
        };
        if length == 0 {
            break;
        }
        let now = *path.borrow();
        if let Path::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if !pass(&mut path, |path| path != Path::Silent).await {
            break;
        }
        if now == Path::Mute {
            has_lost = true;
            continue;
        }
        unread.extend_from_slice(&buffer[..length]);
        let whole = whole_messages(&unread, now == Path::Hintless, &dropped);
        if to.write_all(&whole.0).await.is_err() {
            break;
        }
        unread.drain(..whole.1);
    }
}

/// The whole messages that bytes begin with, and how many bytes they are; without published ones
/// if so told.
fn whole_messages(bytes: &[u8], hintless: bool, dropped: &AtomicUsize) -> (Vec<u8>, usize) {
    let (mut passed, mut at) = (Vec::new(), 0);
    while let Some(length) = message(&bytes[at..]) {
        let message = &bytes[at..at + length];
        let is_hint = message.starts_with(b">3\r\n$7\r\nmessage\r\n");
        if hintless && is_hint {
            dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            passed.extend_from_slice(message);
        }
        at += length;
    }
    (passed, at)
}

/// The length of the message of RESP 2 or 3 that bytes begin with, if it is whole.
fn message(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..end - 2]).unwrap().parse::<i64>().unwrap();
    match bytes[0] {
        b'$' | b'=' | b'!' => {
            let length = usize::try_from(number()).map_or(end, |length| end + length + 2);
            (bytes.len() >= length).then_some(length)
        }
        kind @ (b'*' | b'~' | b'>' | b'%') => {
            let count = if kind == b'%' { 2 * number() } else { number() };
            (0..count.max(0)).try_fold(end, |at, _| Some(at + message(&bytes[at..])?))
        }
        _ => Some(end),
    }
}
