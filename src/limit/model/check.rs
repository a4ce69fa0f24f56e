//! Which fleets are walked through, how far, and the mutants that must be found.

use std::time::Duration;
use std::time::Instant;

use stateright::Checker;
use stateright::Model;

use super::Mutant;
use super::fleet::Faults;
use super::fleet::Fleet;

const BREAK: Faults = Faults { breaks: 1, pauses: 0, restarts: 0, flushes: 0, failovers: 0 };
const PAUSE: Faults = Faults { breaks: 0, pauses: 1, restarts: 0, flushes: 0, failovers: 0 };

#[test]
fn trial() {
    let depth = std::env::var("DEPTH").map_or(0, |text| text.parse().unwrap());
    let f: Vec<u8> = std::env::var("FAULTS").unwrap().bytes().map(|b| b - b'0').collect();
    let faults = Faults { breaks: f[0], pauses: f[1], restarts: f[2], flushes: f[3], failovers: f[4] };
    let fleet = Fleet::new(2, 1, faults);
    let mut checker = fleet.checker().threads(2);
    if depth > 0 { checker = checker.target_max_depth(depth); }
    let start = Instant::now();
    let checker = checker.timeout(Duration::from_secs(100)).spawn_bfs().join();
    println!("{} unique {} depth {} done {} {:?}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), checker.is_done(), start.elapsed());
    for (name, path) in checker.discoveries() {
        println!("== {name}");
        if !name.starts_with("a ") && !name.starts_with("every") {
            for (state, action) in path.clone().into_vec() { println!("   {state:?}\n  -> {action:?}"); }
        }
        println!("{:?}", path.into_actions());
    }
}
