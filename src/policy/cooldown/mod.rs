//! Cool-downs: an upstream that asks not to be asked for a while is obeyed, by all instances.
//!
//! A 429, or a 503 that says when, begins one ([`fields`] reads the time). It holds for what the
//! [`Scope`] says ([`subject`]), here at once and at the other instances by the board ([`book`]).
//! Requests wait it out, in turn, if they have the time; the others are refused with the status that
//! was heard and the time that is left. When it is over they go at a pace that begins slowly
//! ([`pause`]), so that the upstream is not met by all who waited.
//!
//! It is not a queue for slots: who waits here holds none. It does not repeat requests either; that
//! is [`super::retry`], which is told how long the upstream wants.
//!
//! Invariants: the longest end wins, and none is longer than [`Settings::max`]. Another credential
//! is not held up by what is asked of one. Redis is asked for nothing on the way of a request; while
//! it is away, each instance keeps to what it heard itself.

mod book;
mod fields;
mod pause;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::HeaderMap;
use tokio::time::Instant;

use self::book::Book;
pub(crate) use self::book::Counted;
pub(crate) use self::book::Seen;
pub(crate) use self::subject::Subject;
use super::Decision;
use super::Mode;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::store::board::Board;

/// What is heard, and how it is kept to.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether it is obeyed. One that only observes does not hear the answers to those attempts that
    /// it would have held back.
    pub mode: Mode,
    /// What is left alone when one answer says so.
    pub scope: Scope,
    /// The longest that is obeyed; what asks for more gets this.
    pub max: Duration,
    /// For a 429 that says nothing about time, or none at all; zero lets it go unheard.
    pub default: Duration,
    /// Requests per second of the whole fleet right after it, growing from there; 0 does not pace.
    pub ramp: f64,
    /// How long one is waited out at most for a request that does not say itself how long it would
    /// wait; zero refuses at once.
    pub wait: Duration,
    /// Whether a success that says that it was the last one for now begins one too.
    pub on_exhausted: bool,
}

/// What a cool-down is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All requests of the API.
    Api,
    /// Requests to the same host.
    Host,
    /// Requests to the same host with the same credential, known by its fingerprint alone.
    #[default]
    Credential,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            scope: Scope::Credential,
            max: Duration::from_mins(10),
            default: Duration::from_secs(1),
            ramp: 10.0,
            wait: Duration::from_secs(10),
            on_exhausted: false,
        }
    }
}

/// The cool-downs of one API.
#[derive(Debug)]
pub(crate) struct CoolDowns {
    settings: Settings,
    /// Whether its requests may go by another way when one is limited.
    has_parents: bool,
    book: Arc<Book>,
}

impl CoolDowns {
    /// Those of `former` live on.
    pub(crate) fn new(
        api: &Arc<str>,
        settings: Settings,
        has_parents: bool,
        board: &Board,
        former: Option<&Self>,
    ) -> Self {
        let book = match former {
            Some(former) => {
                former.book.obey(settings.clone());
                Arc::clone(&former.book)
            }
            None => Book::open(api, settings.clone(), board),
        };
        Self { settings, has_parents, book }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.settings.mode
    }

    /// How long a request waits that does not say itself how long it would.
    pub(crate) fn patience(&self) -> Duration {
        self.settings.wait
    }

    /// What a request with these fields is.
    pub(crate) fn subject(&self, host: &HostKey, fields: &HeaderMap) -> Subject {
        Subject::new(self.settings.scope, host, fields)
    }

    /// What a request is whose credential has this fingerprint.
    pub(crate) fn recalled(&self, host: &HostKey, credential: Option<&str>) -> Subject {
        Subject::recalled(self.settings.scope, host, credential)
    }

    /// What a request is called that is this subject; for logs.
    pub(crate) fn name_of(&self, subject: &Subject) -> String {
        subject.name(self.book.api(), &self.book.key).to_string()
    }

    /// Whether an attempt may be made now. If not, it may [wait](CoolDowns::wait) and ask again,
    /// provided that its turn comes until `latest`; without one it does not wait.
    pub(crate) fn enter(&self, subject: &Subject, latest: Option<Instant>) -> Decision<()> {
        self.book.enter(subject, latest)
    }

    /// Waits until it is worth asking again: its turn has come, or the cool-down has become longer
    /// or has been forgotten. Dropping it leaves the place; so does dropping the subject.
    pub(crate) async fn wait(&self, subject: &Subject) {
        self.book.wait(subject).await;
    }

    /// An answer; how long it asks not to be asked, if it does.
    pub(crate) fn hear(
        &self,
        subject: &Subject,
        status: u16,
        fields: &HeaderMap,
    ) -> Option<Duration> {
        let is_heard = self.settings.on_exhausted || matches!(status, 429 | 503);
        self.hear_told(subject, status, if is_heard { told(status, fields) } else { None })
    }

    /// The same of an answer whose fields have [told](told) so long.
    pub(crate) fn hear_told(
        &self,
        subject: &Subject,
        status: u16,
        told: Option<Duration>,
    ) -> Option<Duration> {
        let asked = match status {
            200..400 if self.settings.on_exhausted => told,
            // Many round down to nothing what is some milliseconds.
            429 => told.or(Some(self.settings.default)),
            503 => told,
            _ => None,
        };
        let asked = asked.filter(|asked| !asked.is_zero())?;
        // A limit that is no credential's is one of an address, and another parent has another.
        if self.has_parents && self.settings.scope == Scope::Credential && !subject.has_credential()
        {
            return Some(asked.min(self.settings.max));
        }
        let status = if status == 503 { 503 } else { 429 };
        Some(self.book.hear(subject, status, asked)).filter(|left| !left.is_zero())
    }

    /// Ends one, by the name that [`CoolDowns::seen`] gives it, on all instances; whether it was
    /// known here.
    pub(crate) fn forget(&self, name: &str) -> bool {
        self.book.forget(name)
    }

    /// All that hold or whose ramp lasts, the longest first.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.book.seen()
    }

    /// What happened since the start.
    pub(crate) fn counted(&self) -> Counted {
        self.book.counted()
    }
}

/// How long an answer that refuses says not to be asked again.
pub(crate) fn asked(status: u16, fields: &HeaderMap) -> Option<Duration> {
    matches!(status, 429 | 503).then(|| told(status, fields)).flatten()
}

/// How long an answer says not to be asked again, whether it refuses or is the last one for now.
pub(crate) fn told(status: u16, fields: &HeaderMap) -> Option<Duration> {
    let told = match status {
        200..400 => fields::after_last(fields, clock::wall()),
        429 => fields::after_refusal(fields, clock::wall()),
        503 => fields::retry_after(fields, clock::wall()),
        _ => None,
    };
    told.filter(|told| !told.is_zero())
}

/// The fingerprint of what a request carries to say who asks, if it does.
pub(crate) fn fingerprint(
    secret: &hmac::Key,
    api: &str,
    host: &HostKey,
    fields: &HeaderMap,
) -> Option<String> {
    Subject::new(Scope::Credential, host, fields).digits(api, secret)
}
