//! HTTP/1.1 to the byte: a table of cases, one row each, over raw sockets against the real program.
//!
//! A row says which bytes a client sends, what the origin says to it, which bytes exactly reached the
//! origin, and what exactly the client got. Behind most rows the bench sends one more request, the
//! *sentinel*: whether it was served tells if the connection went on, and a request that was made of bytes
//! behind a refused one could not hide.
//!
//! To add one: `case(section, name, bytes)` in the file of its topic, and what must come of it. In all
//! bytes `{o}` stands for the origin's `address:port`, `{p}` for its port.

mod chunked;
mod connect;
mod fields;
mod framing;
mod hosts;
mod interim;
mod methods;
mod origins;
mod peers;
mod persistence;
mod targets;

use std::fmt::Write as _;
use std::io::Cursor;

use self::peers::Heard;
use self::peers::Script;
use crate::support::Proxy;
use crate::support::Setup;
use crate::support::Wire;
use crate::support::check;
use crate::support::narrows;

/// The name in Via of the proxy under test.
pub(super) const VIA: &str = "wire";
/// What an origin says unless a row says otherwise.
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// The same as a client gets it.
pub(super) const OK_PASSED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 wire\r\n\r\nok";

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Case {
    section: &'static str,
    name: &'static str,
    steps: Vec<Step>,
    script: Script,
    last: Last,
    /// Whether the client goes on sending after the proxy's end, to see if it is still read.
    probes: bool,
    expected: Vec<Expected>,
}

/// What the client does, in this order.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    /// Waits until exactly these bytes have come, not counting those of earlier steps.
    Hear(Vec<u8>),
}

/// What the client does at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// Sends the sentinel.
    Sentinel,
    /// Ends its direction (FIN).
    Ends,
    /// Only reads.
    Waits,
}

#[derive(Clone, Debug)]
enum Expected {
    /// All messages at the origin together are these bytes, each of them whole.
    Arrives(Vec<u8>),
    /// The same, and the last of them was cut.
    ArrivesCut(Vec<u8>),
    /// The origin got a message that begins with these bytes, has these in it, or has not.
    ArrivesWith(Vec<u8>),
    ArrivesWithout(Vec<u8>),
    /// The client got exactly these bytes.
    Gets(Vec<u8>),
    GetsWith(Vec<u8>),
    GetsWithout(Vec<u8>),
    /// The statuses of all that the client got, none of it cut short.
    Statuses(Vec<u16>),
    /// An answer of narrows' own, with this word of RFC 9209.
    Own(u16, &'static str),
    /// Nobody connected to the origin.
    Nobody,
    /// The connection went on (the sentinel was served), or did not.
    GoesOn(bool),
    /// The client saw a reset, or an end.
    Reset(bool),
}

impl Expected {
    /// The one message of which only this is to arrive.
    fn cut(&self) -> Option<&[u8]> {
        if let Self::ArrivesCut(bytes) = self { Some(bytes) } else { None }
    }
}

/// A row whose client sends these bytes.
pub(super) fn case(section: &'static str, name: &'static str, send: impl AsRef<[u8]>) -> Case {
    let steps = vec![Step::Send(send.as_ref().to_vec())];
    Case {
        section,
        name,
        steps,
        script: Script::default(),
        last: Last::Sentinel,
        probes: false,
        expected: Vec::new(),
    }
}

/// A row whose client sends one GET that is beyond reproach: what matters is the origin.
pub(super) fn get(section: &'static str, name: &'static str) -> Case {
    case(section, name, "GET http://{o}/ HTTP/1.1\r\nHost: {o}\r\n\r\n")
}

impl Case {
    fn expect(mut self, expected: Expected) -> Case {
        self.expected.push(expected);
        self
    }

    /// Refused with this status; the connection closes; nobody connected to the origin.
    pub(super) fn refused(self, status: u16) -> Case {
        let own = Expected::Own(status, "http_request_error");
        self.expect(own).nobody().closes().expect(Expected::Reset(false))
    }

    /// Answered by narrows itself, with this status and word.
    pub(super) fn own(self, status: u16, word: &'static str) -> Case {
        self.expect(Expected::Own(status, word))
    }

    /// Exactly these bytes reach the origin (of all requests but the sentinel).
    pub(super) fn arrives(self, bytes: impl AsRef<[u8]>) -> Case {
        self.expect(Expected::Arrives(bytes.as_ref().to_vec()))
    }

    /// A request with this start line, a Host and our Via and nothing else reaches the origin.
    pub(super) fn arrives_as(self, start: &str) -> Case {
        self.arrives(format!("{start}\r\nHost: {{o}}\r\nVia: 1.1 {VIA}\r\n\r\n"))
    }

