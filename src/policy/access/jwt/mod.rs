//! Tokens: JSON Web Tokens (RFC 7519) that somebody signed for whom we trust, after RFC 8725.
//!
//! A token that was verified before costs one hash and one look-up ([`memory`]). One that was not is
//! verified in place, on the thread that serves: 1 to 200 µs, by algorithm; an address whose tokens
//! turn out wrong is heard less often ([`strikes`]).
//!
//! Invariants: an algorithm belongs to a key and never to a token, `none` to nothing; nothing of a token's claims is
//! looked at before its signature is known to be right; keys that cannot be had replace none; nothing
//! here prints a token or a secret.

mod claims;
mod key;
mod memory;
mod remote;
mod strikes;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::SystemTime;

use arc_swap::ArcSwap;
pub use jsonwebtoken::Algorithm;
use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use serde_json::Map;
use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;

pub use self::key::BadKey;
use self::key::Fitting;
use self::key::VerifyingKey;
use self::memory::Memory;
use self::memory::Now;
use self::remote::Remote;
use self::strikes::Strikes;
use super::digest::Digest;
use super::watched;
use super::watched::Watched;
use crate::base::authority::Authority;
use crate::base::clock;
use crate::policy::Mode;

/// A secret of HMAC.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// This one.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a key set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether by https.
    pub tls: bool,
    /// Its host and port.
    pub authority: Authority,
    /// Its path and query.
    pub path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, authority, path } = self;
        let (host, port) = (authority.host(), authority.port_number());
        write!(f, "{}://{host}:{port}{path}", if *tls { "https" } else { "http" })
    }
}

/// A key set that is somewhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwks {
    /// Where: by https, or by http on this machine.
    pub url: Url,
    /// How often it is fetched.
    pub refresh: Duration,
    /// How long at least lies between two fetches, whatever tokens name, and after one that failed.
    pub refresh_min: Duration,
    /// How long one may take.
    pub timeout: Duration,
}

impl Jwks {
    /// The one that is there, fetched each ten minutes.
    pub fn at(url: Url) -> Self {
        let seconds = Duration::from_secs;
        Self { url, refresh: seconds(600), refresh_min: seconds(10), timeout: seconds(5) }
    }
}

/// Which tokens an API takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The algorithms that are allowed; empty allows all that fit the keys.
    pub algorithms: Vec<Algorithm>,
    /// A secret of HMAC.
    pub secret: Option<Secret>,
    /// A file of one, less the end of its line.
    pub secret_file: Option<PathBuf>,
    /// A file of public keys in PEM.
    pub public_key_file: Option<PathBuf>,
    /// A file of a key set.
    pub jwks_file: Option<PathBuf>,
    /// A key set that is fetched.
    pub jwks: Option<Jwks>,
    /// Who may have made a token; empty is anybody who has the key.
    pub issuers: Vec<String>,
    /// Whom a token may be for; empty takes those that name nobody.
    pub audiences: Vec<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// Claims that must be there.
    pub required_claims: Vec<String>,
    /// The claim that is the name of who asks.
    pub subject_claim: String,
    /// The claim that names the plan of a quota.
    pub plan_claim: Option<String>,
    /// The claim that has scopes, and those that must be in it.
    pub scope_claim: String,
    /// Those that must be in it.
    pub required_scopes: Vec<String>,
    /// What `typ` may be, where a token says it.
    pub types: Vec<String>,
    /// The longest token that is looked at, in bytes.
    pub longest: usize,
    /// Whether who has no token is refused, or only counted.
    pub mode: Mode,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            algorithms: Vec::new(),
            secret: None,
            secret_file: None,
            public_key_file: None,
            jwks_file: None,
            jwks: None,
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_mins(1),
            required_claims: vec!["exp".to_owned()],
            subject_claim: "sub".to_owned(),
            plan_claim: None,
            scope_claim: "scope".to_owned(),
            required_scopes: Vec::new(),
            types: vec!["JWT".to_owned(), "at+jwt".to_owned()],
            longest: 8 * 1024,
            mode: Mode::default(),
        }
    }
}

/// Why keys are of no use.
#[derive(Debug, Error)]
pub enum BadKeys {
    /// What is in them.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// They cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Secret,
    PublicKeys,
    Set,
}

/// Whether there are keys of these algorithms in a file.
pub(crate) fn check_file(kind: Kind, path: &Path, allowed: &[Algorithm]) -> Result<(), BadKeys> {
    read(kind, &watched::read(path)?, allowed)?;
    Ok(())
}

