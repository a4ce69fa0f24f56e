//! The origins of all rows: each row has a path of its own, a script, and a list of what was asked.
//!
//! What is asked first is answered by the script's first answer, and so on, the last one again and
//! again. Each answer carries its number in `X-Origin`, and in its body unless the script gives it one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;

use super::Api;
use super::Case;
use crate::support::Head;
use crate::support::Wire;

/// One answer of an origin.
#[derive(Clone, Debug)]
pub(super) struct Says {
    pub(super) status: u16,
    fields: Vec<&'static str>,
    body: Option<String>,
    how: How,
    is_dated: bool,
    /// It honours If-None-Match, If-Modified-Since and Range as an origin does that has these.
    is_conditional: bool,
    /// How long it takes.
    slow: Duration,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    WithLength,
    Chunked,
    /// With these fields behind it.
    Trailers(&'static str),
    /// By HTTP/1.0, until the connection ends.
    UntilClose,
    /// With a length, and less than that.
    Cut,
    /// In chunks without the last one.
    CutChunked,
    /// Behind an interim response.
    BehindHints,
    /// Not at all: the connection ends.
    Not,
}

impl Says {
    pub(super) fn new(status: u16) -> Says {
        Says {
            status,
            fields: Vec::new(),
            body: None,
            how: How::WithLength,
            is_dated: true,
            is_conditional: false,
            slow: Duration::ZERO,
        }
    }

    /// A field line. See [`filled`] for what stands in braces.
    pub(super) fn with(mut self, field: &'static str) -> Says {
        self.fields.push(field);
        self
    }

    pub(super) fn body(mut self, body: impl Into<String>) -> Says {
        self.body = Some(body.into());
        self
    }

    pub(super) fn undated(mut self) -> Says {
        self.is_dated = false;
        self
    }

    /// It is a 304 to who has it, and a 206 to who asks for a part.
    pub(super) fn conditional(mut self) -> Says {
        self.is_conditional = true;
        self
    }

    pub(super) fn slow(mut self, milliseconds: u64) -> Says {
        self.slow = Duration::from_millis(milliseconds);
        self
    }

    fn how(mut self, how: How) -> Says {
        self.how = how;
        self
    }

    pub(super) fn chunked(self) -> Says {
        self.how(How::Chunked)
    }

    pub(super) fn trailers(self, fields: &'static str) -> Says {
        self.how(How::Trailers(fields))
    }

    pub(super) fn until_close(self) -> Says {
        self.how(How::UntilClose)
    }

    pub(super) fn cut(self) -> Says {
        self.how(How::Cut)
    }

    pub(super) fn cut_chunked(self) -> Says {
        self.how(How::CutChunked)
    }

    pub(super) fn behind_hints(self) -> Says {
        self.how(How::BehindHints)
    }

    /// The body of this answer, if it is of this number.
    pub(super) fn text(&self, number: usize) -> String {
        self.body.clone().unwrap_or_else(|| format!("answer {number}"))
    }

    fn field(&self, name: &str) -> Option<&'static str> {
        let named = |line: &&'static str| {
            line.split(':').next().is_some_and(|is| is.eq_ignore_ascii_case(name))
        };
        let line = self.fields.iter().copied().find(named)?;
        line.split_once(':').map(|(_, value)| value.trim())
    }
}

/// A connection that ends without an answer.
pub(super) fn silence() -> Says {
    Says::new(0).how(How::Not)
}

/// What was asked of an origin.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: Head,
}

/// The origins of one run, one for each API.
#[derive(Debug)]
pub(super) struct Origins {
    addresses: Vec<SocketAddr>,
    book: Arc<Book>,
    accepting: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Book {
    pages: Vec<Mutex<Page>>,
}

#[derive(Debug)]
struct Page {
    says: Vec<Says>,
    places: Places,
    seen: Vec<Seen>,
}

/// What stands for the words in braces in a row's fields.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// When the row began.
    pub(super) now: SystemTime,
    /// Its path.
    pub(super) path: String,
    /// Its origin, and another one.
    pub(super) origin: SocketAddr,
    pub(super) other: SocketAddr,
}

