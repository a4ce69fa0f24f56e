//! One host alone, step by step.

use super::*;
use crate::limit::host::state::Hopes;
use crate::store::scripts::Short;

const LEASED: Basis = Basis::Granted { leased: true, slack: 0, instances: 2 };
const LAVISH: Basis = Basis::Granted { leased: true, slack: 8, instances: 2 };
const AWAY: Basis = Basis::Away { leased: true };

fn host() -> Host {
    Host::new(HostKey::parse("a.test").unwrap(), 0, 1, Arc::default(), true)
}

/// Asks for a slot, to wait for one if it must.
fn ask(host: &Host, basis: Basis, limit: Limit, may_wait: bool) -> Option<Ticket> {
    let identity = &Identity::Anonymous;
    let asker = Asker { identity, weight: 1, may_wait, seats: 10 };
    match host.enter(basis, 0, || Ruling { limit, term: 7 }, asker) {
        Entry::Wait(ticket, _) => Some(ticket),
        Entry::Slot { .. } => None,
        Entry::Refused(reason) => panic!("refused: {reason:?}"),
    }
}

fn claim(hold: u32, heard: u32, ask: u32, wait: u32, limit: Limit) -> Claim {
    Claim { hold, heard, ask, wait, limit, term: 7, ..Claim::default() }
}

fn answer(host: &Host, answer: Granted) -> Again {
    let (mut due, again) = host.answered(answer, LEASED);
    assert_eq!(due.tell(), 0);
    again
}

fn grant(host: &Host, here: u32, total: u32) -> Again {
    answer(host, Granted { here, total, short: None })
}

/// An answer that somebody went short of slots.
fn short(host: &Host, here: u32, total: u32, queued: u32, others: u32) -> Again {
    let short = Short { queued, others, limit: total, instances: 2, ..Short::default() };
    answer(host, Granted { here, total, short: Some(short) })
}

fn told(ticket: &mut Ticket) -> Option<Verdict> {
    ticket.verdict.try_recv().ok()
}

/// A host with this many connections on granted slots.
fn open(host: &Host, count: u32, limit: Limit) {
    let mut tickets: Vec<_> = (0..count).filter_map(|_| ask(host, LEASED, limit, false)).collect();
    assert_eq!(host.plan(), Some(claim(0, 0, count, 0, limit)));
    assert_eq!(grant(host, count, count), Again::No);
    assert!(tickets.iter_mut().all(|ticket| told(ticket) == Some(Verdict::Slot)));
}

#[test]
fn one_message_asks_for_all_who_wait_and_none_follows_before_its_answer() {
    let host = host();
    let mut tickets = [ask(&host, LEASED, 5, false), ask(&host, LEASED, 5, false)];
    assert_eq!(host.plan(), Some(claim(0, 0, 2, 0, 5)));
    let mut late = ask(&host, LEASED, 5, false).unwrap();
    assert_eq!(host.plan(), None);
    short(&host, 1, 5, 0, 0);
    assert_eq!(told(tickets[0].as_mut().unwrap()), Some(Verdict::Slot));
    assert_eq!(told(tickets[1].as_mut().unwrap()), Some(Verdict::Refused(Reason::Full)));
    assert_eq!(told(&mut late), None, "who came later was not asked for yet");
    assert_eq!(host.plan(), Some(claim(1, 1, 1, 0, 5)));
}

#[test]
fn who_has_a_place_in_the_queue_is_not_asked_for_again() {
    let host = host();
    let mut patient = ask(&host, LEASED, 1, true).unwrap();
    assert_eq!(host.plan(), Some(claim(0, 0, 0, 1, 1)));
    assert_eq!(short(&host, 0, 1, 1, 0), Again::Waiting);
    assert_eq!(host.plan(), None);
    assert!(host.served().speak, "but for a hint");
    assert_eq!(host.plan(), Some(claim(0, 0, 0, 1, 1)));
    grant(&host, 1, 1);
    assert_eq!(told(&mut patient), Some(Verdict::Slot));
}

