//! Cool-downs: an upstream that asks not to be asked for a while is obeyed, by all instances.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::Decision;
use crate::base::authority::HostKey;
use crate::store::board::Board;

/// What is heard, and how it is kept to.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is left alone when one answer says so.
    pub scope: Scope,
    /// The longest that is obeyed; what asks for more gets this.
    pub max: Duration,
    /// For a 429 that says nothing about time; zero lets it go unheard.
    pub default: Duration,
    /// Requests per second of the whole fleet right after it, growing from there; 0 does not pace.
    pub ramp: f64,
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
            scope: Scope::Credential,
            max: Duration::from_mins(10),
            default: Duration::from_secs(1),
            ramp: 10.0,
        }
    }
}

/// What one API's cool-downs are.
#[derive(Debug)]
pub(crate) struct CoolDowns {}

/// What a request is as far as cool-downs go: what is heard by its answer holds for others like it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {}

impl CoolDowns {
    pub(crate) fn new(
        _api: &Arc<str>,
        _settings: Settings,
        _board: &Board,
        _former: Option<&Self>,
    ) -> Self {
        Self {}
    }

    /// What a request with these fields is.
    pub(crate) fn subject(&self, _host: &HostKey, _fields: &HeaderMap) -> Subject {
        Subject {}
    }

    /// Whether an attempt may be made now.
    pub(crate) fn enter(&self, _subject: &Subject) -> Decision<()> {
        Decision::Pass(())
    }

    /// An answer; how long it asks not to be asked, if it does.
    pub(crate) fn hear(
        &self,
        _subject: &Subject,
        _status: u16,
        _fields: &HeaderMap,
    ) -> Option<Duration> {
        None
    }
}
