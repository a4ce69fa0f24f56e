//! The rules of the new settings, and the recorded requests that meet them.
//!
//! What a proxy does in `proxy/gates.rs`, `proxy/pipeline.rs` and `proxy/docket.rs` is done here again, with
//! the same deciders in the same order, each at the moment that its line has. A request that is refused
//! here and was not then goes no further here, whatever the log goes on to say of it; one that was
//! refused then and is not here has made no attempt of which anything could be known.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::Method;
use tokio::time::Instant;

use super::Settings;
use super::merge::Read;
use super::report::Report;
use super::report::Stop;
use super::report::Way;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::clock::Moment;
use crate::policy::Cause;
use crate::policy::Decision;
use crate::policy::End;
use crate::policy::Facts;
use crate::policy::Mode;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::policy::api::Api;
use crate::policy::api::Apis;
use crate::policy::breaker;
use crate::policy::breaker::Breakers;
use crate::policy::breaker::Parked;
use crate::policy::breaker::TUNNELS;
use crate::policy::cache::tiers;
use crate::policy::cache::tiers::Tiers;
use crate::policy::cooldown::Subject;
use crate::policy::quota::Quotas;
use crate::policy::quota::Said;
use crate::policy::quota::Then;
use crate::store::board::Board;
use crate::telemetry::decisions::Kind;
use crate::telemetry::decisions::LIMIT;
use crate::telemetry::decisions::Line;

/// Requests that may be under way at once; of more, the oldest is taken for over.
const MOST: usize = 1 << 17;

/// Stops of one request that are compared.
const STOPS: usize = 1024;

/// Rules that stand before a request, in the order that they are asked.
const FRONT: [&str; 3] = ["networks", "access", "quota"];

/// The rules, and who is under way.
pub(super) struct World {
    apis: Apis,
    connects: Option<Breakers>,
    flights: HashMap<Box<str>, Flight>,
    /// Names of requests in the order that they came; some are over.
    order: VecDeque<Box<str>>,
    report: Report,
}

/// A request that is under way.
struct Flight {
    api: Option<Arc<Api>>,
    host: HostKey,
    is_tunnel: bool,
    method: Method,
    client: Option<IpAddr>,
    api_key: Option<String>,
    identity: Option<String>,
    /// Who it is, for people.
    who: String,
    /// How many of [`FRONT`] have been asked.
    asked: usize,
    /// What the log says that `access` decided.
    access: Option<bool>,
    /// By which text it was counted then, by which plan, and for how many requests.
    counted: Option<String>,
    plan: Option<String>,
    cost: Option<u64>,
    trial: Trial,
    /// A rule has ended it here.
    is_refused: bool,
    /// By which rule it waits.
    waits_for: Option<Rule>,
    recorded: Vec<Stop>,
    replayed: Vec<Stop>,
}

/// How its attempt stands here.
#[derive(Default)]
enum Trial {
    /// There is none.
    #[default]
    Idle,
    /// It is under way.
    Passed {
        /// From the breaker.
        pass: Option<Parked>,
        subject: Option<Subject>,
        /// Whether the cool-down hears its answer.
        is_heard: bool,
    },
    /// It waits for its turn.
    Waiting(Subject),
}

/// A rule that does not let pass.
enum Halt {
    Wait,
    Refuse,
}

impl World {
    /// The rules of these settings, with nothing learned yet, at the moment of the first line.
    pub(super) fn new(settings: &Settings, moment: Moment) -> Self {
        clock::at(moment, || {
            let board = Board::alone();
            // What is kept is decided by responses, of which a log knows nothing.
            let tiers = Tiers::alone(&tiers::Settings { memory: 0, redis: false });
            let apis = Apis::new(&settings.apis, &board, &tiers, None);
            let tunnels = |breaker: &breaker::Settings| {
                Breakers::of_tunnels(breaker.clone(), Duration::from_secs(10), &board)
            };
            let connects = settings.connects.as_ref().map(tunnels);
            let (flights, order, report) = (HashMap::new(), VecDeque::new(), Report::default());
            Self { apis, connects, flights, order, report }
        })
    }