#[test]
fn who_leaves_the_queue_is_taken_off_it() {
    let host = host();
    let ticket = ask(&host, LEASED, 1, true).unwrap();
    host.plan();
    short(&host, 0, 1, 1, 0);
    assert!(host.leave(&ticket.place, LEASED).speak);
    assert_eq!(host.plan(), Some(claim(0, 0, 0, 0, 1)));
    grant(&host, 0, 1);
    assert!(host.is_vacant());
}

#[test]
fn while_others_wait_a_freed_slot_is_theirs_beyond_the_fair_share() {
    let cases = [(4, 1, true), (4, 2, true), (4, 3, false), (1, 1, false)];
    for (limit, open_here, stays) in cases {
        let host = host();
        open(&host, open_here, limit);
        let mut waiting = ask(&host, LEASED, limit, true).unwrap();
        host.plan();
        short(&host, open_here, limit, 1, 1);
        host.release(LEASED).tell();
        assert_eq!(told(&mut waiting).is_some(), stays, "{open_here} of {limit} among two");
        let hold = if stays { open_here } else { open_here - 1 };
        assert_eq!(host.plan(), Some(claim(hold, open_here, 0, u32::from(!stays), limit)));
    }
}

#[test]
fn a_limit_comes_with_its_term() {
    let host = host();
    open(&host, 1, 5);
    host.limit_changed(LEASED, 1, Ruling { limit: 4, term: 8 });
    let Some(Claim { limit, term, .. }) = host.plan() else { panic!("nothing said") };
    assert_eq!((limit, term), (4, 8));
}

#[test]
fn the_limit_that_redis_tells_holds() {
    let host = host();
    let mut tickets = [ask(&host, LEASED, 5, false), ask(&host, LEASED, 5, false)];
    host.plan();
    let short = Short { limit: 1, ..Short::default() };
    answer(&host, Granted { here: 1, total: 1, short: Some(short) });
    assert_eq!(
        tickets.each_mut().map(|ticket| told(ticket.as_mut().unwrap())),
        [Some(Verdict::Slot), Some(Verdict::Refused(Reason::Full))]
    );
    assert_eq!(host.in_use(true), (1, 1));
}

#[test]
fn an_unlimited_host_passes_at_once_when_redis_has_agreed() {
    let host = host();
    let mut first = ask(&host, LEASED, 0, false).unwrap();
    assert_eq!(host.plan(), Some(claim(0, 0, 1, 0, 0)));
    grant(&host, 1, 1);
    assert_eq!(told(&mut first), Some(Verdict::Slot));
    assert!(ask(&host, LEASED, 0, false).is_none());
    assert_eq!(host.plan(), Some(claim(2, 1, 0, 0, 0)));
}

#[test]
fn a_slot_that_comes_free_is_lowered_here_before_redis_hears_of_it() {
    let host = host();
    open(&host, 2, 5);
    assert!(host.release(LEASED).speak);
    assert_eq!(host.plan(), Some(claim(1, 2, 0, 0, 5)));
    assert!(ask(&host, LEASED, 5, false).is_some(), "the slot is given back already");
}

#[test]
fn without_a_lease_a_granted_slot_opens_nothing() {
    let host = host();
    open(&host, 1, 5);
    host.release(LEASED);
    let unleased = Basis::Granted { leased: false, slack: 0, instances: 2 };
    assert!(ask(&host, unleased, 5, false).is_some());
}

#[test]
fn what_a_lost_message_may_have_taken_is_given_back() {
    let host = host();
    let ticket = ask(&host, LEASED, 5, false).unwrap();
    assert!(host.plan().is_some());
    host.leave(&ticket.place, LEASED);
    host.lost(AWAY, true);
    assert!(!host.is_vacant());
    for keep in [true, false] {
        assert_eq!(host.reassert(keep), Some(claim(0, 0, 0, 0, 5)));
    }
    grant(&host, 0, 0);
    assert_eq!(host.reassert(true), None);
    assert!(host.is_vacant());
}

#[test]
fn what_a_lost_message_gave_back_is_given_back_again() {
    let host = host();
    open(&host, 1, 5);
    host.release(LEASED);
    assert!(host.plan().is_some());
    host.lost(AWAY, true);
    assert_eq!(host.reassert(true), Some(claim(0, 0, 0, 0, 5)));
}

