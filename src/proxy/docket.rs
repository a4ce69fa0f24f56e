//! What is done about what a gate says: the one place where a [`Decision`] is obeyed, or, where its
//! policy only observes, noted and no more. And what is noted: counted for the metrics, and told to the
//! decision log, if there is one, with all that is needed to decide it again.
//!
//! It decides nothing itself. Always holds: what a policy in observe mode says stops nobody and delays
//! nobody, and is counted once, as what it would have been. PERF: without a decision log nothing is
//! made or formatted for one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::time::Instant;

use super::Thread;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::identity::Identity;
use crate::limit::Refused;
use crate::policy::Decision;
use crate::policy::End;
use crate::policy::Mode;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::policy::Ruling;
use crate::policy::access::Known;
use crate::policy::api::Api;
use crate::policy::decided::Decided;
use crate::policy::decided::Effect;
use crate::telemetry::decisions::Decisions;
use crate::telemetry::decisions::Kind;
use crate::telemetry::decisions::LIMIT;
use crate::telemetry::decisions::Line;
use crate::telemetry::decisions::millis;
use crate::telemetry::metrics::Route;

/// The shortest wait for a slot that is one.
const HELD_UP: Duration = Duration::from_millis(1);

/// What the gates say of one request.
#[derive(Debug, Default)]
pub(super) struct Docket {
    /// By which rule its present attempt waits, which asks again when it has.
    waits_for: Option<Rule>,
    entry: Option<Box<Entry>>,
}

/// What the decision log wants to know of a request.
#[derive(Debug)]
struct Entry {
    log: Decisions,
    id: Box<str>,
    client: SocketAddr,
    method: String,
    identity: Option<Arc<str>>,
    /// The name of its API key, and the plan of that.
    api_key: Option<Arc<str>>,
    plan: Option<Arc<str>>,
    /// For how many requests it counts, once that is known.
    cost: Option<u64>,
    route: Option<Route>,
    host: Option<HostKey>,
    api: Option<Arc<str>>,
    /// Whether that has been told.
    is_told: bool,
}

/// A gate that does not let pass.
#[derive(Debug)]
pub(super) enum Halt {
    Wait(Refusal),
    Refuse(Refusal),
}

/// An attempt that is to be made, as far as the gates before it look at it.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) number: u32,
    /// The fingerprint of what it carries to say who asks.
    pub(super) credential: Option<String>,
    /// When its request came to the first one.
    pub(super) begun: Instant,
    /// Until when it may wait for a gate, whatever that gate's own settings say.
    pub(super) until: Option<Instant>,
    pub(super) deadline: Option<Instant>,
    /// Whether the client said itself how long it would wait.
    pub(super) prefers: bool,
}

impl Trial {
    /// The first of a request that waits for nothing.
    pub(super) fn first(credential: Option<String>) -> Self {
        let (begun, until, deadline) = (clock::now(), None, None);
        Self { number: 1, credential, begun, until, deadline, prefers: false }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) number: u32,
    pub(super) end: End,
    pub(super) took: Duration,
    /// How long the upstream asked not to be asked.
    pub(super) pause: Option<Duration>,
    /// Whether that says something of the way alone, and nothing of the upstream.
    pub(super) is_ways: bool,
}

impl Docket {
    /// That of a request that has just come.
    pub(super) fn begin(thread: &Thread, client: SocketAddr, method: &str) -> Self {
        let entry = thread.decisions.name().map(|id| {
            Box::new(Entry {
                log: thread.decisions.clone(),
                id,
                client,
                method: method.to_owned(),
                identity: None,
                api_key: None,
                plan: None,
                cost: None,
                route: None,
                host: None,
                api: None,
                is_told: false,
            })
        });
        Self { waits_for: None, entry }
    }

    /// What fingerprints are made with, if anything is written down.
    pub(super) fn secret(&self) -> Option<&hmac::Key> {
        self.entry.as_ref()?.log.secret()
    }

    /// Whether anything is written down: then time is to be [held](clock::held) while a gate decides.
    pub(super) fn is_on(&self) -> bool {
        self.entry.is_some()
    }

    pub(super) fn asked_by(&mut self, identity: &Identity) {
        if let Some(entry) = &mut self.entry {
            entry.identity = identity.name().map(Arc::clone);
        }
    }

    /// Who it is, by a key of the API.
    pub(super) fn knows(&mut self, known: &Known) {
        if let Some(entry) = &mut self.entry {
            entry.identity = known.identity.name().map(Arc::clone);
            entry.api_key = known.key.as_ref().map(Arc::clone);
            entry.plan = known.plan.as_ref().map(Arc::clone);
        }
    }