    /// Exactly these bytes reach the origin, and the last message is not whole.
    pub(super) fn arrives_cut(self, bytes: impl AsRef<[u8]>) -> Case {
        self.expect(Expected::ArrivesCut(bytes.as_ref().to_vec()))
    }

    pub(super) fn arrives_with(self, part: impl AsRef<[u8]>) -> Case {
        self.expect(Expected::ArrivesWith(part.as_ref().to_vec()))
    }

    pub(super) fn arrives_without(self, part: impl AsRef<[u8]>) -> Case {
        self.expect(Expected::ArrivesWithout(part.as_ref().to_vec()))
    }

    /// The client gets exactly these bytes (but for the sentinel's answer).
    pub(super) fn gets(self, bytes: impl AsRef<[u8]>) -> Case {
        self.expect(Expected::Gets(bytes.as_ref().to_vec()))
    }

    pub(super) fn gets_with(self, part: impl AsRef<[u8]>) -> Case {
        self.expect(Expected::GetsWith(part.as_ref().to_vec()))
    }

    pub(super) fn gets_without(self, part: impl AsRef<[u8]>) -> Case {
        self.expect(Expected::GetsWithout(part.as_ref().to_vec()))
    }

    /// The client gets whole answers with these statuses.
    pub(super) fn answered(self, statuses: &[u16]) -> Case {
        self.expect(Expected::Statuses(statuses.to_vec()))
    }

    /// Afterwards the client's connection serves the next request.
    pub(super) fn goes_on(self) -> Case {
        self.expect(Expected::GoesOn(true))
    }

    /// Afterwards the client's connection is closed, and bytes behind are not read as a request.
    pub(super) fn closes(self) -> Case {
        self.expect(Expected::GoesOn(false))
    }

    /// The client sees a reset: what it got does not look complete.
    pub(super) fn resets(self) -> Case {
        self.expect(Expected::Reset(true)).without_sentinel()
    }

    /// The connection ends in good order: no reset overtakes what the client was told, though it
    /// goes on sending.
    pub(super) fn ends(mut self) -> Case {
        self.probes = true;
        self.expect(Expected::Reset(false))
    }

    /// The same of a client that waits for its answer: all it did was asking.
    pub(super) fn cut(self) -> Case {
        self.expect(Expected::Reset(true)).waits()
    }

    /// Nobody connected to the origin.
    pub(super) fn nobody(self) -> Case {
        self.expect(Expected::Nobody)
    }

    /// The client waits for exactly these bytes, then goes on.
    pub(super) fn hears(mut self, bytes: impl AsRef<[u8]>) -> Case {
        self.steps.push(Step::Hear(bytes.as_ref().to_vec()));
        self
    }

    pub(super) fn sends(mut self, bytes: impl AsRef<[u8]>) -> Case {
        self.steps.push(Step::Send(bytes.as_ref().to_vec()));
        self
    }

    /// No sentinel; the client's FIN follows its bytes.
    pub(super) fn without_sentinel(mut self) -> Case {
        self.last = Last::Ends;
        self
    }

    /// No sentinel, and no end either: the client waits for the proxy's.
    pub(super) fn waits(mut self) -> Case {
        self.last = Last::Waits;
        self
    }

    /// Of the origin's answers to whole requests, the next is this one.
    pub(super) fn origin_says(mut self, bytes: impl AsRef<[u8]>) -> Case {
        self.script.say(bytes.as_ref(), false);
        self
    }

    /// The same as soon as a request's head is there, its body unread.
    pub(super) fn origin_says_early(mut self, bytes: impl AsRef<[u8]>) -> Case {
        self.script.say(bytes.as_ref(), true);
        self
    }

    /// After its last answer the origin closes.
    pub(super) fn origin_closes(mut self) -> Case {
        self.script.close();
        self
    }

    /// After its last answer the origin resets.
    pub(super) fn origin_resets(mut self) -> Case {
        self.script.reset();
        self
    }

