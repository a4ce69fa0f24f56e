//! SIGTERM and SIGINT: the first asks for a stop, the second is not to be argued with. SIGHUP asks
//! that the settings be read again.

use std::fmt;
use std::io;
use std::sync::mpsc;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Read the settings again.
    Hangup,
    Interrupt,
    Terminate,
}

impl Signal {
    /// What a shell reports for a process that this signal killed: 128 and its number.
    fn exit_code(self) -> i32 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Listens from now on, on a thread of its own: what comes up to the first signal that ends comes
/// out of the channel, a second one ends the process at once, whatever the stop is waiting for.
pub(crate) fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(inside);
    let (sender, first) = mpsc::channel();
    let mut next = async move || {
        tokio::select! {
            _ = hangup.recv() => Signal::Hangup,
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
        }
    };
    std::thread::Builder::new().name("narrows-signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut is_stopping = false;
            loop {
                let signal = next().await;
                match signal {
                    Signal::Interrupt | Signal::Terminate if is_stopping => end(signal),
                    Signal::Interrupt | Signal::Terminate => is_stopping = true,
                    Signal::Hangup => {}
                }
                if sender.send(signal).is_err() {
                    tracing::debug!(%signal, "nobody waits for a signal any more");
                }
            }
        });
    })?;
    Ok(first)
}

#[expect(clippy::exit, reason = "a second signal asks for just that")]
fn end(signal: Signal) {
    tracing::warn!(%signal, "second signal: ending at once");
    std::process::exit(signal.exit_code());
}
