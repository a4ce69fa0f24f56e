//! Parents: by which proxy, if by any, an upstream is reached.
//!
//! [`Parents::choose`] picks a [`Way`] for an attempt by the API's [`Strategy`], past parents that are
//! banned for the host ([`memory`]) or have had all they may ([`quota`]); [`Way::record`] tells what
//! came of it, and so makes and ends bans. What one instance finds out, all of a fleet hear ([`fleet`]).
//!
//! All banned: if each of them is down (cannot be reached, or does not take our credentials) the
//! request is refused with the time that is left, but for one in each second, which tries the one
//! whose ban ends first; else all go by that of those that are not down whose ban ends first. So a
//! host that is slow or says 429 to everybody is still asked, and says so itself.
//!
//! Redis away: each instance goes by what it finds itself, and tells the others nothing. Nothing here
//! waits for Redis. Invariant: a parent's credentials are in [`Parent::authorization`] alone, which
//! nothing prints and nothing shares.

mod fleet;
mod memory;
mod pick;
mod quota;
mod way;

#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;
use serde::Serialize;
use tokio::time::Instant;

use self::fleet::Fleet;
use self::memory::Memory;
use self::memory::Standing;
use self::memory::View;
use self::pick::Picker;
use self::pick::Slot;
use self::quota::Counted;
use self::quota::Quota;
pub(crate) use self::way::Hop;
pub(crate) use self::way::Terms;
pub(crate) use self::way::Way;
use super::Decision;
use super::Refusal;
use super::Rule;
use crate::base::authority::Authority;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::pattern::Pattern;
use crate::base::pattern::Patterns;
use crate::store::board::Board;

/// The parents of an API, and how one is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which there are.
    pub list: Vec<Arc<Parent>>,
    /// How one is chosen.
    pub strategy: Strategy,
    /// How long an idle connection through a parent is kept.
    pub keepalive_timeout: Duration,
    /// Idle connections that are kept for one origin through one parent.
    pub keepalive_pool: usize,
    /// For how long a parent that fails, or is refused by a host, is not used for that host.
    pub ban: Duration,
    /// Connections at once to one host through one parent, of the whole fleet; 0 is unlimited.
    pub max_connections: u32,
    /// Requests to one host through one parent in a time, of the whole fleet; none is unlimited.
    pub quota: Option<(u32, Duration)>,
    /// Hosts that are gone to directly.
    pub except: Vec<Pattern>,
}

/// A proxy on the way up.
#[derive(PartialEq, Eq)]
pub struct Parent {
    /// What it is called in logs, metrics and Redis: its URL without userinfo.
    pub name: Arc<str>,
    /// Whether it is spoken to by TLS.
    pub tls: bool,
    /// Where it is.
    pub authority: Authority,
    /// What it is told of us (Proxy-Authorization), marked sensitive.
    pub authorization: Option<HeaderValue>,
    /// How much of the requests it gets beside others.
    pub weight: u32,
}

/// How a parent is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// One for all requests that have this in common.
    Sticky(StickyKey),
    /// Each of a window of so many in its turn; the window slides by one past one that is limited.
    Subset(usize),
    /// None, until a 429 was seen.
    OnRateLimit,
    /// None.
    Never,
    /// The one with the fewest requests at the moment.
    LeastUsed,
    /// By their weights.
    Weighted,
}

/// What requests have in common that go by the same parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StickyKey {
    /// The client's address.
    #[default]
    ClientIp,
    /// The API: all of its requests.
    ApiName,
    /// The value of this field.
    Header(HeaderName),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            strategy: Strategy::RoundRobin,
            keepalive_timeout: Duration::from_mins(1),
            keepalive_pool: 50,
            ban: Duration::from_secs(30),
            max_connections: 0,
            quota: None,
            except: Vec::new(),
        }
    }
}

impl Hash for Parent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what it is told of us, whether or not that was marked.
        f.debug_tuple("Parent").field(&self.name).finish()
    }
}

/// What going directly is called among ways.
const DIRECT: &str = "direct";

/// The parents of one API, and what is known of them.
#[derive(Debug)]
pub(crate) struct Parents {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    strategy: Strategy,
    terms: Terms,
    ban: Duration,
    except: Patterns<()>,
    slots: Vec<Arc<Slot>>,
    direct: Arc<str>,
    picker: Picker,
    quota: Option<Quota>,
    fleet: Arc<Fleet>,
    board: Board,
}

