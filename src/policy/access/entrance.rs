//! Who may use one API: those who show one of its keys, or a token of its issuers.
//!
//! It answers nobody: [`Unproven`] says why not, and the proxy makes an answer of it.
//!
//! Invariants: a key that holds, and a token that was verified before, cost one hash and one look-up;
//! nothing here prints what was shown.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::HeaderName;
use http::Method;

use super::basic::Given;
use super::digest::Digest;
use super::jwt;
pub(crate) use super::jwt::Flaw as TokenFlaw;
use super::jwt::Jwks;
use super::jwt::Tokens;
use super::keys;
use super::keys::Ring;
pub(crate) use super::keys::scope::Deed;
use super::known::Known;
use super::reloads::Of;
use super::reloads::Reloads;
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
    /// A token that does not hold.
    Token(TokenFlaw),
}

impl Unproven {
    /// Whether what was shown is known to be one of ours.
    fn is_of_ours(self) -> bool {
        match self {
            Self::Expired | Self::NotYet | Self::Scope | Self::Token(TokenFlaw::Scope) => true,
            Self::Nothing | Self::Unclear | Self::Unknown | Self::Token(_) => false,
        }
    }

    /// The word for logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing shown",
            Self::Unclear => "unclear",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::NotYet => "not yet",
            Self::Scope => "scope",
            Self::Token(flaw) => flaw.as_str(),
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

/// Somebody who was not.
#[derive(Clone, Debug)]
pub(crate) struct Stranger {
    pub(crate) why: Unproven,
    /// The field that was read, if what it shows is ours all the same: it goes no further where nobody is kept out.
    pub(crate) field: Option<HeaderName>,
}

/// The gate of one API.
#[derive(Debug)]
pub(crate) struct Entrance {
    api: Arc<str>,
    mode: Mode,
    header: Option<HeaderName>,
    ring: Option<Ring>,
    tokens: Option<Arc<Tokens>>,
    reloads: Arc<Reloads>,
}

impl Entrance {
    /// The gate of these settings; none if nothing is asked of anybody. What `former` had from files and places that
    /// cannot be read now stays.
    pub(crate) fn new(
        api: &Arc<str>,
        keys: Option<&keys::Settings>,
        jwt: Option<&jwt::Settings>,
        former: Option<&Self>,
    ) -> Option<Self> {
        let modes = [keys.map(|keys| keys.mode), jwt.map(|jwt| jwt.mode)];
        let mut modes = modes.into_iter().flatten().peekable();
        modes.peek()?;
        // Of the two the stricter one holds for both: either lets a request in.
        let is_observed = modes.all(|mode| mode == Mode::Observe);
        let ring = keys.map(|settings| {
            Ring::new(api, settings, former.and_then(|former| former.ring.as_ref()))
        });
        let tokens = jwt.map(|settings| {
            Tokens::new(api, settings, former.and_then(|former| former.tokens.as_ref()))
        });
        Some(Self {
            api: Arc::clone(api),
            mode: if is_observed { Mode::Observe } else { Mode::Enforce },
            header: keys.map(|keys| keys.header.clone()),
            ring,
            tokens,
            reloads: former.map(|former| Arc::clone(&former.reloads)).unwrap_or_default(),
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

    /// Whether tokens are taken, too.
    pub(crate) fn takes_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// How often its keys changed.
    pub(crate) fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// The API keys that there are.
    pub(crate) fn keys(&self) -> Option<usize> {
        self.ring.as_ref().map(Ring::len)
    }

    /// The keys that there are to verify tokens with.
    pub(crate) fn verifying_keys(&self) -> Option<usize> {
        self.tokens.as_ref().map(|tokens| tokens.len())
    }

    /// Judges a request of a client of this address: who asks, or why they are not let in.
    pub(crate) async fn judge(
        &self,
        place: Place<'_>,
        deed: Deed<'_>,
        address: IpAddr,
    ) -> Result<Proven, Stranger> {
        let longest = self.tokens.as_ref().map_or(0, |tokens| tokens.longest()).max(LONGEST_KEY);
        let (shown, field) = match place {
            Place::Gateway(fields) => Shown::at_gateway(fields, self.header.as_ref()),
            // As Basic has it, it is a third longer.
            Place::Proxy(given) => (Shown::at_proxy(given, longest * 2), None),
        };
        let (secret, may_be_token) = match &shown {
            Shown::Nothing => return Err(Stranger { why: Unproven::Nothing, field: None }),
            Shown::Unclear => {
                let field = field.filter(|name| self.has_any(place, name));
                return Err(Stranger { why: Unproven::Unclear, field });
            }
            Shown::Key(key) => (*key, false),
            Shown::Bearer(secret) => (&**secret, true),
        };
        match self.known(secret, may_be_token, deed, address).await {
            Ok(known) => Ok(Proven { known, field }),
            Err(why) => Err(Stranger { why, field: field.filter(|_| why.is_of_ours()) }),
        }
    }

    /// Whether any value of a field of the gateway is one of the keys.
    fn has_any(&self, place: Place<'_>, name: &HeaderName) -> bool {
        let (Place::Gateway(fields), Some(ring)) = (place, &self.ring) else { return false };
        fields.get_all(name).iter().any(|value| {
            let value = value.as_bytes().trim_ascii();
            let last = value.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            ring.find(Digest::of(last), clock::wall()) != Err(keys::Dud::Unknown)
        })
    }

    async fn known(
        &self,
        secret: &[u8],
        may_be_token: bool,
        deed: Deed<'_>,
        address: IpAddr,
    ) -> Result<Known, Unproven> {
        let digest = Digest::of(secret);
        match (self.of_key(digest, deed), &self.tokens) {
            // One key would do, and this is none.
            (Err(Unproven::Unknown), Some(tokens))
                if may_be_token && (self.ring.is_none() || jwt::is_like_one(secret)) =>
            {
                let token = tokens.judge(secret, digest, address).await;
                let token = token.map_err(Unproven::Token)?;
                Ok(Known {
                    identity: token.name.clone().map_or(Identity::Anonymous, Identity::Name),
                    key: None,
                    plan: token.plan.clone(),
                    claims: Some(Arc::clone(&token.claims)),
                })
            }
            (known, _) => known,
        }
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

    /// Whether a key of this name may be used so, whoever has it; none if that depends on the path.
    pub(crate) fn knows(&self, name: &str, method: &Method) -> Option<bool> {
        let Some(ring) = &self.ring else { return Some(false) };
        let deed = Deed { api: &self.api, method, path: None };
        let keys = ring.named(name, clock::wall());
        if keys.iter().any(|key| key.opens(deed)) {
            return Some(true);
        }
        keys.iter().all(|key| !key.has_paths()).then_some(false)
    }

    /// Looks at the files, and takes over what has changed.
    pub(crate) fn look(&self) {
        let keys = self.ring.as_ref().and_then(|ring| ring.look(&self.api));
        let tokens = self.tokens.as_ref().and_then(|tokens| tokens.look(&self.api));
        for (of, changed) in [(Of::Keys, keys), (Of::Tokens, tokens)] {
            if let Some(is_good) = changed {
                self.reloads.note(of, is_good);
            }
        }
    }

    /// The key set that is to be fetched now, if one is; [`Entrance::fetched`] is to be told of it.
    pub(crate) fn to_fetch(&self) -> Option<&Jwks> {
        self.tokens.as_ref()?.to_fetch(clock::now())
    }

    /// What came of a fetch.
    pub(crate) fn fetched(&self, came: Result<String, String>) {
        if let Some(tokens) = &self.tokens {
            self.reloads.note(Of::KeySet, tokens.fetched(&self.api, came));
        }
    }
}
