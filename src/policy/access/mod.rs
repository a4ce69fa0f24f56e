//! Who may use the proxy, and who that is.
//!
//! A client's network, the certificate that it showed, and a request's user and password (Basic,
//! [RFC 7617](https://www.rfc-editor.org/rfc/rfc7617)) decide. All that is set must be met: the network,
//! and one of certificate and password. Nothing else that a client says has a part in it, least of
//! all `X-Forwarded-For` and its like.
//!
//! An API may ask for keys of its own in the place of passwords: [`entrance`].
//!
//! It answers nobody: [`Denied`] says why not, and the proxy makes an answer of it.
//!
//! Invariants: no password is verified on a thread that serves; credentials that were verified a
//! while ago cost one hash and one look-up; nothing here prints a password, its hash, or the
//! field that it came in.

mod basic;
mod digest;
pub(crate) mod entrance;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod jwt;
pub mod keys;
mod known;
mod lists;
mod memory;
mod recent;
pub(crate) mod reloads;
mod shown;
mod users;
mod verify;
mod watched;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use argon2::Argon2;
use argon2::PasswordHasher;
use ipnet::IpNet;
use thiserror::Error;

use self::basic::Credentials;
pub use self::basic::Given;
pub(crate) use self::known::Known;
pub use self::lists::Lists;
use self::memory::Found;
use self::memory::Memory;
use self::memory::Outcome;
pub use self::users::BadLine;
use self::users::Users;
pub(crate) use self::users::check_name;
use self::verify::Desk;
use self::verify::Job;
use crate::base::identity::Identity;
use crate::base::identity::Traits;
use crate::telemetry::metrics::Metrics;

/// The longest users file, in bytes.
const LONGEST_FILE: u64 = 16 * 1024 * 1024;
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Who may use the proxy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file of users and the hashes of their passwords; none asks nobody for a password.
    pub users: Option<PathBuf>,
    /// Networks whose clients may use it; none lets all.
    pub networks: Vec<IpNet>,
    /// Passwords that may wait to be verified.
    pub queue: usize,
}

impl Settings {
    /// Whether they ask anything of anybody.
    pub fn is_open(&self) -> bool {
        self.users.is_none() && self.networks.is_empty()
    }
}

/// Why a users file is of no use.
#[derive(Debug, Error)]
pub enum BadUsers {
    /// A line that is wrong.
    #[error("line {number}: {why}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        why: BadLine,
    },
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// Whether a users file can be read, and how many users there are in it.
pub fn check_users(path: &Path) -> Result<usize, BadUsers> {
    Ok(parse(&Users::default(), &read(path)?)?.len())
}

/// The hash of a new password (argon2id), as it stands in a users file.
pub fn hash_password(password: &[u8]) -> io::Result<String> {
    let hash = Argon2::default().hash_password(password).map_err(io::Error::other)?;
    Ok(hash.to_string())
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// So many passwords are being verified that this one was not looked at.
    Busy,
    /// It needs a certificate, and showed none.
    Certificate,
    /// It said nobody's user and password, or none at all.
    Credentials,
    /// It comes from a network that may not use the proxy.
    Network,
}

impl Denied {
    /// The word for logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Certificate => "certificate",
            Self::Credentials => "credentials",
            Self::Network => "network",
        }
    }
}

/// What a connection tells of its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) address: IpAddr,
    /// The name in the certificate that it showed, which was found to be good.
    pub(crate) certificate: Option<&'a Arc<str>>,
}

/// The front gate: one for all threads.
pub(crate) struct Gate {
    networks: Vec<IpNet>,
    needs_certificate: bool,
    users: Option<Arc<Door>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("networks", &self.networks).finish_non_exhaustive()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(door) = &self.users {
            door.desk.close();
        }
    }
}

impl Gate {
    /// The gate for these settings, and the threads behind it; none if nothing is asked of anybody.
    /// `needs_certificate` is whether a client without credentials must show one.
    pub(crate) fn new(
        settings: &Settings,
        needs_certificate: bool,
    ) -> Result<Option<Arc<Self>>, BadUsers> {
        if settings.is_open() && !needs_certificate {
            return Ok(None);
        }
        let users = settings.users.as_deref();
        let users = users.map(|path| Door::open(path, settings.queue)).transpose()?;
        let networks = settings.networks.clone();
        Ok(Some(Arc::new(Self { networks, needs_certificate, users })))
    }

    /// Judges one request: who asks, or why it is not admitted. It takes no time but for credentials
    /// that are not known; dropping the future gives the wait for them up.
    pub(crate) async fn admit(
        &self,
        given: Given<'_>,
        caller: Caller<'_>,
    ) -> Result<Identity, Denied> {
        let address = caller.address.to_canonical();
        if !self.has(address) {
            return Err(Denied::Network);
        }
        match (&self.users, given.value(), caller.certificate) {
            (Some(door), Some(value), _) => door.identify(value, address).await.map(Identity::Name),
            (_, _, Some(name)) => Ok(Identity::Name(Arc::clone(name))),
            (Some(_), None, None) => Err(Denied::Credentials),
            (None, _, None) if self.needs_certificate => Err(Denied::Certificate),
            (None, _, None) => Ok(Identity::of_address(address)),
        }
    }

    /// Judges a request of an API whose keys stand in the place of passwords: all but those, and who asks
    /// as far as the connection says it.
    pub(crate) fn admit_without_password(&self, caller: Caller<'_>) -> Result<Identity, Denied> {
        let address = caller.address.to_canonical();
        if !self.has(address) {
            return Err(Denied::Network);
        }
        match caller.certificate {
            Some(name) => Ok(Identity::Name(Arc::clone(name))),
            None if self.users.is_none() && self.needs_certificate => Err(Denied::Certificate),
            None => Ok(Identity::of_address(address)),
        }
    }

