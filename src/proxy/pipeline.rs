//! What happens to a plain request, by whichever route it came: the policies of its API, around
//! attempts to have it answered.
//!
//! The order is the product. The breaker is asked before the cool-down and both before any slot is
//! waited for, so that nobody queues for a host that is known to be down; a slot comes last, and is
//! held for the shortest time. All of them are asked anew before each attempt, and hear of each. What
//! a gate decides ([`Decision`]) is done in one place, [`docket`](super::docket).
//!
//! Between attempts nothing is held but the request, and the answer before if that is small: the
//! client gets it if a gate says no then.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::Response;
use http::Version;
use http::request::Parts;
use tokio::time::Instant;

use super::Thread;
use super::asker::Asker;
use super::docket::Docket;
use super::docket::Ended;
use super::docket::Halt;
use super::docket::Shown;
use super::docket::Trial;
use super::head::Flaw;
use super::reject::Reject;
use super::send::Course;
use super::send::send;
use super::story::Story;
use super::tally::Tally;
use crate::base::authority::Authority;
use crate::base::authority::HostKey;
use crate::base::clock;
use crate::base::clock::Moment;
use crate::base::identity::Identity;
use crate::limit::Patience;
use crate::policy::Decision;
use crate::policy::End;
use crate::policy::Facts;
use crate::policy::Mode;
use crate::policy::Refusal;
use crate::policy::Rule;
use crate::policy::Ruling;
use crate::policy::api::Api;
use crate::policy::breaker::Breakers;
use crate::policy::breaker::Pass;
use crate::policy::cooldown;
use crate::policy::cooldown::CoolDowns;
use crate::policy::cooldown::Subject;
use crate::policy::parents::Asked;
use crate::policy::parents::Parent;
use crate::policy::parents::Way;
use crate::policy::retry::Attempt;
use crate::policy::retry::Verdict;
use crate::upstream::SendError;
use crate::upstream::Sent;
use crate::upstream::dial::DialError;
use crate::upstream::exchange::ExchangeError;
use crate::upstream::replay::Replay;
use crate::upstream::replay::Supply;
use crate::upstream::source::Source;

/// The shortest wait for a gate.
const SHORTEST: Duration = Duration::from_millis(1);

/// A request that is to be answered.
pub(super) struct Order<'a> {
    pub(super) thread: &'a Thread,
    pub(super) client: &'a Asker,
    pub(super) identity: &'a Identity,
    /// Whose policies it meets; none meets none.
    pub(super) api: Option<&'a Api>,
    pub(super) authority: &'a Authority,
    pub(super) tls: bool,
    pub(super) patience: Patience,
    /// Until when the client would wait at all, if it says so (RFC 7240 §4.3).
    pub(super) deadline: Option<Instant>,
    /// The client's.
    pub(super) version: Version,
    /// The client's fields as they came, where not all of them are sent on.
    pub(super) asked: Option<&'a HeaderMap>,
}

/// Why there is no response.
pub(super) enum Failed {
    /// The client left; there is nobody to answer.
    Left,
    /// It is answered by this.
    Rejected(Reject),
}

impl From<Reject> for Failed {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}

/// The longest body of an answer that is kept while another attempt is made, and how long it may
/// take to come.
const HELD: usize = 64 * 1024;
const HELD_TIME: Duration = Duration::from_millis(100);

/// Whether a request is to be answered, as far as that is known without asking anybody.
///
/// PERF: nothing need be made of a request that an open circuit waits for.
pub(super) fn refused(api: &Api, host: &HostKey, docket: &mut Docket) -> Result<(), Reject> {
    let Some(breakers) = &api.breakers else { return Ok(()) };
    let is_held = docket.is_on();
    let mut refuse = || {
        let refusal = breakers.refuse(host)?;
        docket.attempts(|| Trial::first(None));
        let ruling = of_breaker(breakers, host, docket);
        let decision: Decision<()> = Decision::Refuse(refusal);
        docket.obey(api.counts.decided(), &ruling, decision).err()
    };
    let halt = if is_held { clock::at(Moment::present(), refuse) } else { refuse() };
    let Some(Halt::Wait(refusal) | Halt::Refuse(refusal)) = halt else { return Ok(()) };
    api.counts.asked(refusal.rule.into());
    Err(Reject::Policy(refusal))
}