#[test]
fn a_vouched_re_assert_names_what_is_open_and_refuses_nobody() {
    let host = host();
    open(&host, 1, 2);
    let mut waiting = ask(&host, LEASED, 2, false).unwrap();
    assert_eq!(host.plan(), Some(claim(1, 1, 1, 0, 2)));
    // The connection breaks; the next hello vouches for what is open.
    assert_eq!(host.reassert(true), Some(claim(1, 0, 0, 0, 2)));
    let (due, again) = host.answered(Granted { here: 1, total: 1, short: None }, LEASED);
    assert!(due.speak, "who waits is asked for next");
    assert_eq!((told(&mut waiting), again), (None, Again::Waiting));
    assert_eq!(host.plan(), Some(claim(1, 1, 1, 0, 2)));
    grant(&host, 2, 2);
    assert_eq!(told(&mut waiting), Some(Verdict::Slot));
}

#[test]
fn an_admitted_re_assert_opens_nothing_until_what_is_open_fits() {
    let host = host();
    open(&host, 2, 2);
    assert_eq!(host.reassert(false), Some(claim(2, 0, 0, 0, 2)));
    assert_eq!(short(&host, 1, 2, 0, 0), Again::Debt);
    assert_eq!(host.plan(), Some(claim(2, 1, 0, 0, 2)), "it is queued for");
    short(&host, 1, 2, 1, 0);
    assert_eq!(host.plan(), None);
    // Nor does a later hello that is vouched for make a grant of it.
    assert_eq!(host.reassert(true), Some(claim(2, 0, 0, 0, 2)));
    short(&host, 2, 3, 0, 0);
    host.release(LEASED);
    assert_eq!(host.plan(), Some(claim(1, 2, 0, 0, 2)), "it goes back");
    assert!(ask(&host, LEASED, 2, true).is_some());
}

#[test]
fn while_redis_learns_nobody_is_refused() {
    let host = host();
    let mut ticket = ask(&host, LEASED, 2, false).unwrap();
    host.plan();
    let learning = Some(Duration::from_secs(1));
    let short = Short { learning, limit: 2, ..Short::default() };
    assert_eq!(answer(&host, Granted { here: 0, total: 0, short: Some(short) }), Again::Waiting);
    assert_eq!(told(&mut ticket), None);
    assert!(host.poll().speak);
    assert!(host.plan().is_some());
    grant(&host, 1, 1);
    assert_eq!(told(&mut ticket), Some(Verdict::Slot));
}

#[test]
fn a_loss_sends_those_away_who_wait_for_an_answer_and_all_if_told_so() {
    for (refuse, stays) in [(false, true), (true, false)] {
        let host = host();
        let mut quick = ask(&host, LEASED, 2, false).unwrap();
        let mut patient = ask(&host, LEASED, 2, true).unwrap();
        let basis = Basis::Share { instances: 9 };
        assert_eq!(host.lost(basis, refuse).tell(), 0);
        assert_eq!(told(&mut quick), Some(Verdict::Refused(Reason::Away)));
        assert_eq!(told(&mut patient).is_none(), stays);
    }
}

#[test]
fn in_memory_nothing_is_listed_for_redis() {
    let host = host();
    assert!(ask(&host, Basis::Local, 1, true).is_none());
    let ticket = ask(&host, Basis::Local, 1, true).unwrap();
    assert!(!host.limit_changed(Basis::Local, 1, Ruling { limit: 1, term: 8 }).speak);
    host.leave(&ticket.place, Basis::Local);
    host.release(Basis::Local);
    assert!(host.is_vacant());
}

/// A host of limit 100 that has come to hold slots ahead of need.
fn lavish() -> Host {
    let host = host();
    let mut first = ask(&host, LAVISH, 100, false).unwrap();
    assert_eq!(host.plan().unwrap().slack, 0, "most hosts are met once");
    host.answered(Granted { here: 1, total: 1, short: None }, LAVISH).0.tell();
    assert_eq!(told(&mut first), Some(Verdict::Slot));
    let mut second = ask(&host, LAVISH, 100, false).unwrap();
    assert_eq!(host.plan().unwrap().slack, 8);
    host.answered(Granted { here: 10, total: 10, short: None }, LAVISH).0.tell();
    assert_eq!(told(&mut second), Some(Verdict::Slot));
    host
}