    /// Hears a line.
    pub(super) fn hear(&mut self, read: &Read) {
        let moment = read.moment();
        clock::at(moment, || self.heard(read));
    }

    fn heard(&mut self, read: &Read) {
        let line = &read.line;
        self.report.saw(line.id.split('-').next().unwrap_or_default(), clock::wall());
        if line.kind == Kind::Request {
            self.begin(line);
            return;
        }
        let Some(mut flight) = self.flights.remove(&*line.id) else {
            self.report.note("lines of requests whose beginning is not in the log were left out");
            return;
        };
        match line.kind {
            Kind::Request => {}
            Kind::Decision => self.decision(&mut flight, line),
            Kind::Attempt => {
                self.front(&mut flight, FRONT.len());
                if !flight.is_refused {
                    self.attempt(&mut flight, read);
                }
            }
            Kind::End => self.end_of_attempt(&mut flight, line),
            Kind::Done => {
                self.front(&mut flight, FRONT.len());
                self.finish(flight);
                return;
            }
        }
        self.flights.insert((*line.id).into(), flight);
    }

    fn begin(&mut self, line: &Line<'_>) {
        while self.flights.len() >= MOST {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(flight) = self.flights.remove(&oldest) {
                self.report.note("requests were under way at once, more than can be: the oldest were taken for over");
                self.finish(flight);
            }
        }
        if self.order.len() >= 2 * MOST {
            let flights = &self.flights;
            self.order.retain(|id| flights.contains_key(id));
        }
        let host = HostKey::recalled(line.host.as_deref().unwrap_or_default());
        let api = match (line.route.as_deref(), line.api.as_deref()) {
            (Some("gateway"), Some(name)) => {
                let api = self.apis.named(name);
                if api.is_none() {
                    let words = format!(
                        "requests of the gateway's API {name}, which the settings do not have, met no rule"
                    );
                    self.report.note(&words);
                }
                api
            }
            (Some(_) | None, _) => self.apis.of_host(&host),
        };
        let client = line.client.map(|client| client.ip().to_canonical());
        let named = line.identity.as_deref().map(str::to_owned);
        let address = || client.map_or_else(|| "?".to_owned(), |client| client.to_string());
        let flight = Flight {
            api: api.map(Arc::clone),
            host,
            is_tunnel: line.route.as_deref() == Some("connect"),
            method: line
                .method
                .as_deref()
                .and_then(|method| Method::from_bytes(method.as_bytes()).ok())
                .unwrap_or_default(),
            client,
            api_key: line.api_key.as_deref().map(str::to_owned),
            identity: named.clone(),
            who: named.unwrap_or_else(address),
            asked: 0,
            access: None,
            counted: None,
            plan: line.plan.as_deref().map(str::to_owned),
            cost: None,
            trial: Trial::Idle,
            is_refused: false,
            waits_for: None,
            recorded: Vec::new(),
            replayed: Vec::new(),
        };
        self.report.requests += 1;
        self.order.push_back((*line.id).into());
        if let Some(former) = self.flights.insert((*line.id).into(), flight) {
            self.finish(former);
        }
    }

