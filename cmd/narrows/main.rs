//! The `narrows` program: settings in, a proxy until a signal, an exit code out.
//!
//! Nothing of the proxy is here. Exit codes: 0 after a stop as asked, 1 if it could not start or
//! go on, 2 for bad settings, 130 and 143 when a second signal cut the stop short.

mod bench;
mod health;
mod key;
mod limits;
mod passwd;
mod redis;
mod replay;
mod signals;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use narrows::app::App;
use narrows::config;
use narrows::config::Command;
use narrows::config::Config;
use narrows::config::Serve;
use narrows::telemetry::trace;

use self::signals::Signal;

// PERF: connections come and go on every core; the system's allocator would make them wait for
// each other, and keep what idle tunnels had used at their birth.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    let command = match Config::read(std::env::args_os(), config::environment()) {
        Ok(command) => command,
        Err(problems) => {
            complain(&problems.to_string());
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    let done = match command {
        Command::Bench(bench) => bench::run(&bench).map(|text| say(&text)),
        Command::Health(health) => health::ask(&health),
        Command::Key(wanted) => key::line(&wanted).map(|text| say(&text)),
        Command::Limits(limits) => limits::run(&limits).map(|text| say(&text)),
        Command::Passwd(passwd) => passwd::line(&passwd).map(|text| say(&text)),
        Command::Replay(replay) => replay::run(&replay).map(|text| say(&text)),
        Command::RedisCheck(check) => match redis::check(&check) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Say(text) => {
            say(text.trim_end());
            Ok(())
        }
        Command::Serve(serve) => self::serve(*serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("narrows: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(Serve { config, warnings, sources }: Serve) -> anyhow::Result<()> {
    trace::init(&config.trace);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    // Before anything is started, so that no signal finds nobody at home.
    let signals = signals::listen().context("cannot listen for signals")?;
    let shutdown_timeout = config.shutdown_timeout;
    let app = App::new(config)?;
    let file = sources.file().map(Path::to_owned);
    app.reread_by(move || {
        let Serve { config, warnings, .. } = sources.read()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(config)
    });
    app.start()?;
    if let Some(file) = file {
        app.watch(&file)?;
    }
    let admin = app.admin_addr().map_or_else(|| "off".to_owned(), |address| address.to_string());
    let listeners: Vec<String> = app.listeners().iter().map(ToString::to_string).collect();
    let proxy = listeners.join(",");
    say(&format!("narrows ready proxy={proxy} admin={admin}"));

    let signal = loop {
        match signals.recv().context("nobody listens for signals any more")? {
            Signal::Hangup => {
                tracing::info!("reading the settings again, as SIGHUP asks for");
                app.reopen_logs();
                // What came of it has been told.
                let _told = app.reread();
            }
            signal @ (Signal::Interrupt | Signal::Terminate) => break signal,
        }
    };
    tracing::info!(%signal, ?shutdown_timeout, "stopping");
    let stopped = app.stop(shutdown_timeout);
    tracing::info!(?stopped, "stopped");
    Ok(())
}

/// Writes a line to standard output. That nobody may be reading there is no reason not to go on.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        tracing::warn!(%error, "cannot write to standard output");
    }
}

fn complain(text: &str) {
    if writeln!(std::io::stderr(), "{text}").is_err() {
        // There is no further place to say so; the exit code tells.
    }
}