/// Has a request answered, in as many attempts as its API allows.
pub(super) async fn answer(
    order: &Order<'_>,
    parts: Parts,
    body: Source,
    story: &mut Story,
) -> Result<Sent, Failed> {
    let tally = Tally::begin(order.api, order.client);
    let result = answered(order, parts, body, story).await;
    tally.end(&result);
    result
}

async fn answered(
    order: &Order<'_>,
    parts: Parts,
    body: Source,
    story: &mut Story,
) -> Result<Sent, Failed> {
    let sent = match order.api {
        // PERF: boxed, so that a request without policies does not carry the room for them.
        Some(api) => Box::pin(attempts(order, api, parts, body, story)).await?,
        None if story.docket().is_on() => Box::pin(noted(order, parts, body, story)).await?,
        None => send(order, None, parts, body.into(), &Course::default()).await?,
    };
    match sent {
        Ok(sent) => {
            story.waited(sent.waited, sent.reused);
            Ok(sent)
        }
        Err(error) => {
            story.waited(error.waited(), false);
            Err(unsent(error, order.client, order.thread).into())
        }
    }
}

/// The one attempt of a request that meets no policy, for the decision log.
async fn noted(
    order: &Order<'_>,
    parts: Parts,
    body: Source,
    story: &mut Story,
) -> Result<Result<Sent, SendError>, Failed> {
    let fields = order.asked.unwrap_or(&parts.headers);
    let docket = story.docket();
    let host = order.authority.key();
    let credential =
        docket.secret().and_then(|secret| cooldown::fingerprint(secret, "", host, fields));
    docket.attempts(|| Trial {
        until: until(order.patience, None, order.deadline),
        deadline: order.deadline,
        prefers: order.deadline.is_some(),
        ..Trial::first(credential)
    });
    let started = clock::now();
    let sent = send(order, None, parts, body.into(), &Course::default()).await?;
    slot(story.docket(), host, &sent);
    story.docket().ended(|| ended(&sent, 1, started));
    Ok(sent)
}

/// Tells the decision log what the limit of connections said of an attempt.
fn slot(docket: &mut Docket, host: &HostKey, sent: &Result<Sent, SendError>) {
    let (waited, refused) = match sent {
        Ok(sent) => (sent.waited, None),
        Err(SendError::Dial(DialError::Refused(refused))) => (refused.waited, Some(refused)),
        Err(error) => (error.waited(), None),
    };
    docket.slot(host, waited, refused);
}

/// What came of an attempt, for the decision log.
fn ended(sent: &Result<Sent, SendError>, number: u32, started: Instant) -> Ended {
    let waited = sent.as_ref().map_or_else(SendError::waited, |sent| sent.waited);
    let end = match sent {
        Ok(sent) => End::Status(sent.response.status().as_u16()),
        Err(error) => error.end(),
    };
    let told = |sent: &Sent| cooldown::told(end.status(), sent.response.headers());
    let pause = sent.as_ref().ok().and_then(told);
    let took = (clock::now() - started).saturating_sub(waited);
    Ended { number, end, took, pause, is_ways: false }
}

/// Makes attempts until the outcome of one is to be delivered.
async fn attempts(
    order: &Order<'_>,
    api: &Api,
    mut parts: Parts,
    body: Source,
    story: &mut Story,
) -> Result<Result<Sent, SendError>, Failed> {
    let all = api.settings.total_timeout;
    let end = all.and_then(|all| Some((clock::now().checked_add(all)?, all)));
    let course = Course { end, ..Course::default() };
    let deadline = order.deadline.into_iter().chain(end.map(|(end, _)| end)).min();
    let attempts = api.retry.as_ref().and_then(|retry| {
        let attempts = retry.begin(&parts.method, &parts.headers, deadline);
        (!attempts.is_last()).then_some(attempts)
    });
    // A client that does not say how long it would wait has the patience of the settings.
    let cooldowns = api.cooldowns.as_ref().filter(|_| order.deadline.is_none());
    let begun = if story.docket().is_on() { Moment::present().now } else { clock::now() };
    let cool = cooldowns.and_then(|cool| begun.checked_add(cool.patience()));
    let Some(mut attempts) = attempts else {
        let cooled = until(order.patience, cool, deadline);
        let until = until(order.patience, None, deadline);
        let turn = Turn { course: &course, former: None, until, cooled, begun, deadline };
        return Ok(attempt(order, api, parts, body.into(), turn, story).await?.sent);
    };
    let body = Replay::new(body, attempts.keeps());
    let mut former: Option<Former> = None;
    loop {
        let again = (!attempts.is_last()).then(|| parts.clone());
        // Who has waited for another attempt waits a little longer for its turn.
        let patience = former.as_ref().map(|_| clock::now() + attempts.patience());
        let cooled = until(order.patience, patience.max(cool), deadline);
        let until = until(order.patience, patience, deadline);
        let former_it = former.as_ref();
        let turn = Turn { course: &course, former: former_it, until, cooled, begun, deadline };
        let tried = match attempt(order, api, parts, body.view(), turn, story).await {
            Ok(tried) => tried,
            Err(Failed::Left) => return Err(Failed::Left),
            // What the upstream said itself tells more than that it may not be asked again.
            Err(Failed::Rejected(reject)) => {
                let answer = former.and_then(|former| former.answer);
                return answer.map(Ok).ok_or(Failed::Rejected(reject));
            }
        };
        let verdict = attempts.judge(tried.judged(body.is_whole()), clock::now());
        story.retried(attempts.count());
        let (Verdict::After(delay), Some(next)) = (verdict, again) else {
            let answer = former.and_then(|former| former.answer);
            return Ok(answer.filter(|_| tried.is_refused()).map_or(tried.sent, Ok));
        };
        let number = former.map_or(1, |former| former.number) + 1;
        let (parent, status) = (tried.parent, tried.end.status());
        let answer = pause(order, delay, tried.sent.ok()).await?;
        former = Some(Former { number, parent, status, answer });
        parts = next;
    }
}

