//! Who may use one API: those who show one of its keys, or a token of its issuers.
//!
//! It answers nobody: [`Unproven`] says why not, and the proxy makes an answer of it.
//!
//! Invariants: a key that holds, and a token that was verified before, cost one hash and one look-up;
//! nothing here prints what was shown.

use std::sync::Arc;

use http::HeaderMap;
use http::HeaderName;

use super::basic::Given;
use super::digest::Digest;
use super::keys;
use super::keys::Ring;
pub(crate) use super::keys::scope::Deed;
use super::known::Known;
use super::shown::Shown;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::policy::Mode;

/// The longest key that is looked at, in bytes.
const LONGEST_KEY: usize = 1024;

/// Why somebody is not let in to an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unproven {
    /// It showed nothing.
    Nothing,
    /// It showed more than one thing, or none that can be read.
    Unclear,
    /// A key that nobody has.
    Unknown,
    /// A key or a token whose time is over.
    Expired,
    /// One whose time has not come.
    NotYet,
    /// One that may not be used for this.
    Scope,
}

impl Unproven {
    /// The word for logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing shown",
            Self::Unclear => "unclear",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NotYet => "not yet",
            Self::Scope => "scope",
        }
    }
}

/// By which route a request shows who asks, and its fields there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// By the path of the API.
    Gateway(&'a HeaderMap),
    /// To the proxy, on the way to a host of the API.
    Proxy(Given<'a>),
}

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub(crate) struct Proven {
    pub(crate) known: Known,
    /// The field that was read, which goes no further.
    pub(crate) field: Option<HeaderName>,
}

/// The gate of one API.
#[derive(Debug)]
pub(crate) struct Entrance {
    api: Arc<str>,
    mode: Mode,
    header: Option<HeaderName>,
    ring: Option<Ring>,
}

impl Entrance {
    /// The gate of these settings; none if nothing is asked of anybody. Keys that `former` had from a file that
    /// cannot be read now stay.
    pub(crate) fn new(
        api: &Arc<str>,
        keys: Option<&keys::Settings>,
        former: Option<&Self>,
    ) -> Option<Self> {
        let settings = keys?;
        let former = former.and_then(|former| former.ring.as_ref());
        let ring = Ring::new(api, settings, former);
        Some(Self {
            api: Arc::clone(api),
            mode: settings.mode,
            header: Some(settings.header.clone()),
            ring: Some(ring),
        })
    }

    /// Whether who shows nothing is refused, or only counted.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The field that a gateway's client shows its key by, if it has keys at all.
    pub(crate) fn header(&self) -> Option<&HeaderName> {
        self.header.as_ref()
    }

    /// The keys there are.
    pub(crate) fn keys(&self) -> Option<usize> {
        self.ring.as_ref().map(Ring::len)
    }

    /// Judges a request: who asks, or why they are not let in.
    #[expect(clippy::unused_async, reason = "whoever asks waits where keys are elsewhere")]
    pub(crate) async fn judge(&self, place: Place<'_>, deed: Deed<'_>) -> Result<Proven, Unproven> {
        let (shown, field) = match place {
            Place::Gateway(fields) => Shown::at_gateway(fields, self.header.as_ref()),
            Place::Proxy(given) => (Shown::at_proxy(given, LONGEST_KEY), None),
        };
        let secret = match &shown {
            Shown::Nothing => return Err(Unproven::Nothing),
            Shown::Unclear => return Err(Unproven::Unclear),
            Shown::Key(key) => key,
            Shown::Bearer(secret) => &**secret,
        };
        if secret.len() > LONGEST_KEY {
            return Err(Unproven::Unknown);
        }
        let known = self.of_key(Digest::of(secret), deed)?;
        Ok(Proven { known, field })
    }

    fn of_key(&self, shown: Digest, deed: Deed<'_>) -> Result<Known, Unproven> {
        let ring = self.ring.as_ref().ok_or(Unproven::Unknown)?;
        let key = ring.find(shown, clock::wall()).map_err(|dud| match dud {
            keys::Dud::Expired => Unproven::Expired,
            keys::Dud::NotYet => Unproven::NotYet,
            keys::Dud::Unknown => Unproven::Unknown,
        })?;
        if !key.opens(deed) {
            return Err(Unproven::Scope);
        }
        Ok(Known {
            identity: Identity::Name(Arc::clone(key.name())),
            key: Some(Arc::clone(key.name())),
            plan: key.plan().cloned(),
            claims: None,
        })
    }

    /// Looks at the files, and takes over what has changed.
    pub(crate) fn look(&self) {
        if let Some(ring) = &self.ring {
            ring.look(&self.api);
        }
    }
}