    /// The origin speaks no HTTP: at once it says this, and all it hears is one message.
    pub(super) fn origin_is_raw(mut self, bytes: impl AsRef<[u8]>) -> Case {
        self.script.raw(bytes.as_ref());
        self
    }
}

/// Runs all rows against one proxy, and names each that failed.
pub(super) async fn run(cases: Vec<Case>) {
    run_on(narrows(), cases).await;
}

/// The same against a proxy with settings of its own.
pub(super) async fn run_on(setup: Setup, cases: Vec<Case>) {
    let proxy = setup.flags(format!("--via {VIA}")).start().await;
    let mut failures = String::new();
    let count = cases.len();
    for case in cases {
        let heard = peers::play(proxy.address, &case).await;
        let mut whys = Vec::new();
        for expected in &case.expected {
            whys.extend(heard.judge(expected).await.err());
        }
        if !whys.is_empty() {
            let whys = whys.join("\n  ");
            let (origin, client) = (shown(&heard.at_origin()), shown(&heard.at_client));
            let _infallible = writeln!(
                failures,
                "{} {}:\n  {whys}\n  the origin heard \"{origin}\"\n  the client \"{client}\"",
                case.section, case.name,
            );
        }
        assert!(!case.expected.is_empty(), "{}: nothing is expected", case.name);
    }
    assert!(failures.is_empty(), "of {count} rows these failed:\n{failures}");
    eprintln!("{count} rows");
    drop::<Proxy>(proxy);
}

fn shown(bytes: &[u8]) -> String {
    let long = bytes.len() > 2000;
    let text = bytes[..bytes.len().min(2000)].escape_ascii().to_string();
    if long { text + "..." } else { text }
}

impl Heard {
    async fn judge(&self, expected: &Expected) -> Result<(), String> {
        let same = |what: &str, is: &[u8], wanted: &[u8]| {
            let wanted = self.filled(wanted);
            if is == wanted { Ok(()) } else { Err(format!("{what} is not \"{}\"", shown(&wanted))) }
        };
        let has = |what: &str, all: &[u8], part: &[u8], wanted: bool| {
            let part = self.filled(part);
            let found = all.windows(part.len().max(1)).any(|window| window == part);
            if found == wanted {
                return Ok(());
            }
            let verb = if wanted { "lacks" } else { "has" };
            Err(format!("{what} {verb} \"{}\"", shown(&part)))
        };
        match expected {
            Expected::Arrives(bytes) if !self.is_cut => {
                same("what arrived", &self.at_origin(), bytes)
            }
            Expected::Arrives(_) => Err("a request arrived that is not whole".to_owned()),
            Expected::ArrivesCut(bytes) if self.is_cut => {
                same("what arrived", &self.at_origin(), bytes)
            }
            Expected::ArrivesCut(_) => Err("no request was cut".to_owned()),
            Expected::ArrivesWith(part) => has("what arrived", &self.at_origin(), part, true),
            Expected::ArrivesWithout(part) => has("what arrived", &self.at_origin(), part, false),
            Expected::Gets(bytes) => same("what the client got", &self.at_client, bytes),
            Expected::GetsWith(part) => has("what the client got", &self.at_client, part, true),
            Expected::GetsWithout(part) => has("what the client got", &self.at_client, part, false),
            Expected::Statuses(statuses) => {
                let (is, _) = self.answers().await?;
                if is == *statuses { Ok(()) } else { Err(format!("{is:?} is not {statuses:?}")) }
            }
            Expected::Own(status, word) => {
                let (is, last) = self.answers().await?;
                let (own, body) = last.ok_or("no answer")?;
                if is.last() != Some(status) {
                    return Err(format!("{is:?} does not end in {status}"));
                }
                check::head(&own);
                check::body(&own, "GET", &body);
                let is = check::word(&own);
                if is == *word { Ok(()) } else { Err(format!("{is} is not {word}")) }
            }
            // The sentinel may need one.
            Expected::Nobody if self.connections <= usize::from(self.went_on) => Ok(()),
            Expected::Nobody => Err("somebody connected to the origin".to_owned()),
            Expected::GoesOn(wanted) if self.went_on == *wanted => Ok(()),
            Expected::GoesOn(true) => Err("the connection did not go on".to_owned()),
            Expected::GoesOn(false) => Err("the sentinel was served".to_owned()),
            Expected::Reset(wanted) if self.is_reset == *wanted => Ok(()),
            Expected::Reset(true) => Err("the client saw no reset".to_owned()),
            Expected::Reset(false) => Err("the client saw a reset".to_owned()),
        }
    }

    /// The statuses of all that came, and the last answer.
    async fn answers(&self) -> Result<(Vec<u16>, Option<(crate::support::Head, Vec<u8>)>), String> {
        let mut wire = Wire::new(Cursor::new(self.at_client.clone()));
        let mut statuses = Vec::new();
        let mut last = None;
        while let Some(head) = wire.head().await.map_err(|error| error.to_string())? {
            let body = wire.response_body("GET", &head).await;
            let (body, _) = body.map_err(|error| format!("an answer is cut short: {error}"))?;
            statuses.push(head.status());
            last = Some((head, body));
        }
        Ok((statuses, last))
    }
}