    pub(super) fn bound_for(&mut self, route: Route, host: &HostKey) {
        if let Some(entry) = &mut self.entry {
            entry.route = Some(route);
            entry.host = Some(host.clone());
        }
    }

    pub(super) fn meets(&mut self, api: &Api) {
        if let Some(entry) = &mut self.entry {
            entry.api = Some(Arc::clone(api.name()));
        }
    }

    /// For how many requests it counts, by which plan.
    pub(super) fn costs(&mut self, cost: u64, plan: Option<&Arc<str>>) {
        if let Some(entry) = &mut self.entry {
            entry.cost = Some(cost);
            entry.plan = plan.map(Arc::clone).or(entry.plan.take());
        }
    }

    /// Does what a gate says. None is that it did not let pass, and only observes.
    pub(super) fn obey<T>(
        &mut self,
        decided: &Decided,
        ruling: &Ruling<'_>,
        decision: Decision<T>,
    ) -> Result<Option<T>, Halt> {
        match (decision, ruling.mode) {
            (Decision::Pass(guard), _) => {
                if self.waits_for.is_some_and(|rule| rule.index() == ruling.rule.index()) {
                    self.waits_for = None;
                }
                self.admitted(ruling);
                Ok(Some(guard))
            }
            (Decision::Wait(refusal), Mode::Observe) => {
                self.note(decided, ruling, refusal, (Effect::Observed, Some(Effect::Waited)));
                Ok(None)
            }
            (Decision::Refuse(refusal), Mode::Observe) => {
                self.note(decided, ruling, refusal, (Effect::Observed, Some(Effect::Refused)));
                Ok(None)
            }
            (Decision::Wait(refusal), Mode::Enforce) => {
                // It asks again and again, and waits once.
                if self.waits_for.replace(refusal.rule) != Some(refusal.rule) {
                    self.note(decided, ruling, refusal, (Effect::Waited, None));
                }
                Err(Halt::Wait(refusal))
            }
            (Decision::Refuse(refusal), Mode::Enforce) => {
                self.note(decided, ruling, refusal, (Effect::Refused, None));
                Err(Halt::Refuse(refusal))
            }
        }
    }

    fn admitted(&mut self, ruling: &Ruling<'_>) {
        let rule = ruling.rule.as_str();
        self.tell(ruling, |line| {
            line.rule = Some(rule.into());
            line.outcome = Some("admitted".into());
        });
    }

    fn note(
        &mut self,
        decided: &Decided,
        ruling: &Ruling<'_>,
        refusal: Refusal,
        (effect, would): (Effect, Option<Effect>),
    ) {
        decided.note(refusal.rule, effect);
        let rule = refusal.rule.as_str();
        tracing::debug!(rule, ?ruling, left = ?refusal.left, effect = effect.as_str(), "decided");
        self.tell(ruling, |line| {
            line.rule = Some(rule.into());
            line.outcome = Some(effect.as_str().into());
            line.would = would.map(|would| would.as_str().into());
            line.wait_ms = Some(millis(refusal.left));
        });
    }

    /// Writes a line about a decision.
    fn tell(&mut self, ruling: &Ruling<'_>, say: impl FnOnce(&mut Line<'_>)) {
        let Some(entry) = &mut self.entry else { return };
        entry.tell_request();
        let key = ruling.key.to_string();
        let mut line = entry.line(Kind::Decision);
        say(&mut line);
        line.mode = Some(ruling.mode.as_str().into());
        line.key = Some(key.into());
        (line.value, line.limit) = (ruling.value, ruling.limit);
        line.cost = entry.cost.filter(|_| matches!(ruling.rule, Rule::Quota(_)));
        entry.log.write(&line);
    }

    /// The gates before an attempt are about to be asked.
    pub(super) fn attempts(&mut self, trial: impl FnOnce() -> Trial) {
        let Some(entry) = &mut self.entry else { return };
        entry.tell_request();
        let Trial { number, credential, begun, until, deadline, prefers } = trial();
        let mut line = Line::now(Kind::Attempt, &entry.id);
        line.attempt = Some(number);
        line.credential = credential.map(Into::into);
        line.begun = Some(clock::micros(begun));
        line.until = until.map(clock::micros);
        line.deadline = deadline.map(clock::micros);
        line.prefers = prefers;
        entry.log.write(&line);
    }

    /// What the limit of connections said, if it stopped the attempt or held it up.
    pub(super) fn slot(&mut self, host: &HostKey, waited: Duration, refused: Option<&Refused>) {
        let Some(entry) = &mut self.entry else { return };
        let effect = match refused {
            Some(_) => Effect::Refused,
            // Even who finds a slot free takes some microseconds for it.
            None if waited < HELD_UP => return,
            None => Effect::Waited,
        };
        let mut line = entry.line(Kind::Decision);
        line.rule = Some(LIMIT.into());
        line.mode = Some(Mode::Enforce.as_str().into());
        line.outcome = Some(effect.as_str().into());
        line.key = Some(host.as_str().into());
        line.value = refused.map(|refused| refused.in_use.into());
        line.limit = refused.map(|refused| refused.limit.into());
        line.wait_ms = Some(millis(waited));
        entry.log.write(&line);
    }

    /// An attempt is over.
    pub(super) fn ended(&mut self, ended: impl FnOnce() -> Ended) {
        let Some(entry) = &mut self.entry else { return };
        let Ended { number, end, took, pause, is_ways } = ended();
        let mut line = Line::now(Kind::End, &entry.id);
        line.attempt = Some(number);
        match end {
            End::Status(status) => line.status = Some(status),
            End::Failed(cause) => line.cause = Some(cause.as_str().into()),
            End::Neutral => line.cause = Some("neutral".into()),
        }
        let micros = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
        line.took_us = Some(micros(took.as_micros()));
        line.pause_us = pause.map(|pause| micros(pause.as_nanos().div_ceil(1000)));
        line.aside = is_ways;
        entry.log.write(&line);
    }

    /// The request is over; 0 is that its client left before.
    pub(super) fn done(&mut self, status: u16) {
        // What we answer ourselves is bound for nowhere, and meets no rule.
        let Some(mut entry) = self.entry.take().filter(|entry| entry.host.is_some()) else {
            return;
        };
        entry.tell_request();
        let mut line = Line::now(Kind::Done, &entry.id);
        line.status = Some(status);
        entry.log.write(&line);
    }
}