impl Origins {
    pub(super) async fn start(cases: &[Case]) -> Origins {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for (number, _) in Api::ALL.iter().enumerate() {
            let listener = TcpListener::bind(format!("127.0.0.{}:0", 11 + number)).await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            listeners.push(listener);
        }
        let page = |(number, case): (usize, &Case)| {
            let places = Places {
                now: SystemTime::now(),
                path: path(number),
                origin: addresses[index(case.api)],
                other: addresses[index(Api::NoTtl)],
            };
            Mutex::new(Page { says: case.says.clone(), places, seen: Vec::new() })
        };
        let book = Arc::new(Book { pages: cases.iter().enumerate().map(page).collect() });
        let accept = |listener| tokio::spawn(accept(listener, Arc::clone(&book)));
        let accepting = listeners.into_iter().map(accept).collect();
        Origins { addresses, book, accepting }
    }

    pub(super) fn address(&self, api: Api) -> SocketAddr {
        self.addresses[index(api)]
    }

    pub(super) fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book)
    }
}

impl Drop for Origins {
    fn drop(&mut self) {
        for task in &self.accepting {
            task.abort();
        }
    }
}

impl Book {
    /// The row of this number begins now.
    pub(super) fn begin(&self, case: usize) -> Places {
        let mut page = self.page(case);
        page.places.now = SystemTime::now();
        page.places.clone()
    }

    pub(super) fn hits(&self, case: usize) -> usize {
        self.page(case).seen.len()
    }

    pub(super) fn last(&self, case: usize) -> Option<Seen> {
        self.page(case).seen.last().cloned()
    }

    fn page(&self, case: usize) -> MutexGuard<'_, Page> {
        self.pages[case].lock().unwrap()
    }
}

/// The path of the row of this number, which no other has.
pub(super) fn path(case: usize) -> String {
    format!("/row{case}")
}

fn index(api: Api) -> usize {
    Api::ALL.iter().position(|is| *is == api).unwrap()
}

async fn accept(listener: TcpListener, book: Arc<Book>) {
    let mut running = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let book = Arc::clone(&book);
        running.spawn(async move {
            // A peer that leaves in the middle is none of the origin's business.
            drop(serve(Wire::new(stream), &book).await);
        });
        while running.try_join_next().is_some() {}
    }
}