#[test]
fn slots_held_ahead_of_need_pass_without_a_word_to_redis() {
    let host = lavish();
    for _ in 0..4 {
        assert!(ask(&host, LAVISH, 100, false).is_none());
        assert_eq!(host.plan(), None);
    }
    for _ in 0..4 {
        assert!(!host.release(LAVISH).speak);
    }
    assert_eq!(host.plan(), None);
}

#[test]
fn what_nobody_needed_for_a_while_goes_back() {
    let host = lavish();
    host.look();
    assert!(ask(&host, LAVISH, 100, false).is_none());
    host.release(LAVISH);
    let (due, _) = host.look();
    assert!(due.speak);
    assert_eq!(host.plan().unwrap().hold, 3, "two are open, and one was of use");
    host.answered(Granted { here: 3, total: 3, short: None }, LAVISH).0.tell();
    host.release(LAVISH);
    host.release(LAVISH);
    host.look();
    let hold = host.plan().unwrap().hold;
    host.answered(Granted { here: hold, total: hold, short: None }, LAVISH).0.tell();
    host.look();
    assert_eq!(host.plan().unwrap().hold, 0);
}

#[test]
fn a_recall_takes_what_is_unused_at_once() {
    let host = lavish();
    assert!(host.recalled(3).speak);
    let claim = host.plan().unwrap();
    assert_eq!((claim.hold, claim.spare, claim.slack), (2, 0, 0));
    assert!(host.is_wanted(), "what begins to idle yields, too");
}

#[test]
fn who_has_no_time_waits_a_moment_for_what_others_hold_unused() {
    let host = host();
    let mut ticket = ask(&host, LEASED, 5, false).unwrap();
    host.plan();
    let short = Short { limit: 5, unused: 3, ..Short::default() };
    let again = answer(&host, Granted { here: 0, total: 5, short: Some(short) });
    assert_eq!((again, told(&mut ticket)), (Again::Brief, None));
    assert_eq!(host.plan(), Some(claim(0, 0, 0, 1, 5)));
    let again =
        answer(&host, Granted { here: 0, total: 5, short: Some(Short { queued: 1, ..short }) });
    assert_eq!(again, Again::Brief);
    std::thread::sleep(BRIEF);
    host.look().0.tell();
    assert_eq!(told(&mut ticket), Some(Verdict::Refused(Reason::Full)));
}

/// For the model checker, which looks at each host from without and goes on from copies.
impl Host {
    /// The same host once more. Who waits there waits there too, but cannot be told anything.
    pub(crate) fn fork(&self) -> Self {
        let counters = Arc::clone(&self.counters);
        let host = Self::new(self.key.clone(), self.shard, self.idle.len(), counters, self.named);
        *host.lock() = self.lock().clone();
        host.count_waiting(&host.lock());
        host
    }

    /// All that later steps depend on, but for clocks and slack.
    pub(crate) fn fingerprint(&self) -> impl std::hash::Hash + use<> {
        let state = self.lock();
        let Hopes { queued, asking, unasked, brief } = state.hopes;
        (
            (state.open, state.granted, state.heard, state.recorded, state.queued, state.limit),
            (state.is_free, state.is_starved(), state.is_polled, state.outstanding, state.listed),
            (queued, asking, unasked, brief, state.instances),
            (state.slack > 0).then_some((
                state.total,
                state.fleet,
                state.low,
                state.trim,
                state.is_low,
            )),
        )
    }

    /// Some time has passed: that others were short of slots is forgotten.
    pub(crate) fn calm(&self) {
        self.starve(&mut self.lock(), false);
    }

    /// Breaks what the model must notice.
    pub(crate) fn set_granted(&self, granted: u32) {
        self.lock().granted = granted;
    }
}