/// What is known of a request when its way is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) client: IpAddr,
    pub(crate) host: &'a HostKey,
    pub(crate) fields: &'a http::HeaderMap,
    /// By which way the attempt before went, and the status it came back with.
    pub(crate) before: Option<(Option<&'a Arc<Parent>>, u16)>,
}

/// The parents of an API at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) strategy: &'static str,
    pub(crate) parents: Vec<ParentSnapshot>,
    /// Hosts that are not gone to directly for a while, where that is done at all.
    pub(crate) direct: Vec<BanSnapshot>,
}

/// A parent at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ParentSnapshot {
    pub(crate) parent: String,
    pub(crate) weight: u32,
    /// Attempts by it that wait for the head of their response.
    pub(crate) in_use: u32,
    /// Attempts by it since the start.
    pub(crate) requests: u64,
    /// Those of them that ended in what it is banned for.
    pub(crate) failures: u64,
    /// Whether it is not used for any host.
    pub(crate) down: bool,
    pub(crate) bans: Vec<BanSnapshot>,
}

/// A ban at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BanSnapshot {
    /// For which host; none is all.
    pub(crate) host: Option<String>,
    pub(crate) why: &'static str,
    pub(crate) seconds_left: f64,
}

impl Strategy {
    /// The word of the settings.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Sticky(_) => "sticky",
            Self::Subset(_) => "subset",
            Self::OnRateLimit => "on_rate_limit",
            Self::Never => "never",
            Self::LeastUsed => "least_used",
            Self::Weighted => "weighted",
        }
    }
}

impl Parents {
    /// With what `former` has learned of parents that are still there.
    pub(crate) fn new(
        api: &Arc<str>,
        settings: Settings,
        board: &Board,
        former: Option<&Self>,
    ) -> Self {
        let former = former.map(|former| &former.inner);
        let mut slots: Vec<Arc<Slot>> = Vec::with_capacity(settings.list.len());
        for parent in settings.list {
            // One place may be there more than once, by other credentials say.
            let name = &parent.name;
            let same = slots.iter().filter(|slot| slot.parent.name == *name).count();
            let id = if same == 0 { Arc::clone(name) } else { format!("{name}#{same}").into() };
            let known = former.and_then(|former| former.slots.iter().find(|slot| slot.id == id));
            slots.push(match known {
                Some(slot) if slot.parent == parent => Arc::clone(slot),
                _ => Arc::new(Slot::new(id, parent)),
            });
        }
        let fleet = former.map(|former| Arc::clone(&former.fleet));
        let fleet = fleet.unwrap_or_else(|| Fleet::new(api, board));
        let mut except = Patterns::default();
        for pattern in settings.except {
            except.set(pattern, ());
        }
        let (keepalive_timeout, keepalive_pool) =
            (settings.keepalive_timeout, settings.keepalive_pool);
        let max_connections = settings.max_connections;
        let picker = Picker::new(slots.len(), former.map(|former| &former.picker));
        let quota = settings.quota.map(|(number, time)| Quota::new(number, time, clock::now()));
        Self {
            inner: Arc::new(Inner {
                strategy: settings.strategy,
                terms: Terms { keepalive_timeout, keepalive_pool, max_connections },
                ban: settings.ban,
                except,
                slots,
                direct: DIRECT.into(),
                picker,
                quota,
                fleet,
                board: board.clone(),
            }),
        }
    }

    /// By which way an attempt goes.
    pub(crate) fn choose(&self, asked: Asked<'_>) -> Decision<Way> {
        let inner = &self.inner;
        if inner.slots.is_empty()
            || inner.strategy == Strategy::Never
            || inner.except.find(asked.host).is_some()
        {
            return Decision::Pass(Way::direct(inner.terms));
        }
        let now = clock::now();
        let memory = inner.memory();
        let mut view = memory.look(asked.host, now);
        if inner.strategy == Strategy::OnRateLimit
            && let Some(trial) = inner.may_go_directly(asked, view.as_mut())
        {
            return Decision::Pass(Way::new(inner, None, asked.host, trial));
        }
        let mut counted = inner
            .quota
            .as_ref()
            .map(|quota| quota.look(asked.host, inner.slots.len(), inner.board.instances(), now));
        let trial = match inner.pick(asked, view.as_ref(), counted.as_ref()) {
            Ok(at) => {
                let id = &inner.slots[at].id;
                let due = view.as_mut().filter(|view| view.standing(id) == Standing::Due);
                let trial = due.is_some();
                if let Some(view) = due {
                    view.try_again(id);
                }
                Ok((at, trial))
            }
            Err(None) => inner.pick_banned(view.as_mut(), now).map(|at| (at, true)),
            Err(Some(left)) => return Decision::Wait(Refusal { rule: Rule::Parents, left }),
        };
        match trial {
            Ok((at, trial)) => {
                if let Some(counted) = &mut counted {
                    counted.take(at);
                }
                Decision::Pass(Way::new(inner, Some(at), asked.host, trial))
            }
            Err(left) => Decision::Refuse(Refusal { rule: Rule::Parents, left }),
        }
    }