/// What is known of the attempt before.
struct Former {
    /// Of the attempt that follows it.
    number: u32,
    parent: Option<Arc<Parent>>,
    /// 0 where there was none.
    status: u16,
    /// Its answer, if that was small enough to be kept.
    answer: Option<Sent>,
}

/// The place of an attempt among those of its request.
struct Turn<'a> {
    course: &'a Course,
    former: Option<&'a Former>,
    /// Until when it may wait for a gate.
    until: Option<Instant>,
    /// Until when it may wait a cool-down out.
    cooled: Option<Instant>,
    /// When its request came here.
    begun: Instant,
    /// When it is to be done.
    deadline: Option<Instant>,
}

/// An attempt that is over.
struct Tried {
    sent: Result<Sent, SendError>,
    end: End,
    /// How long the upstream asked not to be asked.
    asked: Option<Duration>,
    parent: Option<Arc<Parent>>,
}

impl Tried {
    fn judged(&self, has_body: bool) -> Attempt {
        let is_unsent = self.sent.as_ref().is_err_and(SendError::is_unsent);
        Attempt { end: self.end, is_unsent, has_body, asked: self.asked }
    }

    /// Whether it was we who said no.
    fn is_refused(&self) -> bool {
        self.end == End::Neutral && self.sent.as_ref().is_err_and(SendError::is_unsent)
    }
}

/// Until when a gate may be waited for: as long as the client would, or this attempt.
fn until(patience: Patience, own: Option<Instant>, deadline: Option<Instant>) -> Option<Instant> {
    let client = match patience {
        Patience::Until(until) => Some(until),
        Patience::None => None,
    };
    let until = client.max(own)?;
    Some(deadline.map_or(until, |deadline| until.min(deadline)))
}

/// Waits before the next attempt. Meanwhile a small answer is read away, so that its connection can
/// be kept, and is still to be had should there be no other.
async fn pause(
    order: &Order<'_>,
    delay: Duration,
    sent: Option<Sent>,
) -> Result<Option<Sent>, Failed> {
    let client = order.client;
    let until = clock::now() + delay;
    let mut answer = None;
    if let Some(Sent { response, reused, waited, attempts }) = sent {
        let (head, body) = response.into_parts();
        let holding = body.hold(HELD);
        let holding = tokio::time::timeout_at(until.min(clock::now() + HELD_TIME), holding);
        let body = client.unless_left(holding).await.ok_or(Failed::Left)?;
        answer = body.ok().flatten().map(|body| {
            let response = Response::from_parts(head, body);
            Sent { response, reused, waited, attempts }
        });
    }
    // Nobody reads the request's body now, who would see the client leave.
    client.pulse().upload(0, false);
    client.unless_left(tokio::time::sleep_until(until)).await.ok_or(Failed::Left)?;
    Ok(answer)
}