    /// What the log says that a rule decided.
    fn decision(&mut self, flight: &mut Flight, line: &Line<'_>) {
        let rule = line.rule.as_deref().unwrap_or_default();
        if rule == LIMIT {
            self.report.note("decisions of the limit of connections were left out: who held one is not in the log");
            return;
        }
        let (Some(outcome), Some(known)) =
            (line.outcome.as_deref(), Rule::WORDS.into_iter().find(|word| *word == rule))
        else {
            self.report.note("decisions of rules that this version does not know were left out");
            return;
        };
        let way = match (outcome, line.would.as_deref()) {
            ("waited", _) | ("observed", Some("waited")) => Some(Way::Waited),
            ("refused" | "observed", _) => Some(Way::Refused),
            _ => None,
        };
        if known == "access" {
            flight.access = Some(way.is_none());
        }
        if known == "quota" {
            let own = |text: Option<&str>| text.map(str::to_owned);
            flight.counted = own(line.key.as_deref());
            flight.plan = own(line.plan.as_deref());
            flight.cost = line.cost;
        }
        if let Some(at) = FRONT.iter().position(|front| *front == known) {
            self.front(flight, at + 1);
        }
        let Some(way) = way else { return };
        let stop = Stop { rule: known, way };
        let api = line.api.as_deref().unwrap_or(if flight.is_tunnel { TUNNELS } else { "" });
        let api = if known == "breaker" && flight.is_tunnel { TUNNELS } else { api };
        if known == "parents" {
            self.report
                .note("decisions of parents were left out: whether one is there is not in the log");
            return;
        }
        self.report.recorded(api, stop, outcome == "observed");
        if flight.recorded.len() < STOPS {
            flight.recorded.push(stop);
        }
    }

    /// Asks the rules that stand before a request, up to so many of them.
    fn front(&mut self, flight: &mut Flight, upto: usize) {
        while flight.asked < upto {
            let rule = FRONT[flight.asked];
            flight.asked += 1;
            let Some(api) = flight.api.clone().filter(|_| !flight.is_refused) else { continue };
            match rule {
                "networks" => self.networks(flight, &api),
                "access" => self.access(flight, &api),
                _ => self.quota(flight, &api),
            }
        }
    }

    fn networks(&mut self, flight: &mut Flight, api: &Api) {
        let lists = &api.settings.lists;
        let Some(client) = flight.client.filter(|_| !lists.is_open()) else { return };
        let refusal = Refusal { rule: Rule::Networks, left: Duration::ZERO };
        let decision =
            if lists.admit(client) { Decision::Pass(()) } else { Decision::Refuse(refusal) };
        let _passed = self.obey(
            flight,
            api.name(),
            (Rule::Networks, lists.mode),
            &client.to_string(),
            decision,
        );
    }

    fn access(&mut self, flight: &mut Flight, api: &Api) {
        let Some(entrance) = &api.entrance else { return };
        let proven = match (flight.access, &flight.api_key) {
            (None, None) => {
                self.report.note("requests came before their API asked for keys: whether they had one is not in the log, and they were let in");
                true
            }
            (_, Some(name)) => entrance.knows(name, &flight.method).unwrap_or_else(|| {
                self.report.note("requests had a key for some paths alone, and paths are not in the log: they were let in");
                true
            }),
            (Some(true), None) => {
                self.report.note("requests were let in by a token, which is not in the log: they were let in again");
                true
            }
            (Some(false), None) => {
                self.report.note("requests showed nothing that held: whether it would now is not in the log, and was taken for no");
                false
            }
        };
        let refusal = Refusal { rule: Rule::Access, left: Duration::ZERO };
        let decision = if proven { Decision::Pass(()) } else { Decision::Refuse(refusal) };
        let key = flight.api_key.clone().or(flight.client.map(|client| client.to_string()));
        let key = key.unwrap_or_default();
        let _passed =
            self.obey(flight, api.name(), (Rule::Access, entrance.mode()), &key, decision);
    }

    fn quota(&mut self, flight: &mut Flight, api: &Api) {
        let Some(quotas) = &api.quotas else { return };
        let host = flight.host.clone();
        let then = Then {
            text: flight.counted.as_deref(),
            cost: flight.cost,
            plan: flight.plan.as_deref(),
            peer: flight.client,
            identity: flight.identity.as_deref(),
            key: flight.api_key.as_deref(),
            host: host.as_str(),
        };
        // There is no Redis to be waited for.
        let said = quotas.take_again(then, &flight.method).now_or_never().flatten();
        let Some(Said { decision, key, .. }) = said else {
            self.report.note("requests are counted by what is not in the log (a field, a claim, an address that a proxy told): no quota was asked for them");
            return;
        };
        let asked = (Quotas::RULE, quotas.mode());
        let _passed = self.obey(flight, api.name(), asked, &key, decision);
    }

