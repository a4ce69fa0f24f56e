//! The access log: one canonical line, a JSON object, per request or tunnel.
//!
//! It is written as [`super::lines`] says: nothing waits for it.
//!
//! SECURITY: whatever a client sent is escaped by JSON; the query and userinfo of a target, which
//! may hold secrets, are not written.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use serde::Serialize;

use super::lines::Lines;
pub use super::lines::Target;
use super::rfc3339::millis as rfc3339;

/// Bytes of a target that are written.
const TARGET_SIZE: usize = 2048;

/// What one line says.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When the request's head was there.
    pub(crate) time: SystemTime,
    /// Who asked.
    pub(crate) client: SocketAddr,
    /// Its name, if it said one that was found to be true.
    pub(crate) identity: Option<Arc<str>>,
    /// The method.
    pub(crate) method: String,
    /// The request-target as it was sent; query and userinfo are left out when it is written.
    pub(crate) target: String,
    /// The host that the limit counted; empty if it did not come to that.
    pub(crate) host: String,
    /// The status that the client saw; 0 if it left before.
    pub(crate) status: u16,
    /// The word of RFC 9209 if the answer was ours.
    pub(crate) error: Option<&'static str>,
    /// Bytes of body or tunnel that went to the upstream.
    pub(crate) sent: u64,
    /// Bytes of body or tunnel that went to the client.
    pub(crate) received: u64,
    /// How long it waited for a slot.
    pub(crate) waited: Duration,
    /// From the head to the end.
    pub(crate) duration: Duration,
    /// Whether it went out on a kept connection.
    pub(crate) reused: bool,
    /// The API whose policies it met.
    pub(crate) api: Option<Arc<str>>,
    /// What the cache of that API did for it.
    pub(crate) cache: Option<&'static str>,
    /// Attempts by those policies.
    pub(crate) attempts: u32,
    /// By way of which parent the last one went.
    pub(crate) parent: Option<Arc<str>>,
    /// What ended it, in a word.
    pub(crate) end: &'static str,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: SocketAddr,
    identity: Option<&'a str>,
    method: &'a str,
    target: Cow<'a, str>,
    host: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    sent: u64,
    received: u64,
    /// Milliseconds, as all times here.
    waited_ms: f64,
    duration_ms: f64,
    reused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'static str>,
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
    end: &'static str,
}

/// The access log. Cheap to clone; all clones write to the same place.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Lines,
}

impl Log {
    /// Opens the log; a file is created if there is none, and appended to.
    pub fn open(target: &Target) -> io::Result<Self> {
        Ok(Self { lines: Lines::open(target, "narrows-access")? })
    }

    /// A log that writes nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether anything is written: if not, no [`Record`] need be made.
    pub fn is_on(&self) -> bool {
        self.lines.is_on()
    }

    /// Writes one line, or drops and counts it; never waits.
    pub(crate) fn write(&self, record: &Record) {
        if !self.is_on() {
            return;
        }
        self.lines.write(&Line {
            time: rfc3339(record.time),
            client: record.client,
            identity: record.identity.as_deref(),
            method: &record.method,
            target: presentable(&record.target),
            host: &record.host,
            status: record.status,
            error: record.error,
            sent: record.sent,
            received: record.received,
            waited_ms: millis(record.waited),
            duration_ms: millis(record.duration),
            reused: record.reused,
            api: record.api.as_deref(),
            cache: record.cache,
            attempts: record.attempts,
            parent: record.parent.as_deref(),
            end: record.end,
        });
    }

    /// Lines dropped because the writing thread was behind.
    pub fn dropped(&self) -> u64 {
        self.lines.dropped()
    }

    /// Goes on in a new file of the same name: the former one was moved away.
    pub fn reopen(&self) {
        self.lines.reopen();
    }