/// One attempt, and what its API's gates say to it and hear of it.
async fn attempt(
    order: &Order<'_>,
    api: &Api,
    parts: Parts,
    body: Supply,
    turn: Turn<'_>,
    story: &mut Story,
) -> Result<Tried, Failed> {
    let host = order.authority.key();
    let cooldowns = api.cooldowns.as_ref();
    let subject = cooldowns.map(|cooldowns| (cooldowns, cooldowns.subject(host, &parts.headers)));
    let before = turn.former.map(|former| (former.parent.as_ref(), former.status));
    let client = order.client.peer().ip();
    let fields = order.asked.unwrap_or(&parts.headers);
    let asked = Asked { client, host, fields, before };
    let number = turn.former.map_or(1, |former| former.number);
    let credential = story
        .docket()
        .secret()
        .and_then(|secret| cooldown::fingerprint(secret, api.name(), host, &parts.headers));
    let Entered { pass, is_heard, way } = loop {
        let trial = || Trial {
            number,
            begun: turn.begun,
            until: turn.until,
            deadline: turn.deadline,
            prefers: order.deadline.is_some(),
            ..Trial::first(credential.clone())
        };
        let docket = story.docket();
        let is_held = docket.is_on();
        // Told at the very moment that the gates are asked.
        let entering = async {
            docket.attempts(trial);
            enter(api, host, subject.as_ref(), asked, turn.cooled, docket).await
        };
        match clock::held(is_held, entering).await {
            Ok(entered) => break entered,
            // What waits holds nothing, and asks all gates again.
            Err(Halt::Wait(refusal)) => {
                wait(order, api, refusal, subject.as_ref(), turn.until, story.docket()).await?;
            }
            Err(Halt::Refuse(refusal)) => return Err(Reject::Policy(refusal).into()),
        }
    };
    let started = clock::now();
    let hop = way.as_ref().and_then(Way::hop);
    let sent = send(order, hop, parts, body, turn.course).await?;
    let is_held = story.docket().is_on();
    let over = over(order, api, sent, (number, started), (pass, way, subject, is_heard), story);
    Ok(clock::held(is_held, over).await)
}

/// Tells all gates what came of an attempt.
async fn over(
    order: &Order<'_>,
    api: &Api,
    sent: Result<Sent, SendError>,
    (number, started): (u32, Instant),
    (pass, way, subject, is_heard): Passed<'_>,
    story: &mut Story,
) -> Tried {
    let waited = sent.as_ref().map_or_else(SendError::waited, |sent| sent.waited);
    let end = match &sent {
        Ok(sent) => End::Status(sent.response.status().as_u16()),
        Err(error) => error.end(),
    };
    let facts = Facts { end, took: (clock::now() - started).saturating_sub(waited) };
    // Too much by one way is not too much by all: the others are not to wait for it.
    let escapes = end == End::Status(429) && way.as_ref().is_some_and(Way::has_others);
    // A parent that is no good says nothing of what is behind it.
    let is_ways = matches!(end, End::Failed(_)) && way.as_ref().is_some_and(Way::is_to_blame);
    slot(story.docket(), order.authority.key(), &sent);
    let (noted, ways) = (&sent, escapes || is_ways);
    story.docket().ended(|| Ended { is_ways: ways, ..ended(noted, number, started) });
    let asked = sent.as_ref().ok().filter(|_| is_heard && !escapes).and_then(|sent| {
        let (status, fields) = (sent.response.status().as_u16(), sent.response.headers());
        let (cooldowns, subject) = subject.as_ref()?;
        cooldowns.hear(subject, status, fields)
    });
    let parent = way.as_ref().and_then(|way| way.parent.as_ref());
    story.attempted(api, end, parent.map(|parent| &**parent));
    let parent = parent.map(Arc::clone);
    if let Some(way) = way {
        way.record(facts);
    }
    if let Some(pass) = pass {
        let end = if is_ways { End::Neutral } else { end };
        pass.record(Facts { end, ..facts }).await;
    }
    let asked = asked.or_else(|| {
        let sent = sent.as_ref().ok().filter(|_| api.retry.is_some() && !escapes)?;
        cooldown::asked(sent.response.status().as_u16(), sent.response.headers())
    });
    tell(order, api, number, &sent, end);
    Tried { sent, end, asked, parent }
}

/// What an attempt took along: from the breaker, by which way it went, for whom the cool-down holds and
/// whether it hears the answer.
type Passed<'a> = (Option<Pass<'a>>, Option<Way>, Option<(&'a CoolDowns, Subject)>, bool);

/// What an attempt takes along that may be made.
struct Entered<'a> {
    pass: Option<Pass<'a>>,
    /// Whether the cool-down hears its answer: an attempt that it would have held back does not count.
    is_heard: bool,
    way: Option<Way>,
}