    /// Whether this address is of a network that may use the proxy.
    fn has(&self, address: IpAddr) -> bool {
        let is_in = |network: &IpNet| network.contains(&address);
        self.networks.is_empty() || self.networks.iter().any(is_in)
    }

    /// Whether users are asked for passwords.
    pub(crate) fn asks_passwords(&self) -> bool {
        self.users.is_some()
    }

    /// What users may have that others do not, as their file says.
    pub(crate) fn traits(&self) -> HashMap<Arc<str>, Traits> {
        self.users.as_ref().map(|door| door.users.load().traits()).unwrap_or_default()
    }

    /// Looks at the users file until it is dropped, and takes over what has changed. `obey` is told
    /// of what users may have. A file that is wrong changes nothing.
    pub(crate) async fn watch(
        self: Arc<Self>,
        metrics: Arc<Metrics>,
        obey: impl Fn(HashMap<Arc<str>, Traits>),
    ) {
        let Some(door) = &self.users else { return };
        let mut seen = door.first.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let (looker, before) = (Arc::clone(door), seen.clone());
            let look = tokio::task::spawn_blocking(move || looker.look(&before));
            let Ok(Some((now, result))) = look.await else { continue };
            seen = now;
            metrics.users_reloaded(result.is_ok());
            let path = door.path.display();
            match result {
                Ok(Change { users, changed }) => {
                    tracing::info!(%path, users, changed, "users file taken over");
                    obey(self.traits());
                }
                Err(error) => {
                    tracing::error!(%path, %error, "the users file is wrong: the users stay as they were");
                }
            }
        }
    }
}

/// What a look at the file found there: its text, or why there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(Digest),
    Unreadable(io::ErrorKind),
}

type Digest = [u8; 32];

/// A file that was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    /// How many there are now.
    users: usize,
    /// How many of those before are others, or gone.
    changed: usize,
}

/// The users, and where their passwords are verified.
struct Door {
    path: PathBuf,
    first: Seen,
    users: ArcSwap<Users>,
    memory: Memory,
    desk: Arc<Desk>,
}

impl Door {
    fn open(path: &Path, queue: usize) -> Result<Arc<Self>, BadUsers> {
        let text = read(path)?;
        let users = parse(&Users::default(), &text)?;
        let memory =
            Memory::new().ok_or_else(|| io::Error::other("there is no randomness to be had"))?;
        let desk = Desk::new(queue);
        let door = Arc::new(Self {
            path: path.to_owned(),
            first: Seen::Text(digest(&text)),
            users: ArcSwap::from_pointee(users),
            memory,
            desk: Arc::clone(&desk),
        });
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let verifier = Arc::clone(&door);
        desk.staff((cores / 4).clamp(1, 4), move |job| verifier.verify(job))?;
        Ok(door)
    }

    async fn identify(&self, value: &[u8], address: IpAddr) -> Outcome {
        let credentials = Credentials::parse(value).ok_or(Denied::Credentials)?;
        let tag = self.memory.tag(&credentials);
        match self.memory.recall(tag, || self.desk.put(address, Job { credentials, tag })) {
            Found::Known(outcome) => outcome,
            // Without a sender the proxy stops.
            Found::Asked(outcome) => outcome.await.unwrap_or(Err(Denied::Busy)),
        }
    }

    /// Takes its time.
    fn verify(&self, Job { credentials, tag }: Job) {
        if !self.memory.is_awaited(tag) {
            return;
        }
        let users = self.users.load_full();
        let user = users.get(&credentials.user);
        // SECURITY: nobody is to learn from the time it takes whether a user is there.
        let hash = match user {
            Some(user) => Some(&user.hash),
            None => users.decoy(self.memory.number(&credentials.user)),
        };
        let is_right = hash.is_some_and(|hash| hash.verify(&credentials.password));
        let outcome = match user {
            Some(user) if is_right => Ok(Arc::clone(&user.name)),
            Some(_) | None => Err(Denied::Credentials),
        };
        self.memory.settle(tag, &outcome, || {
            let now = self.users.load();
            let known = now.get(&credentials.user).map(|user| &user.hash);
            match (user.map(|user| &user.hash), known) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
        });
    }

    /// Looks at the file; none if it is as it was `before`.
    fn look(&self, before: &Seen) -> Option<(Seen, Result<Change, BadUsers>)> {
        let text = read(&self.path);
        let seen = match &text {
            Ok(text) => Seen::Text(digest(text)),
            Err(error) => Seen::Unreadable(error.kind()),
        };
        if seen == *before {
            return None;
        }
        let old = self.users.load_full();
        let result =
            text.map_err(BadUsers::from).and_then(|text| parse(&old, &text)).map(|users| {
                let (count, changed) = (users.len(), old.changed(&users));
                self.users.store(Arc::new(users));
                // Behind the change: what is verified from now on is verified by the new file.
                self.memory.forget(&changed);
                Change { users: count, changed: changed.len() }
            });
        Some((seen, result))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(LONGEST_FILE + 1).read_to_string(&mut text)?;
    if length as u64 > LONGEST_FILE {
        return Err(io::Error::other("it is longer than 16 MiB"));
    }
    Ok(text)
}

fn parse(before: &Users, text: &str) -> Result<Users, BadUsers> {
    Users::successor(before, text).map_err(|(number, why)| BadUsers::Line { number, why })
}

fn digest(text: &str) -> Digest {
    let mut digest = [0; 32];
    let found = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.copy_from_slice(&found.as_ref()[..32]);
    digest
}

#[cfg(test)]
mod tests;