    /// What is known of all of them.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = &self.inner;
        let bans = inner.memory().snapshot(clock::now());
        let of = |id: &Arc<str>| -> Vec<BanSnapshot> {
            let own = bans.iter().filter(|told| told.id == *id);
            own.map(|told| BanSnapshot {
                host: told.host.as_ref().map(ToString::to_string),
                why: told.why.as_str(),
                seconds_left: told.left.as_secs_f64(),
            })
            .collect()
        };
        let parent = |slot: &Arc<Slot>| {
            let bans = of(&slot.id);
            ParentSnapshot {
                parent: slot.id.to_string(),
                weight: slot.parent.weight,
                in_use: slot.in_use.load(Relaxed),
                requests: slot.requests.load(Relaxed),
                failures: slot.failures.load(Relaxed),
                down: bans.iter().any(|ban| ban.host.is_none()),
                bans,
            }
        };
        Snapshot {
            strategy: inner.strategy.as_str(),
            parents: inner.slots.iter().map(parent).collect(),
            direct: of(&inner.direct),
        }
    }
}

impl Inner {
    fn memory(&self) -> &Memory {
        self.fleet.memory()
    }

    /// Whether the host may be asked without a parent, and if so whether that is a trial.
    fn may_go_directly(&self, asked: Asked<'_>, view: Option<&mut View<'_>>) -> Option<bool> {
        if matches!(asked.before, Some((None, 429))) {
            return None;
        }
        let Some(view) = view else { return Some(false) };
        match view.standing(&self.direct) {
            Standing::Free => Some(false),
            Standing::Due => {
                view.try_again(&self.direct);
                Some(true)
            }
            Standing::Banned { .. } => None,
        }
    }

    /// The strategy's choice among those that may be used; else after how long the first has
    /// something left of its quota, or nothing where all are banned.
    fn pick(
        &self,
        asked: Asked<'_>,
        view: Option<&View<'_>>,
        counted: Option<&Counted<'_>>,
    ) -> Result<usize, Option<Duration>> {
        let is_good = |at: usize| {
            view.is_none_or(|view| {
                matches!(view.standing(&self.slots[at].id), Standing::Free | Standing::Due)
            })
        };
        let has_left = |at: usize| counted.is_none_or(|counted| counted.has(at));
        let may = |at: usize| is_good(at) && has_left(at);
        // Not the one that has just said no, if there is another, whatever is remembered of it.
        let avoided = match asked.before {
            Some((Some(parent), 0 | 403 | 407 | 429)) => {
                self.slots.iter().position(|slot| slot.parent == *parent)
            }
            Some(_) | None => None,
        };
        let mut choice = self.picker.begin(&self.strategy, &self.slots, asked);
        let picked = match avoided {
            Some(avoided) => {
                choice.pick(|at| at != avoided && may(at)).or_else(|| choice.pick(may))
            }
            None => choice.pick(may),
        };
        picked.ok_or_else(|| {
            let counted = counted?;
            let good = (0..self.slots.len()).filter(|at| is_good(*at));
            good.map(|at| counted.has_in(at)).min()
        })
    }

    /// One of those that are all banned, or after how long that is worth another try.
    fn pick_banned(&self, view: Option<&mut View<'_>>, now: Instant) -> Result<usize, Duration> {
        let Some(view) = view else { return Ok(0) };
        let ends = self.slots.iter().enumerate().map(|(at, slot)| match view.standing(&slot.id) {
            Standing::Banned { until, down } => (down, until, at),
            Standing::Free | Standing::Due => (false, now, at),
        });
        let Some((down, until, at)) = ends.min() else { return Ok(0) };
        if !down {
            return Ok(at);
        }
        match view.last_resort() {
            None => Ok(at),
            Some(next) => Err(next.min(until.saturating_duration_since(now))),
        }
    }
}
