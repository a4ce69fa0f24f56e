//! Which fleets are walked through, how far, and the mutants that must be found.
//!
//! `scripts/model` walks further; how far each walk has been, and how many states that were, stands
//! in ARCHITECTURE.md.

use std::time::Duration;

use stateright::Checker;
use stateright::HasDiscoveries;
use stateright::Model;

use super::Mutant;
use super::fleet::Faults;
use super::fleet::Fleet;
use super::setting;
use crate::base::clock;

const NONE: Faults = Faults { breaks: 0, pauses: 0, restarts: 0, flushes: 0, failovers: 0 };
const BREAK: Faults = Faults { breaks: 1, ..NONE };
const PAUSE: Faults = Faults { pauses: 1, ..NONE };
const RESTART: Faults = Faults { restarts: 1, ..NONE };
const FLUSH: Faults = Faults { flushes: 1, ..NONE };
const FAIL_OVER: Faults = Faults { failovers: 1, ..NONE };

/// Walks through all that can happen, or as deep as is said, and asserts that nothing breaks. A
/// walk to the end must also reach what is to be reachable.
fn walk(fleet: Fleet, depth: Option<usize>, time: Duration) {
    let name = format!("{fleet:?}");
    let start = clock::now();
    let mut checker =
        fleet.checker().threads(2).timeout(time).finish_when(HasDiscoveries::AnyFailures);
    if let Some(depth) = depth {
        checker = checker.target_max_depth(depth);
    }
    let checker = checker.spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps deep, {:.1?}{}",
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed(),
        if start.elapsed() < time { "" } else { ", not to the end" },
    );
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        if property.expectation.discovery_is_failure() {
            let trace = found.map(stateright::Path::into_actions);
            assert!(trace.is_none(), "{name}: {}: {trace:?}", property.name);
        } else if depth.is_none() && start.elapsed() < time {
            assert!(found.is_some(), "{name}: never {}", property.name);
        }
    }
}

/// A mutant is found, whatever it breaks first.
fn dies(mutant: Mutant, faults: Faults) {
    let checker = Fleet::new(2, 1, faults).mutant(mutant).checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (broken, path) = checker
        .discoveries()
        .into_iter()
        .find(|(name, _)| checker.model().property(name).expectation.discovery_is_failure())
        .unwrap_or_else(|| panic!("{mutant:?} lives"));
    let states = checker.unique_state_count();
    println!("{mutant:?}: {broken}: {states} states, {:?}", path.into_actions());
}

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn without_faults_nothing_is_opened_past_the_limit() {
    walk(Fleet::new(2, 1, NONE), None, MINUTE);
}

#[test]
fn nor_when_a_connection_breaks_and_its_messages_come_late() {
    walk(Fleet::new(2, 1, BREAK), None, MINUTE);
}

#[test]
fn nor_when_an_instance_stops_and_comes_back() {
    walk(Fleet::new(2, 1, PAUSE), None, MINUTE);
}

#[test]
fn nor_when_redis_loses_its_data() {
    walk(Fleet::new(2, 1, RESTART), None, MINUTE);
    walk(Fleet::new(2, 1, FLUSH), None, MINUTE);
}

#[test]
fn nor_when_a_replica_takes_over_that_lacks_the_last_writes() {
    walk(Fleet::new(2, 1, FAIL_OVER), Some(26), MINUTE);
}

#[test]
fn nor_by_any_two_faults() {
    let all = [BREAK, PAUSE, RESTART, FLUSH, FAIL_OVER];
    for (index, first) in all.into_iter().enumerate() {
        for second in &all[index..] {
            walk(Fleet::new(2, 1, first.and(*second)), Some(12), MINUTE);
        }
    }
}

#[test]
fn nor_with_three_instances() {
    walk(Fleet::new(3, 1, NONE), None, MINUTE);
    walk(Fleet::new(3, 1, every_fault()), Some(7), MINUTE);
}

#[test]
fn nor_with_more_slots_than_one() {
    walk(Fleet::new(2, 2, NONE), None, MINUTE);
    walk(Fleet::new(2, 2, every_fault()), Some(8), MINUTE);
    walk(Fleet::new(3, 2, every_fault()), Some(6), MINUTE);
    walk(Fleet::new(2, 4, PAUSE).slack(2), Some(15), MINUTE);
}

#[test]
fn nor_where_nobody_has_time_to_wait() {
    walk(Fleet::new(2, 1, PAUSE).impatient(), None, MINUTE);
}

fn every_fault() -> Faults {
    [BREAK, PAUSE, RESTART, FAIL_OVER].into_iter().fold(NONE, Faults::and)
}

#[test]
fn a_mutant_without_the_fence_is_found() {
    dies(Mutant::NoFence, PAUSE);
}

#[test]
fn a_mutant_that_does_not_learn_is_found() {
    dies(Mutant::NoLearning, RESTART);
}

#[test]
fn a_mutant_that_gives_back_what_it_still_uses_is_found() {
    dies(Mutant::GiveBackBeforeLowering, NONE);
}

#[test]
fn a_mutant_that_believes_whoever_comes_back_is_found() {
    dies(Mutant::ForcedReentry, PAUSE.and(RESTART));
}

#[test]
fn a_mutant_that_counts_its_lease_from_the_answer_is_found() {
    dies(Mutant::LateAck, PAUSE);
}

#[test]
fn a_mutant_that_vouches_for_its_debt_is_found() {
    dies(Mutant::ForcedDebt, PAUSE.and(RESTART));
}

#[test]
fn a_mutant_that_takes_for_granted_what_is_vouched_for_too_late_is_found() {
    dies(Mutant::ForcedLate, PAUSE.and(RESTART));
}

/// What `scripts/model` runs: one walk as its environment says.
#[test]
#[ignore = "walks for as long as one likes"]
fn as_far_as_one_likes() {
    let faults = Faults {
        breaks: setting("BREAKS", 0),
        pauses: setting("PAUSES", 0),
        restarts: setting("RESTARTS", 0),
        flushes: setting("FLUSHES", 0),
        failovers: setting("FAILOVERS", 0),
    };
    let mut fleet = Fleet::new(setting("INSTANCES", 2), setting("LIMIT", 1), faults);
    fleet.rules.slack = setting("SLACK", 0);
    fleet.rules.may_wait = setting("WAIT", true);
    fleet.rules.polls = setting("POLLS", false);
    let depth = Some(setting("DEPTH", 0)).filter(|depth| *depth > 0);
    walk(fleet, depth, Duration::from_secs(setting("SECONDS", 3600)));
}