/// Whether a secret can be used.
pub(crate) fn check_secret(secret: &Secret, allowed: &[Algorithm]) -> Result<(), BadKey> {
    key::of_secret(&secret.0, allowed).map(|_key| ())
}

fn read(kind: Kind, text: &str, allowed: &[Algorithm]) -> Result<Vec<VerifyingKey>, BadKey> {
    match kind {
        Kind::Secret => {
            let secret = text.trim_end_matches(['\r', '\n']);
            Ok(vec![key::of_secret(secret.as_bytes(), allowed)?])
        }
        Kind::PublicKeys => key::of_pem(text, allowed),
        Kind::Set => key::of_set(text, allowed, false),
    }
}

/// Whether it has the three parts of a token.
pub(super) fn is_like_one(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'.').count() == 3
}

/// What is wrong with a token, or why it was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    /// It says an algorithm that no key goes by.
    Algorithm,
    /// It is for somebody else.
    Audience,
    /// So many of its address were wrong that it was not looked at.
    Busy,
    /// A claim is not what it must be.
    Claims,
    Expired,
    /// It was made by somebody else.
    Issuer,
    /// No key has the name that it says.
    KeyId,
    /// There are no keys to verify it with.
    Keys,
    /// It is no token.
    Malformed,
    /// A claim that must be there is not.
    Missing,
    NotYet,
    /// It may not be used for this.
    Scope,
    Signature,
    TooLong,
    /// It is a token of another kind.
    Type,
}

impl Flaw {
    /// It in words, for whoever showed it and for logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Algorithm => "its algorithm is not allowed",
            Self::Audience => "it is for another audience",
            Self::Busy => "too many wrong tokens came from this address",
            Self::Claims => "a claim has a wrong form",
            Self::Expired => "it has expired",
            Self::Issuer => "its issuer is not known",
            Self::KeyId => "its key is not known",
            Self::Keys => "there are no keys to verify it with",
            Self::Malformed => "it is malformed",
            Self::Missing => "a claim is missing",
            Self::NotYet => "it does not hold yet",
            Self::Scope => "it lacks a scope",
            Self::Signature => "its signature is wrong",
            Self::TooLong => "it is too long",
            Self::Type => "it is of another type",
        }
    }

    /// Whether it will be the same at the next look.
    fn stays(self) -> bool {
        match self {
            Self::Audience
            | Self::Claims
            | Self::Expired
            | Self::Issuer
            | Self::Missing
            | Self::Scope
            | Self::Signature => true,
            // Of time and circumstance, or found without much ado.
            Self::Algorithm
            | Self::Busy
            | Self::KeyId
            | Self::Keys
            | Self::Malformed
            | Self::NotYet
            | Self::TooLong
            | Self::Type => false,
        }
    }
}

/// What a token says that holds.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) name: Option<Arc<str>>,
    pub(super) plan: Option<Arc<str>>,
    pub(super) claims: Arc<Map<String, Value>>,
}

/// All keys that there are, as of one moment.
#[derive(Debug, Default)]
struct KeySet {
    keys: Vec<VerifyingKey>,
    /// Another one for other keys.
    generation: u64,
}

/// Keys by where they came from.
#[derive(Debug, Default)]
struct Stock {
    of_files: Vec<Vec<VerifyingKey>>,
    fetched: Vec<VerifyingKey>,
    /// What was fetched last, so that the same again is no change.
    digest: Option<Digest>,
}

/// The tokens of an API.
#[derive(Debug)]
pub(super) struct Tokens {
    settings: Settings,
    own: Vec<VerifyingKey>,
    files: Vec<(Kind, Watched)>,
    stock: Mutex<Stock>,
    set: ArcSwap<KeySet>,
    remote: Option<Remote>,
    memory: Memory,
    strikes: Strikes,
}

