//! SIGTERM and SIGINT: the first asks for a stop, the second is not to be argued with.

use std::fmt;
use std::io;
use std::sync::mpsc;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// A signal that ends narrows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// What a shell reports for a process that this signal killed: 128 and its number.
    fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Listens from now on, on a thread of its own: the first signal comes out of the channel, the
/// second ends the process at once, whatever the stop is waiting for.
pub(crate) fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(inside);
    let (sender, first) = mpsc::channel();
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
        }
    };
    std::thread::Builder::new().name("narrows-signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let signal = next().await;
            if sender.send(signal).is_err() {
                tracing::debug!(%signal, "nobody waits for a signal any more");
            }
            end(next().await);
        });
    })?;
    Ok(first)
}

#[expect(clippy::exit, reason = "a second signal asks for just that")]
fn end(signal: Signal) {
    tracing::warn!(%signal, "second signal: ending at once");
    std::process::exit(signal.exit_code());
}
