//! From the bytes of a client to those that the origin reads, through a whole proxy on loopback.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::reading;
use super::reading::Message;
use super::reading::Unread;
use crate::App;
use crate::Config;
use crate::proxy::fuzz::Verdict;
use crate::proxy::fuzz::verdict;

/// For one read; nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 0\r\n\r\n";
/// What follows each request on the same connection: only where both ends of narrows agree on where the
/// first ended, this arrives as it is.
const NEXT: &str = "/the-next-one";

static BENCH: OnceLock<Option<Mutex<Bench>>> = OnceLock::new();

/// A proxy, and an origin that tells what it read.
struct Bench {
    _app: App,
    proxy: SocketAddr,
    origin: SocketAddr,
    seen: Receiver<Result<Message, Unread>>,
}

/// The origin reads what the client meant: method, target, fields less those of the hop, body; or it
/// reads nothing, and the answer is the proxy's own.
///
/// The input is a request in origin-form; it is sent in absolute-form, with another request behind it.
pub fn forwarded(data: &[u8]) {
    let Some((method, rest)) = split(data, b' ') else { return };
    if method == b"CONNECT" || !rest.starts_with(b"/") {
        return;
    }
    let bench = BENCH.get_or_init(|| start().map(Mutex::new));
    let Some(bench) = bench.as_ref() else { panic!("no bench") };
    let bench = bench.lock().unwrap_or_else(PoisonError::into_inner);
    let origin = bench.origin;
    let prefix = [method, format!(" http://{origin}").as_bytes()].concat();
    let bytes = [&prefix, rest].concat();
    let whole = match verdict(&bytes) {
        // More would be waited for, or a tunnel made.
        Verdict::Connect | Verdict::Partial | Verdict::Message(_, None) => return,
        Verdict::Message(_, Some(length)) => Some(&bytes[..length]),
        Verdict::Refused(_) => None,
    };
    let meant = whole.map(|whole| {
        let meant = reading::request(whole);
        let Ok(meant) = meant else { panic!("the guard takes what is none: {meant:?}") };
        assert_eq!(meant.length, whole.len(), "the guard and the standard end it elsewhere");
        meant
    });
    // These wait for what the origin here never says, or are for the proxy itself.
    let special = ["expect", "max-forwards", "via", "upgrade"];
    let is_special = |meant: &Message| special.iter().any(|name| !meant.values(name).is_empty());
    if meant.as_ref().is_some_and(is_special) {
        return;
    }
    let answers = bench.exchange(whole.unwrap_or(&bytes));
    let seen: Vec<_> = bench.seen.try_iter().collect();
    let Some(meant) = meant else {
        // A body that turns bad may have begun to go out: what is there of it is seen to be cut.
        let is_cut = seen.iter().all(|read| matches!(read, Err(Unread::Partial)));
        assert!(is_cut && !is_from_origin(&answers), "a refused request was forwarded: {seen:?}");
        return;
    };
    let mut seen = seen.into_iter().map(|read| {
        let Ok(read) = read else { panic!("what the origin got is none: {read:?}") };
        read
    });
    let first = seen.next();
    match first {
        Some(first) if first.start[1] != NEXT => {
            assert_eq!(first.start[0], meant.start[0], "the method");
            let target = meant.start[1].strip_prefix(&format!("http://{origin}"));
            assert_eq!(Some(first.start[1].as_str()), target, "the target");
            compare(&meant, &first, origin);
            assert_eq!(first.body, meant.body, "the body");
            if let Some(next) = seen.next() {
                assert_eq!((next.start[0].as_str(), next.start[1].as_str()), ("GET", NEXT));
                assert!(next.body.is_empty());
            }
        }
        // It was refused, and the connection may have gone on.
        Some(_) | None => assert!(!answers.is_empty(), "no answer at all"),
    }
    assert_eq!(seen.next(), None, "one request became several");
}

/// Fields: what was meant, less what is of the hop, in its order for each name.
fn compare(meant: &Message, got: &Message, origin: SocketAddr) {
    let own = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "via",
        "upgrade",
        "http2-settings",
        "proxy-authenticate",
        "proxy-authentication-info",
    ];
    let lists = meant.values("connection").into_iter().map(String::from_utf8_lossy);
    let named: Vec<String> = lists
        .flat_map(|list| {
            list.split(',').map(|name| name.trim().to_ascii_lowercase()).collect::<Vec<_>>()
        })
        .collect();
    let crosses = |name: &str| !own.contains(&name) && !named.iter().any(|named| named == name);
    for (name, _) in &meant.fields {
        let wanted = if crosses(name) { meant.values(name) } else { continue };
        assert_eq!(got.values(name), wanted, "{name}");
    }
    for (name, _) in &got.fields {
        let is_ours = own.contains(&name.as_str());
        assert!(is_ours || crosses(name), "{name} crossed");
        assert!(is_ours || !meant.values(name).is_empty(), "{name} was made up");
    }
    assert_eq!(got.values("host"), [origin.to_string().as_bytes()], "Host");
    for name in ["proxy-authorization", "proxy-connection", "keep-alive"] {
        assert!(got.values(name).is_empty(), "{name} crossed");
    }
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == at)?;
    Some(bytes.split_at(at)).map(|(before, rest)| (before, &rest[1..]))
}

fn is_from_origin(answers: &[u8]) -> bool {
    answers.windows(8).any(|eight| eight.eq_ignore_ascii_case(b"x-origin"))
}

impl Bench {
    /// All that the proxy answers to these bytes and to [`NEXT`] behind them, up to its close.
    #[expect(clippy::disallowed_methods, reason = "a client of the proxy, which has no permit")]
    fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let Ok(mut stream) = TcpStream::connect(self.proxy) else { panic!("the proxy is gone") };
        let origin = self.origin;
        let next = format!(
            "GET http://{origin}{NEXT} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\n\r\n"
        );
        let _timeout_is_set = stream.set_read_timeout(Some(PATIENCE)).is_ok();
        // A proxy that has refused may have closed already.
        let _is_sent = stream.write_all(&[bytes, next.as_bytes()].concat()).is_ok();
        let mut answers = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answers) {
            assert!(error.kind() == std::io::ErrorKind::ConnectionReset, "no end: {error}");
        }
        answers
    }
}

fn start() -> Option<Bench> {
    let mut config = Config::default();
    config.listen.address = SocketAddr::from(([127, 0, 0, 1], 0));
    config.listen.threads = 1;
    config.admin = None;
    let app = App::new(config).ok()?;
    app.start().ok()?;
    let proxy = app.proxy_addr()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).ok()?;
    let origin = listener.local_addr().ok()?;
    let (tell, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tell = tell.clone();
            // Each connection has a thread: the proxy keeps some for later.
            std::thread::spawn(move || serve(stream, &tell));
        }
    });
    Some(Bench { _app: app, proxy, origin, seen })
}

/// Answers each request once it is whole, and tells before what it was.
fn serve(mut stream: TcpStream, tell: &mpsc::Sender<Result<Message, Unread>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..read]);
        loop {
            match reading::request(&bytes) {
                Err(Unread::Partial) if read > 0 || bytes.is_empty() => break,
                Ok(message) => {
                    bytes.drain(..message.length);
                    if tell.send(Ok(message)).is_err() || stream.write_all(ANSWER).is_err() {
                        return;
                    }
                }
                Err(unread) => {
                    // Nobody may be there to hear it any more.
                    let _heard = tell.send(Err(unread)).is_ok();
                    return;
                }
            }
        }
        if read == 0 {
            return;
        }
    }
}