impl Entry {
    /// Tells what is known of the request, once; by now all is that the gates look at.
    fn tell_request(&mut self) {
        if !self.is_told {
            self.is_told = true;
            self.log.write(&self.line(Kind::Request));
        }
    }

    /// A line that says whose request it is.
    fn line(&self, kind: Kind) -> Line<'_> {
        let mut line = Line::now(kind, &self.id);
        line.client = Some(self.client);
        line.identity = self.identity.as_deref().map(Into::into);
        line.api_key = self.api_key.as_deref().map(Into::into);
        line.plan = self.plan.as_deref().map(Into::into);
        line.api = self.api.as_deref().map(Into::into);
        line.route = self.route.map(|route| route.as_str().into());
        line.method = Some((&*self.method).into());
        line.host = self.host.as_ref().map(|host| host.as_str().into());
        line
    }
}

/// A text that is made where it is shown, and only there.
pub(super) struct Shown<F>(pub(super) F);

impl<F: Fn() -> String> fmt::Display for Shown<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REFUSAL: Refusal = Refusal { rule: Rule::Breaker, left: Duration::from_secs(3) };

    fn ruling(mode: Mode) -> Ruling<'static> {
        Ruling { rule: Rule::Breaker, mode, key: &"a.test", value: None, limit: None }
    }

    /// Waited, refused, observed.
    fn counted(decided: &Decided) -> [u64; 3] {
        let mut sums = Default::default();
        decided.add_to(&mut sums);
        sums[Rule::Breaker.index()]
    }

    #[test]
    fn what_is_enforced_stops_and_what_is_observed_does_not() {
        let (decided, mut docket) = (Decided::default(), Docket::default());
        let mut obey = |mode, decision| docket.obey(&decided, &ruling(mode), decision);
        assert!(matches!(obey(Mode::Enforce, Decision::Pass(7)), Ok(Some(7))));
        assert!(matches!(obey(Mode::Observe, Decision::Pass(7)), Ok(Some(7))));
        assert!(matches!(obey(Mode::Enforce, Decision::Refuse(REFUSAL)), Err(Halt::Refuse(_))));
        assert!(matches!(obey(Mode::Observe, Decision::Refuse(REFUSAL)), Ok(None)));
        assert!(matches!(obey(Mode::Observe, Decision::Wait(REFUSAL)), Ok(None)));
        assert_eq!(counted(&decided), [0, 1, 2]);
    }

    #[test]
    fn who_waits_and_asks_again_has_waited_once() {
        let (decided, mut docket) = (Decided::default(), Docket::default());
        let mut obey = |decision| docket.obey(&decided, &ruling(Mode::Enforce), decision);
        for _ in 0..3 {
            assert!(matches!(obey(Decision::Wait(REFUSAL)), Err(Halt::Wait(_))));
        }
        assert!(obey(Decision::Pass(())).is_ok());
        assert!(matches!(obey(Decision::Wait(REFUSAL)), Err(Halt::Wait(_))));
        assert_eq!(counted(&decided), [2, 0, 0]);
    }
}