/// Asks the gates, in this order.
async fn enter<'a>(
    api: &'a Api,
    host: &'a HostKey,
    subject: Option<&(&CoolDowns, Subject)>,
    asked: Asked<'_>,
    until: Option<Instant>,
    docket: &mut Docket,
) -> Result<Entered<'a>, Halt> {
    let decided = api.counts.decided();
    let pass = match &api.breakers {
        Some(breakers) => {
            let ruling = of_breaker(breakers, host, docket);
            docket.obey(decided, &ruling, breakers.enter(host).await)?
        }
        None => None,
    };
    let mut is_heard = true;
    if let Some((cooldowns, subject)) = subject {
        let (rule, mode) = (Rule::CoolDown(0), cooldowns.mode());
        let name = Shown(|| cooldowns.name_of(subject));
        let ruling = Ruling { rule, mode, key: &name, value: None, limit: None };
        is_heard = docket.obey(decided, &ruling, cooldowns.enter(subject, until))?.is_some();
        if !is_heard {
            subject.goes_on();
        }
    }
    let way = match &api.parents {
        Some(parents) => {
            // Without a parent there is no way that would be one: it is always obeyed.
            let (rule, mode) = (Rule::Parents, Mode::Enforce);
            let ruling = Ruling { rule, mode, key: host, value: None, limit: None };
            docket.obey(decided, &ruling, parents.choose(asked))?
        }
        None => None,
    };
    Ok(Entered { pass, is_heard, way })
}

/// What a breaker's ruling goes by; its numbers, if they are written down.
fn of_breaker<'a>(breakers: &Breakers, host: &'a HostKey, docket: &Docket) -> Ruling<'a> {
    let (mode, limit) = (breakers.mode(), breakers.threshold().map(u64::from));
    let value = docket.is_on().then(|| breakers.failures(host).into());
    Ruling { rule: Rule::Breaker, mode, key: host, value, limit }
}

/// Waits for a gate, if there is time for that.
async fn wait(
    order: &Order<'_>,
    api: &Api,
    refusal: Refusal,
    subject: Option<&(&CoolDowns, Subject)>,
    until: Option<Instant>,
    docket: &mut Docket,
) -> Result<(), Failed> {
    if let (Rule::CoolDown(_), Some((cooldowns, subject))) = (refusal.rule, subject) {
        // It has looked at the time, and may be over sooner or later than it said.
        return order.client.unless_left(cooldowns.wait(subject)).await.ok_or(Failed::Left);
    }
    let open = clock::now().checked_add(refusal.left.max(SHORTEST));
    let Some(open) = open.filter(|open| until.is_some_and(|until| *open <= until)) else {
        let (rule, key) = (refusal.rule, order.authority.key());
        let ruling = Ruling { rule, mode: Mode::Enforce, key, value: None, limit: None };
        let decision: Decision<()> = Decision::Refuse(refusal);
        drop(docket.obey(api.counts.decided(), &ruling, decision));
        return Err(Reject::Policy(refusal).into());
    };
    let waiting = tokio::time::sleep_until(open);
    order.client.unless_left(waiting).await.ok_or(Failed::Left)
}

/// Tells of an attempt that failed.
fn tell(order: &Order<'_>, api: &Api, attempt: u32, sent: &Result<Sent, SendError>, end: End) {
    let (End::Failed(cause), Err(error)) = (end, sent) else { return };
    let (api, failures) = (&**api.name(), &api.failures);
    let (host, cause_name) = (order.authority.key().as_str(), cause.as_str());
    if let Some(count) = failures.note(cause, clock::now()) {
        tracing::warn!(api, host, attempt, cause = cause_name, count, %error, "attempt failed");
    } else {
        tracing::debug!(api, host, attempt, cause = cause_name, %error, "attempt failed");
    }
}

/// Why a request got no response, the client's own fault named as exactly as it is known.
fn unsent(error: SendError, client: &Asker, thread: &Thread) -> Reject {
    match (&error, client.broken()) {
        (SendError::Exchange(ExchangeError::Request), Some(malformed)) => {
            let flaw = Flaw::from(malformed);
            if let Some(bound) = flaw.bound() {
                thread.cells.bounded(bound);
            }
            Reject::Flaw(flaw)
        }
        _ => error.into(),
    }
}
