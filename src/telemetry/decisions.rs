//! The decision log: what each rule decided of each request, and what is needed to decide it again.
//!
//! A line is a JSON object of some [`Kind`]: one that says what is known of a *request*, one for each
//! *decision* of a rule about it, one for each *attempt* and for the *end* of that, and one when all is
//! *done*. `docs/observe.md` tells field by field what they say. Here is how they are written and read,
//! not what is decided, nor by whom.
//!
//! SECURITY: a credential is never in it, only its fingerprint; of a target only the host.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aws_lc_rs::hmac;
use serde::Deserialize;
use serde::Serialize;

use super::lines::Lines;
use super::lines::Target;
use super::rfc3339;
use crate::base::clock;
use crate::base::clock::Moment;

/// What the limit of connections is called among rules; it is none of an API.
pub(crate) const LIMIT: &str = "limit";

/// What a line is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A request, before any rule of its API was asked.
    #[default]
    Request,
    /// What a rule decided.
    Decision,
    /// The rules that stand before an attempt are asked.
    Attempt,
    /// An attempt is over.
    End,
    /// The request is over.
    Done,
}

/// One line. What does not belong to its kind is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line<'a> {
    pub(crate) kind: Kind,
    /// UTC, with microseconds.
    #[serde(borrow)]
    pub(crate) time: Cow<'a, str>,
    /// Microseconds of the instance's monotonic clock.
    pub(crate) at: u64,
    /// Of the request: that of the instance, a dash, a number.
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,

    // Of requests, and of decisions about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<SocketAddr>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Cow<'a, str>>,
    /// The name of its API key.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<Cow<'a, str>>,
    /// The plan of that.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) api: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<Cow<'a, str>>,

    // Of decisions.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Cow<'a, str>>,
    /// What an observed one would have been: waited or refused.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) would: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
    /// For how many requests it counts, where that is not one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wait_ms: Option<f64>,

    // Of attempts and their ends; all times in microseconds, moments as `at` counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempt: Option<u32>,
    /// The fingerprint of what it carries to say who asks.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<Cow<'a, str>>,
    /// When its request came to the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) begun: Option<u64>,
    /// Until when it may wait for a gate, whatever that gate's own settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<u64>,
    /// When it is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<u64>,
    /// Whether the client said itself how long it would wait.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) prefers: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Why there was no response.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) took_us: Option<u64>,
    /// How long the upstream asked not to be asked, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pause_us: Option<u64>,
    /// Whether it says something of a parent alone, and nothing of the upstream.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) aside: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(is: &bool) -> bool {
    !is
}

impl<'a> Line<'a> {
    /// A line of this moment.
    pub(crate) fn now(kind: Kind, id: &'a str) -> Self {
        let Moment { now, wall } = Moment::present();
        Self {
            kind,
            time: rfc3339::micros(wall).into(),
            at: clock::micros(now),
            id: id.into(),
            ..Self::default()
        }
    }
}

impl Line<'_> {
    /// The same line for as long as anybody wants it.
    pub(crate) fn into_owned(self) -> Line<'static> {
        let own = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Line {
            kind: self.kind,
            time: Cow::Owned(self.time.into_owned()),
            at: self.at,
            id: Cow::Owned(self.id.into_owned()),
            client: self.client,
            identity: own(self.identity),
            api_key: own(self.api_key),
            plan: own(self.plan),
            api: own(self.api),
            route: own(self.route),
            method: own(self.method),
            host: own(self.host),
            rule: own(self.rule),
            mode: own(self.mode),
            outcome: own(self.outcome),
            would: own(self.would),
            key: own(self.key),
            value: self.value,
            limit: self.limit,
            cost: self.cost,
            wait_ms: self.wait_ms,
            attempt: self.attempt,
            credential: own(self.credential),
            begun: self.begun,
            until: self.until,
            deadline: self.deadline,
            prefers: self.prefers,
            status: self.status,
            cause: own(self.cause),
            took_us: self.took_us,
            pause_us: self.pause_us,
            aside: self.aside,
        }
    }
}

/// Milliseconds with three digits behind the point.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^52 microseconds, 142 years")]
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// The decision log. Cheap to clone; all clones write to the same place.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    open: Option<Arc<Open>>,
}

#[derive(Debug)]
struct Open {
    lines: Lines,
    /// What the names of requests of this instance begin with.
    instance: String,
    count: AtomicU64,
    secret: hmac::Key,
    /// Lines whose loss has been told.
    told: AtomicU64,
}

impl Decisions {
    /// Opens the log; a file is created if there is none, and appended to. `prefix` is what the fleet
    /// has in common, so that all of it writes the same fingerprint of the same credential.
    pub fn open(target: &Target, prefix: &str) -> io::Result<Self> {
        let lines = Lines::open(target, "narrows-decided")?;
        let open = lines.is_on().then(|| {
            Arc::new(Open {
                lines,
                instance: format!("{:08x}", fastrand::u32(..)),
                count: AtomicU64::new(0),
                secret: hmac::Key::new(hmac::HMAC_SHA256, prefix.as_bytes()),
                told: AtomicU64::new(0),
            })
        });
        Ok(Self { open })
    }

    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// A name for a request that no other has; none if nothing is written.
    pub(crate) fn name(&self) -> Option<Box<str>> {
        let open = self.open.as_ref()?;
        let mut name = String::with_capacity(20);
        // Writing to a String cannot fail.
        let _infallible = write!(name, "{}-{:x}", open.instance, open.count.fetch_add(1, Relaxed));
        Some(name.into())
    }

    /// What fingerprints are made with; none if nothing is written.
    pub(crate) fn secret(&self) -> Option<&hmac::Key> {
        Some(&self.open.as_ref()?.secret)
    }

    pub(crate) fn write(&self, line: &Line<'_>) {
        let Some(Open { lines, told, .. }) = self.open.as_deref() else { return };
        lines.write(line);
        let (lost, before) = (lines.dropped(), told.load(Relaxed));
        // At 1, 3, 7 and so on, not for each.
        if lost > before * 2 {
            told.store(lost, Relaxed);
            tracing::warn!(lost, "the decision log lost lines: its writing is behind");
        }
    }

    /// Lines dropped because the writing thread was behind.
    pub fn dropped(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.lines.dropped())
    }

    /// Goes on in a new file of the same name: the former one was moved away.
    pub fn reopen(&self) {
        if let Some(open) = &self.open {
            open.lines.reopen();
        }
    }

    /// Writes what is waiting and ends the writing thread, within about a second.
    pub fn close(&self) {
        if let Some(open) = &self.open {
            open.lines.close();
        }
    }
}
