//! Things one does to a TCP socket that tokio has no call for.
//!
//! Values in, system calls out; who owns the socket, and why it is closed, is others' business.

use std::cell::RefCell;
use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::net::RecvFlags;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// One read at most.
const SCRATCH: usize = 64 * 1024;
/// Pieces of a write that are less than this together are copied into one.
const GATHER: usize = 16 * 1024;

thread_local! {
    /// What every read of this thread goes through, so that an idle connection needs no buffer.
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Lends the thread's buffer. Not to be lent twice at a time.
pub(crate) fn with_scratch<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH_BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// Writes several pieces. PERF: to a socket, send(2) of a few KiB copied together is cheaper than
/// writev(2), which goes by way of the file system's layer.
pub(crate) fn poll_write_pieces(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return Pin::new(stream).poll_write(cx, piece);
    }
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    if length > GATHER {
        return Pin::new(stream).poll_write_vectored(cx, pieces);
    }
    SCRATCH_BUFFER.with(|buffer| {
        // TLS may write in the middle of a read or of a copy, which has the buffer then.
        let Ok(mut scratch) = buffer.try_borrow_mut() else {
            return Pin::new(stream).poll_write_vectored(cx, pieces);
        };
        let mut at = 0;
        for piece in pieces {
            scratch[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        Pin::new(stream).poll_write(cx, &scratch[..length])
    })
}

/// Makes the coming close a reset (RST): nothing unsent is sent, and the peer knows at once.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a socket that could not be told to reset");
    }
}

/// Whether the peer's FIN or RST is here, even behind bytes that nobody has read yet.
pub(crate) fn has_peer_left(stream: &TcpStream) -> bool {
    let mut ask = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::RDHUP)];
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    rustix::event::poll(&mut ask, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .is_ok_and(|ready| ready > 0 && ask[0].revents().intersects(gone))
}

/// Whether the socket has failed (RST, time-out), for a side whose FIN is behind us already.
pub(crate) fn has_failed(stream: &TcpStream) -> bool {
    let mut ask = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty())];
    rustix::event::poll(&mut ask, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .is_ok_and(|ready| ready > 0 && ask[0].revents().contains(PollFlags::ERR))
}

/// Whether there is something to read: bytes, the peer's end, or a failure.
pub(crate) fn has_more(stream: &TcpStream) -> bool {
    let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let peeked = rustix::net::recv(stream.as_fd(), &mut [0_u8; 1], peek);
    !matches!(peeked, Err(rustix::io::Errno::AGAIN))
}

/// Whether nothing is on its way through the socket, as far as the system tells: nothing to read
/// (not even the peer's end, unless that is behind us), and nothing written that has not gone out.
///
/// What was written before our own FIN cannot be seen: the system calls such a socket writable in
/// any case.
pub(crate) fn is_still(stream: &TcpStream, read_end: bool) -> bool {
    if !read_end && has_more(stream) {
        return false;
    }
    // With this mark a socket is writable only when nothing is unsent; 0 is the system's own.
    let socket = socket2::SockRef::from(stream);
    let marked = socket.set_tcp_notsent_lowat(1);
    let mut ask = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)];
    let ready = rustix::event::poll(&mut ask, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    let restored = socket.set_tcp_notsent_lowat(0);
    marked.is_ok()
        && restored.is_ok()
        && ready.is_ok()
        && ask[0].revents().intersection(PollFlags::OUT | PollFlags::ERR) == PollFlags::OUT
}

/// The reading side of a socket whose FIN is watched while its bytes are left alone.
///
/// epoll tells of new bytes and of the FIN by the same edge. To hear of a FIN behind unread bytes,
/// the readiness that those bytes raised is cleared; `unread` remembers that a read must then ask
/// the kernel and not the readiness.
#[derive(Debug, Default)]
pub(crate) struct ReadSide {
    unread: bool,
}

impl ReadSide {
    /// Ready when the peer's FIN or RST has come. Takes no byte from the socket.
    pub(crate) fn poll_left(&mut self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(stream.poll_read_ready(cx)).is_err() || has_peer_left(stream) {
                return Poll::Ready(());
            }
            self.unread = true;
            let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            drop(stream.try_io(Interest::READABLE, blocked));
        }
    }

    /// Whether bytes may be there that no readiness tells of.
    pub(crate) fn has_unread(&self) -> bool {
        self.unread
    }

    /// As [`AsyncRead::poll_read`]; `Ok` without new bytes is the peer's FIN.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread {
            let free = buf.initialize_unfilled();
            match rustix::net::recv(stream.as_fd(), &mut *free, RecvFlags::empty()) {
                Ok((read, _)) => {
                    // A short read has emptied the socket; whatever comes raises a new edge.
                    self.unread = read == free.len();
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::AGAIN) => self.unread = false,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Pin::new(stream).poll_read(cx, buf)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "both ends of a loopback connection")]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_socket_with_anything_to_read_is_not_still() {
        let (near, mut far) = pair().await;
        assert!(is_still(&near, false));
        far.write_all(b"x").await.unwrap();
        near.readable().await.unwrap();
        assert!(!is_still(&near, false));
        assert_eq!(near.try_read(&mut [0; 9]).unwrap(), 1);
        assert!(is_still(&near, false));
        drop(far);
        near.readable().await.unwrap();
        assert!(!is_still(&near, false), "an end is something to hear");
        assert!(is_still(&near, true), "once");
    }

    #[tokio::test]
    async fn a_socket_with_bytes_that_have_not_gone_out_is_not_still() {
        let (near, mut far) = pair().await;
        let mut sent = 0;
        // The first time that there is no room is before the far side's buffer has grown.
        while let Ok(some) = near.try_write(&[0; 8 * 1024]) {
            sent += some;
        }
        assert!(!is_still(&near, false));
        far.read_exact(&mut vec![0; sent]).await.unwrap();
        // The last acknowledgements may be a moment late.
        let still = async {
            while !is_still(&near, false) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), still).await.unwrap();
        near.writable().await.unwrap();
        assert!(near.try_write(b"x").is_ok(), "the mark that the look used is gone");
    }
}
