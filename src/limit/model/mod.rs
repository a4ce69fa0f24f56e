//! How the fleet's limiter is checked: by a model of it that a machine walks through, and by the
//! scripts of `lua/` held against that model. Tests alone; nothing here is part of the program.
//!
//! - [`redis`]: the scripts as a pure state machine.
//! - `against_lua`: random messages to the real scripts in a real Redis, and to that machine.
//! - [`worker`]: one instance: the program's own [`super::protocol::Session`] and
//!   [`super::host::Host`], with what the worker of [`super::shared`] does between them.
//! - [`fleet`]: instances, connections, clock and faults, as a model for a checker.
//! - `simulation`: the program's own limiter on simulated hosts, under faults drawn from seeds.
//! - `check`: which fleets are walked through, and the mutants that must be found.

mod against_lua;
mod check;
mod fleet;
mod redis;
mod simulation;
mod worker;

use std::str::FromStr;

/// What `scripts/model` and who hunts for something says in the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "it is of tests alone, and no setting of the program"
)]
fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    let Ok(text) = std::env::var(format!("MODEL_{name}")) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("MODEL_{name}={text}"))
}

/// A rule that is left out, so that the model has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mutant {
    /// What an instance says after a hello that vouched for its slots is taken as it is, although
    /// Redis has ceased to learn.
    ForcedLate,
    /// Whoever says hello is believed.
    ForcedReentry,
    /// What is open without a slot is vouched for with the rest.
    ForcedDebt,
    /// A slot is used until Redis has heard that it is given back.
    GiveBackBeforeLowering,
    /// The lease is counted from the answer.
    LateAck,
    /// Messages of any epoch are heard.
    NoFence,
    /// A Redis that lost its data grants at once.
    NoLearning,
}
