//! `narrows replay`: prints what the library finds in a decision log.

use narrows::config::Replay;

/// What to say when it is done; lines that are none of a log are complained of meanwhile.
pub(crate) fn run(replay: &Replay) -> anyhow::Result<String> {
    let report = narrows::replay::run(&replay.settings, super::complain)?;
    Ok(if replay.json { format!("{:#}", report.to_json()) } else { report.to_string() })
}
