//! Which fleets are walked through, how far, and the mutants that must be found.

use std::time::Duration;
use std::time::Instant;

use stateright::Checker;
use stateright::Model;

use super::Mutant;
use super::fleet::Faults;
use super::fleet::Fleet;

#[test]
fn trial() {
    let depth = std::env::var("DEPTH").map_or(0, |text| text.parse().unwrap());
    let f: Vec<u8> = std::env::var("FAULTS").unwrap().bytes().map(|b| b - b'0').collect();
    let faults =
        Faults { breaks: f[0], pauses: f[1], restarts: f[2], flushes: f[3], failovers: f[4] };
    let n = std::env::var("N").map_or(2, |text| text.parse().unwrap());
    let cap = std::env::var("CAP").map_or(1, |text| text.parse().unwrap());
    let mut fleet = Fleet::new(n, cap, faults);
    if let Ok(m) = std::env::var("MUTANT") {
        let all = [
            Mutant::ForcedLate,
            Mutant::ForcedReentry,
            Mutant::ForcedDebt,
            Mutant::GiveBackBeforeLowering,
            Mutant::LateAck,
            Mutant::LeaseByHello,
            Mutant::NoFence,
            Mutant::NoLearning,
        ];
        fleet = fleet.mutant(all.into_iter().find(|x| format!("{x:?}") == m).unwrap());
    }
    if let Ok(m) = std::env::var("SLACK") {
        fleet.rules.slack = m.parse().unwrap();
    }
    if std::env::var("POLLS").is_ok() {
        fleet.rules.polls = true;
    }
    if std::env::var("ASK").is_ok() {
        fleet.rules.may_wait = false;
    }
    let mut checker = fleet.checker().threads(2);
    if depth > 0 {
        checker = checker.target_max_depth(depth);
    }
    let start = Instant::now();
    let checker = checker
        .timeout(Duration::from_secs(std::env::var("SECS").map_or(60, |t| t.parse().unwrap())))
        .spawn_bfs()
        .join();
    println!(
        "{} unique {} depth {} done {} {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        checker.is_done(),
        start.elapsed()
    );
    for (name, path) in checker.discoveries() {
        let n = path.clone().into_actions().len();
        println!("== {name} {n}");
        if !name.starts_with("a ") && !name.starts_with("every") {
            if std::env::var("FULL").is_ok() {
                for (state, action) in path.clone().into_vec() {
                    println!("   {state:?}\n  -> {action:?}");
                }
            }
            println!("{:?}", path.into_actions());
        }
    }
}