    /// Asks the rules that stand before an attempt.
    fn attempt(&mut self, flight: &mut Flight, read: &Read) {
        let waiting = match std::mem::take(&mut flight.trial) {
            under_way @ Trial::Passed { .. } => {
                flight.trial = under_way;
                return;
            }
            Trial::Waiting(subject) => Some(subject),
            Trial::Idle => None,
        };
        let api = flight.api.clone();
        let host = flight.host.clone();
        let connects = self.connects.take();
        let breakers = if flight.is_tunnel {
            connects.as_ref()
        } else {
            api.as_ref().and_then(|api| api.breakers.as_ref())
        };
        let name = match &api {
            Some(api) if !flight.is_tunnel => Arc::clone(api.name()),
            Some(_) | None => TUNNELS.into(),
        };
        let entered = match breakers {
            Some(breakers) => {
                let decision = breakers.enter(&host).now_or_never();
                decision.map(|decision| {
                    let parked = match decision {
                        Decision::Pass(pass) => Decision::Pass(pass.park()),
                        Decision::Wait(refusal) => Decision::Wait(refusal),
                        Decision::Refuse(refusal) => Decision::Refuse(refusal),
                    };
                    self.obey(
                        flight,
                        &name,
                        (Rule::Breaker, breakers.mode()),
                        host.as_str(),
                        parked,
                    )
                })
            }
            None => None,
        };
        self.connects = connects;
        let pass = match entered {
            Some(Ok(pass)) => pass,
            Some(Err(Halt::Wait | Halt::Refuse)) => return,
            None => None,
        };
        let cooldowns = api.as_ref().filter(|_| !flight.is_tunnel);
        let Some(cooldowns) = cooldowns.and_then(|api| api.cooldowns.as_ref()) else {
            flight.trial = Trial::Passed { pass, subject: None, is_heard: false };
            return;
        };
        let line = &read.line;
        let credential = line.credential.as_deref();
        let subject = waiting.unwrap_or_else(|| cooldowns.recalled(&host, credential));
        let decision = cooldowns.enter(&subject, latest(read, cooldowns.patience()));
        let key = cooldowns.name_of(&subject);
        match self.obey(flight, &name, (Rule::CoolDown(0), cooldowns.mode()), &key, decision) {
            Ok(passed) => {
                let is_heard = passed.is_some();
                if !is_heard {
                    subject.goes_on();
                }
                flight.trial = Trial::Passed { pass, subject: Some(subject), is_heard };
            }
            Err(halt) => {
                self.release(flight, pass);
                if matches!(halt, Halt::Wait) {
                    flight.trial = Trial::Waiting(subject);
                }
            }
        }
    }

    /// What came of an attempt.
    fn end_of_attempt(&mut self, flight: &mut Flight, line: &Line<'_>) {
        let (pass, subject, is_heard) = match std::mem::take(&mut flight.trial) {
            Trial::Passed { pass, subject, is_heard } => (pass, subject, is_heard),
            Trial::Waiting(subject) => {
                subject.goes_on();
                self.report.note("attempts would have waited: what they would have been answered then is not in the log, and no rule heard it");
                return;
            }
            Trial::Idle => return,
        };
        let end = end(line);
        if let (Some(api), Some(subject)) = (&flight.api, &subject)
            && let Some(cooldowns) = &api.cooldowns
            && let End::Status(status) = end
            && is_heard
            && !line.aside
        {
            cooldowns.hear_told(subject, status, line.pause_us.map(Duration::from_micros));
        }
        let Some(parked) = pass else { return };
        let Some(breakers) = breakers(self.connects.as_ref(), flight) else { return };
        // Of tunnels no share of slow ones is judged.
        let took = line.took_us.filter(|_| !flight.is_tunnel).unwrap_or(0);
        let facts = Facts {
            end: if line.aside { End::Neutral } else { end },
            took: Duration::from_micros(took),
        };
        // There is no Redis to be waited for.
        let _done = breakers.unpark(parked, &flight.host).record(facts).now_or_never();
    }