    /// Writes what is waiting and ends the writing thread, within about a second; what is written
    /// to any clone afterwards is lost.
    pub fn close(&self) {
        self.lines.close();
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Milliseconds with three digits behind the point.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^52 microseconds, 142 years")]
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// A request-target without query, fragment and userinfo, and not longer than [`TARGET_SIZE`].
pub(crate) fn presentable(target: &str) -> Cow<'_, str> {
    let target = target.split(['?', '#']).next().unwrap_or(target);
    let authority = target.find("://").map_or(0, |scheme| scheme + 3);
    let is_path = authority == 0 && target.starts_with('/');
    let end = target[authority..].find('/').map_or(target.len(), |slash| authority + slash);
    let userinfo = target[authority..end].rfind('@').filter(|_| !is_path);
    let size = target.floor_char_boundary(TARGET_SIZE);
    match userinfo {
        Some(at) => {
            let whole = format!("{}{}", &target[..authority], &target[authority + at + 1..]);
            Cow::Owned(whole[..whole.floor_char_boundary(TARGET_SIZE)].to_owned())
        }
        None => Cow::Borrowed(&target[..size]),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn record(target: &str) -> Record {
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_582_934_400_042),
            client: "127.0.0.1:5000".parse().unwrap(),
            identity: None,
            method: "GET".to_owned(),
            target: target.to_owned(),
            host: "a.test".to_owned(),
            status: 503,
            error: Some("connection_limit_reached"),
            sent: 0,
            received: 120,
            waited: Duration::from_micros(1500),
            duration: Duration::from_millis(2),
            reused: false,
            api: None,
            attempts: 0,
            parent: None,
            cache: None,
            end: "refused",
        }
    }

    fn lines(write: impl FnOnce(&Log)) -> Vec<serde_json::Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = Log::open(&Target::File(path.clone())).unwrap();
        write(&log);
        log.close();
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_request_is_one_line_of_json_and_closing_loses_none() {
        let lines = lines(|log| {
            for _ in 0..1000 {
                log.write(&record("http://a.test/path"));
            }
            assert_eq!(log.dropped(), 0);
        });
        assert_eq!(lines.len(), 1000);
        assert_eq!(
            lines[0],
            serde_json::json!({
                "time": "2020-02-29T00:00:00.042Z", "client": "127.0.0.1:5000",
                "identity": null, "method": "GET",
                "target": "http://a.test/path", "host": "a.test", "status": 503,
                "error": "connection_limit_reached", "sent": 0, "received": 120,
                "waited_ms": 1.5, "duration_ms": 2.0, "reused": false, "end": "refused",
            })
        );
    }

    #[test]
    fn what_its_api_did_is_told_if_it_has_one() {
        let met = Record {
            api: Some("orders".into()),
            attempts: 3,
            parent: Some("http://parent.test:3128".into()),
            ..record("*")
        };
        let lines = lines(|log| {
            log.write(&met);
            log.write(&record("*"));
        });
        assert_eq!(
            (&lines[0]["api"], &lines[0]["attempts"], &lines[0]["parent"]),
            (&"orders".into(), &3.into(), &"http://parent.test:3128".into())
        );
        for absent in ["api", "attempts", "parent"] {
            assert!(lines[1].get(absent).is_none(), "{}", lines[1]);
        }
    }

    #[test]
    fn a_client_cannot_forge_a_line() {
        let lines = lines(|log| log.write(&record("http://a.test/\"}\r\n{\"status\":200")));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["status"], 503);
    }

    #[test]
    fn secrets_of_a_target_are_not_written() {
        for (sent, written) in [
            ("http://a.test/p?token=1", "http://a.test/p"),
            ("http://user:pass@a.test/p@q", "http://a.test/p@q"),
            ("http://u@v@a.test", "http://a.test"),
            ("user:pass@a.test:443", "a.test:443"),
            ("a.test:443", "a.test:443"),
            ("/@me", "/@me"),
            ("*", "*"),
        ] {
            assert_eq!(presentable(sent), written, "{sent}");
        }
        assert_eq!(presentable(&"ü".repeat(5000)).len(), TARGET_SIZE);
    }

    #[test]
    fn a_log_that_is_off_writes_nothing() {
        let log = Log::open(&Target::Off).unwrap();
        assert!(!log.is_on());
        log.write(&record("*"));
        log.close();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let path = PathBuf::from("/nowhere/at/all");
        assert_eq!(Log::open(&Target::File(path)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
