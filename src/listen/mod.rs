//! Listening sockets, the accept loop, and the even spread of connections over threads.
//!
//! Each thread has a listening socket of its own (`SO_REUSEPORT`), so that a connection is accepted
//! where it will live. The kernel spreads by hash, which few connections do not fill evenly: a
//! thread that has many more than another hands a new one over.

pub(crate) mod stream;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::Duration;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;
use tokio::sync::mpsc;

use self::stream::Stream;
use self::stream::Watched;

/// Where clients come in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address; port 0 picks a free one.
    pub address: SocketAddr,
    /// Threads that serve, each with a listening socket and a pool of its own; at least 1.
    pub threads: usize,
}

/// Connections that may wait to be accepted, per thread; the kernel may allow fewer.
const BACKLOG: i32 = 4096;
/// After a failed accept (no descriptor left, most likely), so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);
/// When a client that says nothing is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// A client that has come in.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    /// The client's own address, whoever passed its connection on.
    pub(crate) peer: SocketAddr,
    /// Who the client is by the certificate that it proved to have.
    pub(crate) certificate: Option<Arc<str>>,
}

impl Accepted {
    pub(crate) fn plain(tcp: tokio::net::TcpStream, peer: SocketAddr) -> Self {
        Self { stream: Stream::Plain(Watched::new(tcp)), peer, certificate: None }
    }
}

/// Binds one listening socket per thread, all on one address, which comes back too.
///
/// `SO_REUSEPORT` would let a second process of the same user share a port silently, so the port is
/// bound once without it first.
pub(crate) fn bind(settings: &Settings) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if settings.address.port() != 0 {
        drop(TcpListener::bind(settings.address)?);
    }
    let first = bind_one(settings.address)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..settings.threads.max(1) {
        all.push(bind_one(address)?);
    }
    Ok((address, all))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // PERF: accepted sockets inherit these, which saves a call for each on every connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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

/// The end of service, as one thread's connections hear of it.
///
/// PERF: a flag that each connection looks at whenever it runs; only the change wakes anybody.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    on: Cell<bool>,
    last: Cell<u64>,
    wakers: RefCell<HashMap<u64, Waker>>,
}

impl Drain {
    pub(crate) fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Begins the drain, and wakes all that listen.
    pub(crate) fn begin(&self) {
        self.on.set(true);
        self.wakers.take().into_values().for_each(Waker::wake);
    }

    /// Has this task woken when the drain begins, until the guard is dropped.
    pub(crate) fn listen(self: &Rc<Self>, waker: Waker) -> Listener {
        let id = self.last.get() + 1;
        self.last.set(id);
        self.wakers.borrow_mut().insert(id, waker);
        Listener { drain: Rc::clone(self), id }
    }
}

/// A task that hears of the drain.
#[derive(Debug)]
pub(crate) struct Listener {
    drain: Rc<Drain>,
    id: u64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.drain.wakers.borrow_mut().remove(&self.id);
    }
}

/// A connection on its way to another thread.
pub(crate) type Handed = (TcpStream, SocketAddr);

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

/// Accepts until `stop` completes, then what is still in the queue: closing a listener of several
/// on one port would lose it.
pub(crate) async fn accept(
    listener: TcpListener,
    threads: &Threads,
    mut handed: mpsc::UnboundedReceiver<Handed>,
    stop: impl Future<Output = ()>,
    mut each: impl FnMut(tokio::net::TcpStream, SocketAddr),
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some((stream, peer)) = handed.recv() => match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => each(stream, peer),
                Err(error) => tracing::warn!(%error, "cannot take over a connection"),
            },
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match threads.idler() {
                    None => each(stream, peer),
                    Some(idler) => match stream.into_std() {
                        // A thread that is gone takes nothing; the client tries again.
                        Ok(stream) => drop(idler.send((stream, peer))),
                        Err(error) => tracing::warn!(%error, "cannot hand a connection over"),
                    },
                },
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    let queued = std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(Ok((stream, peer))) = listener.poll_accept(cx) {
            each(stream, peer);
        }
        std::task::Poll::Ready(())
    });
    queued.await;
    while let Ok((stream, peer)) = handed.try_recv() {
        if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
            each(stream, peer);
        }
    }
    Ok(())
}

/// A connection that its client gave up before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Raises the bound on open descriptors as far as it may go; two are used per tunnel.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::Resource;
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "cannot raise the limit of open descriptors");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error_although_it_could_be_shared() {
        let settings = Settings { address: "127.0.0.1:0".parse().unwrap(), threads: 2 };
        let (address, _listeners) = bind(&settings).unwrap();
        let again = bind(&Settings { address, threads: 1 }).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }

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