    /// Gives back what an attempt had that was not made.
    fn release(&self, flight: &Flight, pass: Option<Parked>) {
        if let (Some(parked), Some(breakers)) = (pass, breakers(self.connects.as_ref(), flight)) {
            drop(breakers.unpark(parked, &flight.host));
        }
    }

    /// A request is over: whether it was stopped as it was then.
    fn finish(&mut self, mut flight: Flight) {
        match std::mem::take(&mut flight.trial) {
            Trial::Passed { pass, .. } => {
                if !flight.recorded.is_empty() && flight.replayed.is_empty() {
                    self.report.note("requests were refused then and would not be: what their attempts would have come to is not in the log, and no rule heard it");
                }
                self.release(&flight, pass);
            }
            Trial::Idle | Trial::Waiting(_) => {}
        }
        self.report.compare(&flight.recorded, &flight.replayed);
    }

    /// Does what a rule says, as `proxy::docket` does.
    fn obey<T>(
        &mut self,
        flight: &mut Flight,
        api: &str,
        (asked, mode): (Rule, Mode),
        key: &str,
        decision: Decision<T>,
    ) -> Result<Option<T>, Halt> {
        let (refusal, way) = match decision {
            Decision::Pass(guard) => {
                if flight.waits_for.is_some_and(|rule| rule.index() == asked.index()) {
                    flight.waits_for = None;
                }
                return Ok(Some(guard));
            }
            Decision::Wait(refusal) => (refusal, Way::Waited),
            Decision::Refuse(refusal) => (refusal, Way::Refused),
        };
        let rule = refusal.rule.as_str();
        let is_first = mode == Mode::Observe
            || way == Way::Refused
            || flight.waits_for.replace(refusal.rule) != Some(refusal.rule);
        if is_first {
            let stop = Stop { rule, way };
            if flight.replayed.len() < STOPS {
                flight.replayed.push(stop);
            }
            let is_observed = mode == Mode::Observe;
            self.report.replayed(api, stop, is_observed, (key, &flight.who), refusal.left);
        }
        match (mode, way) {
            (Mode::Observe, _) => Ok(None),
            (Mode::Enforce, Way::Waited) => Err(Halt::Wait),
            (Mode::Enforce, Way::Refused) => {
                flight.is_refused = true;
                Err(Halt::Refuse)
            }
        }
    }

    /// The report, when all lines were heard.
    pub(super) fn end(mut self, lines: u64, bad: u64) -> Report {
        let unfinished: Vec<Flight> = self.flights.drain().map(|(_, flight)| flight).collect();
        for flight in unfinished {
            self.finish(flight);
        }
        (self.report.lines, self.report.bad) = (lines, bad);
        self.report
    }
}

/// The breakers that stand before the attempts of a request.
fn breakers<'a>(connects: Option<&'a Breakers>, flight: &'a Flight) -> Option<&'a Breakers> {
    if flight.is_tunnel {
        connects
    } else {
        flight.api.as_ref().and_then(|api| api.breakers.as_ref())
    }
}

/// Until when an attempt may wait a cool-down out, as `proxy::pipeline` has it.
fn latest(read: &Read, patience: Duration) -> Option<Instant> {
    let line = &read.line;
    let own = line.begun.filter(|_| !line.prefers).map(|begun| read.instant(begun) + patience);
    let deadline = line.deadline.map(|deadline| read.instant(deadline));
    let own = own.map(|own| deadline.map_or(own, |deadline| own.min(deadline)));
    line.until.map(|until| read.instant(until)).max(own)
}

fn end(line: &Line<'_>) -> End {
    match (line.status, line.cause.as_deref()) {
        (Some(status), _) => End::Status(status),
        (None, Some(word)) => {
            let cause = Cause::ALL.into_iter().find(|cause| cause.as_str() == word);
            cause.map_or(End::Neutral, End::Failed)
        }
        (None, None) => End::Neutral,
    }
}