impl Tokens {
    /// The tokens of these settings. What `former` has of the same files and the same place elsewhere stays until
    /// there is something else.
    pub(super) fn new(api: &str, settings: &Settings, former: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(former) = former.filter(|former| former.settings == *settings) {
            return Arc::clone(former);
        }
        let files = [
            (Kind::Secret, &settings.secret_file),
            (Kind::PublicKeys, &settings.public_key_file),
            (Kind::Set, &settings.jwks_file),
        ];
        let files = files.iter().filter_map(|(kind, path)| Some((*kind, path.as_deref()?)));
        let files: Vec<_> = files.map(|(kind, path)| (kind, Watched::new(path))).collect();
        let own = settings.secret.iter().filter_map(|secret| {
            // That it is good was found when the settings were read.
            key::of_secret(&secret.0, &settings.algorithms).ok()
        });
        let mut stock = Stock { of_files: vec![Vec::new(); files.len()], ..Stock::default() };
        // With other algorithms its keys would be others.
        if let Some(former) =
            former.filter(|former| former.settings.algorithms == settings.algorithms)
        {
            former.hand_on(&files, settings, &mut stock);
        }
        let tokens = Self {
            own: own.collect(),
            files,
            stock: Mutex::new(stock),
            set: ArcSwap::default(),
            remote: settings.jwks.clone().map(Remote::new),
            memory: Memory::new(),
            strikes: Strikes::new(clock::now()),
            settings: settings.clone(),
        };
        tokens.gather(&tokens.stock());
        // That they are good was found when the settings were read.
        let _first = tokens.look(api);
        Arc::new(tokens)
    }

    /// Gives keys of the same places to who comes after.
    fn hand_on(&self, files: &[(Kind, Watched)], settings: &Settings, to: &mut Stock) {
        let stock = self.stock();
        for (at, (kind, file)) in files.iter().enumerate() {
            let is_it =
                |(other, known): &(Kind, Watched)| other == kind && known.path() == file.path();
            if let Some(known) = self.files.iter().position(is_it) {
                to.of_files[at].clone_from(&stock.of_files[known]);
            }
        }
        let url = |settings: &Settings| settings.jwks.as_ref().map(|jwks| jwks.url.clone());
        if url(settings) == url(&self.settings) {
            to.fetched.clone_from(&stock.fetched);
            to.digest = stock.digest;
        }
    }

    pub(super) fn longest(&self) -> usize {
        self.settings.longest
    }

    /// How many keys there are to verify with.
    pub(super) fn len(&self) -> usize {
        self.set.load().keys.len()
    }

    /// Judges a token that a client of this address shows: what it says, or why it does not hold. It takes no time unless a key of
    /// its name may be had from elsewhere.
    pub(super) async fn judge(
        &self,
        token: &[u8],
        digest: Digest,
        address: IpAddr,
    ) -> Result<Arc<Token>, Flaw> {
        if token.len() > self.settings.longest {
            return Err(Flaw::TooLong);
        }
        let flaw = match self.find(token, digest, address) {
            Err(flaw @ (Flaw::KeyId | Flaw::Keys)) => flaw,
            found => return found,
        };
        let Some(remote) = &self.remote else { return Err(flaw) };
        let Some(waiting) = remote.ask(clock::now()) else { return Err(flaw) };
        remote.wait(waiting).await;
        self.find(token, digest, address)
    }

    /// The same, of keys that are here.
    pub(super) fn find(
        &self,
        token: &[u8],
        digest: Digest,
        address: IpAddr,
    ) -> Result<Arc<Token>, Flaw> {
        let set = self.set.load();
        let now = Now { wall: clock::wall(), steady: clock::now() };
        if let Some(known) = self.memory.recall(digest, set.generation, now) {
            return known;
        }
        if set.keys.is_empty() {
            return Err(Flaw::Keys);
        }
        if !self.strikes.may(address, now.steady) {
            return Err(Flaw::Busy);
        }
        match self.verify(token, &set.keys, now.wall) {
            Ok((token, until)) => {
                let token = Arc::new(token);
                self.memory.right(digest, set.generation, &token, until);
                Ok(token)
            }
            Err(flaw) => {
                if flaw == Flaw::Signature {
                    self.strikes.strike(address, now.steady);
                }
                if flaw.stays() {
                    self.memory.wrong(digest, set.generation, flaw, now);
                }
                Err(flaw)
            }
        }
    }

