//! `narrows bench limiter`: prints what the library measures.

use anyhow::Context;
use narrows::config::Bench;

use super::signals;

/// What to say when it is done.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let signals = signals::listen().context("cannot listen for signals")?;
    let stop = async {
        let signal = tokio::task::spawn_blocking(move || signals.recv()).await;
        if !matches!(signal, Ok(Ok(_))) {
            // Nobody listens for signals any more: there is nothing to stop for.
            std::future::pending::<()>().await;
        }
    };
    let tell = |what: &str| {
        if !bench.json {
            super::complain(&format!("measuring {what} ..."));
        }
    };
    let measured = runtime.block_on(narrows::bench::run(&bench.settings, tell, stop));
    // The thread that waits for a signal may go on waiting.
    runtime.shutdown_background();
    let report = measured?;
    Ok(if bench.json { report.to_json().to_string() } else { report.to_string() })
}
