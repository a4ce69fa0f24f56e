//! The accept loop, and the even spread of connections over threads.
//!
//! Each thread has listening sockets of its own, so that a connection is accepted where it will
//! live. The kernel spreads by hash, which few connections do not fill evenly: a thread that has
//! many more than another hands a new one over. Nothing is read here: no client holds up another.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;

use super::bounds::Files;
use crate::base::clock;

/// After an accept that failed, or took nearly the last descriptor: new connections stay with the
/// system for this long, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection as the system gives it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) tcp: tokio::net::TcpStream,
    /// Whom the system calls its peer.
    pub(crate) peer: SocketAddr,
    /// Which of the listeners it came to.
    pub(crate) listener: usize,
}

/// The connections that one thread has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load(Arc<AtomicUsize>);

impl Load {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn count(&self) -> Counted {
        self.0.fetch_add(1, Relaxed);
        Counted(Arc::clone(&self.0))
    }
}

/// A counted connection.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection on its way to another thread.
pub(crate) type Handed = (TcpStream, SocketAddr, usize);

/// All threads, as one of them sees them.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    number: usize,
    all: Arc<[(Load, mpsc::UnboundedSender<Handed>)]>,
}

impl Threads {
    /// One view per thread, and what each is handed.
    pub(crate) fn new(count: usize) -> Vec<(Self, mpsc::UnboundedReceiver<Handed>)> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let all: Arc<[_]> = senders.into_iter().map(|sender| (Load::default(), sender)).collect();
        let views = (0..count).map(|number| Self { number, all: Arc::clone(&all) });
        views.zip(receivers).collect()
    }

    /// This thread's own count.
    pub(crate) fn load(&self) -> &Load {
        &self.all[self.number].0
    }

    /// The thread that should have the next connection, if this one has far more than it.
    fn idler(&self) -> Option<&mpsc::UnboundedSender<Handed>> {
        let mine = self.load().get();
        if mine < 2 {
            return None;
        }
        let (load, sender) = self.all.iter().min_by_key(|(load, _)| load.get())?;
        (mine >= 2 * load.get() + 2).then_some(sender)
    }
}

/// One thread's listening sockets.
struct Sockets {
    all: Vec<tokio::net::TcpListener>,
    /// Who is asked first, so that none is starved by another.
    turn: usize,
}

impl Sockets {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        for at in 0..self.all.len() {
            let listener = (self.turn + at) % self.all.len();
            if let Poll::Ready(accepted) = self.all[listener].poll_accept(cx) {
                self.turn = listener + 1;
                return Poll::Ready(accepted.map(|(tcp, peer)| Arrival { tcp, peer, listener }));
            }
        }
        Poll::Pending
    }
}

/// Accepts until `stop` completes, then what is still in the queues: closing a listener of several
/// on one port would lose it. `scarce` hears each time that descriptors have run out.
pub(crate) async fn accept(
    listeners: Vec<TcpListener>,
    threads: &Threads,
    files: Files,
    mut handed: mpsc::UnboundedReceiver<Handed>,
    stop: impl Future<Output = ()>,
    mut each: impl FnMut(Arrival),
    scarce: impl Fn(),
) -> io::Result<()> {
    let all = listeners.into_iter().map(tokio::net::TcpListener::from_std);
    let mut sockets = Sockets { all: all.collect::<Result<_, _>>()?, turn: 0 };
    let mut stop = std::pin::pin!(stop);
    let mut pause = std::pin::pin!(tokio::time::sleep_until(clock::now()));
    let mut paused = false;
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(handed) = handed.recv() => take_over(handed, &mut each),
            () = &mut pause, if paused => paused = false,
            accepted = std::future::poll_fn(|cx| sockets.poll_accept(cx)), if !paused => {
                paused = match accepted {
                    Ok(arrival) => {
                        let is_last = files.are_scarce(&arrival.tcp);
                        match threads.idler().filter(|_| !is_last) {
                            None => each(arrival),
                            Some(idler) => hand_over(arrival, idler),
                        }
                        is_last
                    }
                    Err(error) if is_the_clients(&error) => false,
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept a connection");
                        true
                    }
                };
                if paused {
                    scarce();
                    pause.as_mut().reset(clock::now() + PAUSE);
                }
            },
        }
    }
    let queued = std::future::poll_fn(|cx| {
        while let Poll::Ready(Ok(arrival)) = sockets.poll_accept(cx) {
            each(arrival);
        }
        Poll::Ready(())
    });
    queued.await;
    while let Ok(handed) = handed.try_recv() {
        take_over(handed, &mut each);
    }
    Ok(())
}

fn hand_over(arrival: Arrival, idler: &mpsc::UnboundedSender<Handed>) {
    let Arrival { tcp, peer, listener } = arrival;
    match tcp.into_std() {
        // A thread that is gone takes nothing; the client tries again.
        Ok(tcp) => drop(idler.send((tcp, peer, listener))),
        Err(error) => tracing::warn!(%error, "cannot hand a connection over"),
    }
}

fn take_over((tcp, peer, listener): Handed, each: &mut impl FnMut(Arrival)) {
    match tokio::net::TcpStream::from_std(tcp) {
        Ok(tcp) => each(Arrival { tcp, peer, listener }),
        Err(error) => tracing::warn!(%error, "cannot take over a connection"),
    }
}

/// A connection that its client gave up before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_many_more_connections_hands_the_next_one_over() {
        let mut threads = Threads::new(2);
        let (second, _) = threads.pop().unwrap();
        let (first, _) = threads.pop().unwrap();
        let one = first.load().count();
        assert!(first.idler().is_none());
        let two = first.load().count();
        assert!(first.idler().is_some());
        let other = second.load().count();
        assert!(first.idler().is_none());
        drop((one, two, other));
        assert_eq!(first.load().get(), 0);
    }
}