    fn verify(
        &self,
        token: &[u8],
        keys: &[VerifyingKey],
        now: SystemTime,
    ) -> Result<(Token, Option<SystemTime>), Flaw> {
        if !is_like_one(token) {
            return Err(Flaw::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_none| Flaw::Malformed)?;
        // RFC 7515 §4.1.11: who does not understand what is critical must refuse it.
        if header.crit.is_some() {
            return Err(Flaw::Malformed);
        }
        let is_ours = |typ: &String| {
            // RFC 7515 §4.1.9: with or without `application/`, in any case.
            let short = typ.get(..12).filter(|start| start.eq_ignore_ascii_case("application/"));
            let typ = short.map_or(typ.as_str(), |_| &typ[12..]);
            self.settings.types.iter().any(|known| known.eq_ignore_ascii_case(typ))
        };
        if !header.typ.as_ref().is_none_or(is_ours) {
            return Err(Flaw::Type);
        }
        let fitting = match key::fitting(keys, header.alg, header.kid.as_deref()) {
            Fitting::Keys(keys) => keys,
            Fitting::NoAlgorithm => return Err(Flaw::Algorithm),
            Fitting::NoName => return Err(Flaw::KeyId),
        };
        let mut validation = Validation::new(header.alg);
        // What is claimed is judged by us, and by our clock.
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_aud) = (false, false);
        for key in fitting {
            match jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation) {
                Ok(data) => return self.read(data.claims, now),
                Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => {
                    return Err(Flaw::Malformed);
                }
                Err(error) if matches!(error.kind(), ErrorKind::Json(_) | ErrorKind::Utf8(_)) => {
                    return Err(Flaw::Claims);
                }
                // Wrong by this key, or a key that is none after all.
                Err(_) => {}
            }
        }
        Err(Flaw::Signature)
    }

    fn read(
        &self,
        claims: Map<String, Value>,
        now: SystemTime,
    ) -> Result<(Token, Option<SystemTime>), Flaw> {
        let until = claims::judge(&claims, &self.settings, now)?;
        let name = claims::name(&claims, &self.settings.subject_claim)?;
        let plan = self.settings.plan_claim.as_deref();
        let plan = plan.map(|claim| claims::name(&claims, claim)).transpose()?.flatten();
        let token = Token {
            name: name.map(Into::into),
            plan: plan.map(Into::into),
            claims: Arc::new(claims),
        };
        Ok((token, until))
    }

    /// Looks at the files, and takes over what has changed; whether all of that is good, if anything has.
    pub(super) fn look(&self, api: &str) -> Option<bool> {
        let mut all_good = None;
        for (at, (kind, file)) in self.files.iter().enumerate() {
            let Some(text) = file.look() else { continue };
            let path = file.path().display();
            let keys = text.map_err(BadKeys::from).and_then(|text| {
                read(*kind, &text, &self.settings.algorithms).map_err(BadKeys::from)
            });
            all_good = Some(all_good.unwrap_or(true) && keys.is_ok());
            match keys {
                Ok(keys) => {
                    let mut stock = self.stock();
                    tracing::info!(api, %path, keys = keys.len(), "file of keys for tokens taken over");
                    stock.of_files[at] = keys;
                    self.gather(&stock);
                }
                Err(error) => {
                    tracing::error!(api, %path, %error, "the file of keys for tokens is wrong: the keys stay as they were");
                }
            }
        }
        all_good
    }

    /// The key set that is to be fetched now, if one is; [`Tokens::fetched`] is to be told of it.
    pub(super) fn to_fetch(&self, now: Instant) -> Option<&Jwks> {
        let remote = self.remote.as_ref()?;
        remote.begin(now).then_some(&remote.jwks)
    }

    /// What came of a fetch; whether that is good.
    pub(super) fn fetched(&self, api: &str, came: Result<String, String>) -> bool {
        let Some(remote) = &self.remote else { return false };
        let url = &remote.jwks.url;
        let result = came.and_then(|text| {
            let digest = Digest::of(text.as_bytes());
            let keys = key::of_set(&text, &self.settings.algorithms, true);
            keys.map(|keys| (keys, digest)).map_err(|why| format!("it must be {why}"))
        });
        let is_good = result.is_ok();
        match result {
            Ok((keys, digest)) => {
                let mut stock = self.stock();
                if stock.digest != Some(digest) {
                    tracing::info!(api, %url, keys = keys.len(), "key set taken over");
                    stock.fetched = keys;
                    stock.digest = Some(digest);
                    self.gather(&stock);
                }
            }
            Err(error) => {
                tracing::error!(api, %url, error, "the key set cannot be had: the keys stay as they were");
            }
        }
        remote.end(is_good);
        is_good
    }

    /// Puts all keys together.
    fn gather(&self, stock: &Stock) {
        let all = self.own.iter().chain(stock.of_files.iter().flatten()).chain(&stock.fetched);
        let generation = self.set.load().generation.wrapping_add(1);
        self.set.store(Arc::new(KeySet { keys: all.cloned().collect(), generation }));
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