async fn serve(mut wire: Wire<TcpStream>, book: &Book) -> io::Result<()> {
    while let Some(head) = wire.head().await? {
        wire.request_body(&head).await?;
        let case = number(head.target()).unwrap_or_else(|| panic!("no row: {head:?}"));
        let (says, number, places) = {
            let mut page = book.page(case);
            page.seen.push(Seen { head: head.clone() });
            let number = page.seen.len();
            let at = number.min(page.says.len()).checked_sub(1).expect("an answer");
            (page.says[at].clone(), number, page.places.clone())
        };
        tokio::time::sleep(says.slow).await;
        if !answer(&mut wire, &head, &says, number, &places).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The number of the row in a target such as `/row12/x?y`.
fn number(target: &str) -> Option<usize> {
    let rest = target.strip_prefix("/row")?;
    let end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Whether the connection goes on.
async fn answer(
    wire: &mut Wire<TcpStream>,
    asked: &Head,
    says: &Says,
    number: usize,
    places: &Places,
) -> io::Result<bool> {
    if says.how == How::Not {
        return Ok(false);
    }
    let mut body = says.text(number);
    let mut status = says.status;
    let mut range = String::new();
    if says.is_conditional {
        if has_it(asked, says, places) {
            status = 304;
        } else if let Some((from, to)) = part(asked, body.len()) {
            status = 206;
            range = format!("Content-Range: bytes {from}-{to}/{}\r\n", body.len());
            body = body[from..=to].to_owned();
        }
    }
    let version = if says.how == How::UntilClose { "1.0" } else { "1.1" };
    let mut head = format!("HTTP/{version} {status} Word\r\nX-Origin: {number}\r\n{range}");
    if says.is_dated && says.field("date").is_none() {
        head += &format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
    }
    for field in &says.fields {
        head += &filled(field, places);
        head += "\r\n";
    }
    let is_bare = matches!(status, 204 | 304);
    if says.how == How::BehindHints {
        wire.send("HTTP/1.1 103 Early Hints\r\nX-Hint: yes\r\n\r\n").await?;
    }
    match says.how {
        _ if is_bare => wire.send(head + "\r\n").await?,
        How::WithLength | How::BehindHints => {
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
            if asked.method() != "HEAD" {
                head += &body;
            }
            wire.send(head).await?;
        }
        How::Chunked | How::Trailers(_) | How::CutChunked => {
            head += "Transfer-Encoding: chunked\r\n\r\n";
            if asked.method() == "HEAD" {
                wire.send(head).await?;
                return Ok(true);
            }
            for chunk in body.as_bytes().chunks(3) {
                head += &format!("{:x}\r\n{}\r\n", chunk.len(), chunk.escape_ascii());
            }
            if let How::Trailers(fields) = says.how {
                head += &format!("0\r\n{fields}\r\n\r\n");
            } else if says.how == How::Chunked {
                head += "0\r\n\r\n";
            }
            wire.send(head).await?;
        }
        How::UntilClose => wire.send(head + "\r\n" + &body).await?,
        How::Cut => {
            wire.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len() + 10)).await?;
        }
        How::Not => {}
    }
    Ok(!matches!(says.how, How::UntilClose | How::Cut | How::CutChunked))
}

/// Whether the client has what the origin would send (RFC 9110 §13.2.2, as far as these rows go).
fn has_it(asked: &Head, says: &Says, places: &Places) -> bool {
    if !asked.all("if-none-match").is_empty() {
        let tag = says.field("etag").unwrap_or_default();
        let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
        return asked
            .list("if-none-match")
            .iter()
            .any(|is| *is == "*" || opaque(is) == opaque(tag));
    }
    let modified = says.field("last-modified").map(|value| filled(value, places));
    let since =
        asked.field("if-modified-since").and_then(|date| httpdate::parse_http_date(date).ok());
    let modified = modified.and_then(|date| httpdate::parse_http_date(&date).ok());
    since.zip(modified).is_some_and(|(since, modified)| modified <= since)
}

/// The part of a body of this length that is asked for.
fn part(asked: &Head, length: usize) -> Option<(usize, usize)> {
    let (from, to) = asked.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
    let to = to.parse().unwrap_or(length - 1).min(length - 1);
    Some((from.parse().ok()?, to))
}

/// `{now}`, `{now-100}` and `{now+100}` are dates by the row's begin, `{rfc850+100}` and
/// `{asctime+100}` such of the old forms; `{o}` and `{other}` are origins, `{path}` is the row's.
pub(super) fn filled(text: &str, places: &Places) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let (word, behind) = behind.split_once('}').expect("a brace that is closed");
        filled += before;
        filled += &match word {
            "o" => places.origin.to_string(),
            "other" => places.other.to_string(),
            "path" => places.path.clone(),
            word => date(word, places.now),
        };
        rest = behind;
    }
    filled + rest
}

fn date(word: &str, now: SystemTime) -> String {
    let sign = word.find(['+', '-']).unwrap_or(word.len());
    let (form, offset) = word.split_at(sign);
    let seconds: i64 = if offset.is_empty() { 0 } else { offset.parse().unwrap() };
    let length = Duration::from_secs(seconds.unsigned_abs());
    let then = if seconds < 0 { now - length } else { now + length };
    let date = httpdate::fmt_http_date(then);
    let parts: Vec<&str> = date.split([' ', ',']).filter(|part| !part.is_empty()).collect();
    let [week, day, month, year, time, _gmt] = parts[..] else { panic!("{date}") };
    match form {
        "now" => date.clone(),
        "asctime" => format!("{week} {month} {:>2} {time} {year}", day.trim_start_matches('0')),
        "rfc850" => {
            let days =
                ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
            let week = days.into_iter().find(|day| day.starts_with(week)).unwrap();
            format!("{week}, {day}-{month}-{} {time} GMT", &year[2..])
        }
        other => panic!("no such word: {other}"),
    }
}
