//! The one reader of time.
//!
//! Everything that measures or waits takes its instants here, so that a test under tokio's paused
//! clock moves all of narrows at once, and no second notion of "now" can creep in.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;
use tokio::time::Sleep;

/// The monotonic now.
#[expect(clippy::disallowed_methods, reason = "this is the clock that the ban points to")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for log lines, and to say which of two instances was started last. No other
/// decision may depend on it.
#[expect(clippy::disallowed_methods, reason = "this is the clock that the ban points to")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// One timer for a task whose deadline moves all the time.
///
/// Moving a tokio timer takes a lock and a walk of the wheel; a connection would do that for each
/// message. `Alarm` keeps the timer where it is while the deadline moves *later*, and looks again
/// when it fires.
#[derive(Debug)]
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    set: bool,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(now())), set: false }
    }

    /// Ready once `deadline` has passed; otherwise the task is woken at or before it. To be polled
    /// again with the current deadline after each wake-up.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if !self.set || deadline < self.sleep.deadline() {
            self.set = true;
            self.sleep.as_mut().reset(deadline);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if deadline <= now() {
                self.set = false;
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// The silence of one connection: when something moved last, and one [`Alarm`] for when nothing
/// does. Shared by all that take part in a connection's messages, on one thread.
#[derive(Debug)]
pub(crate) struct Pulse {
    last: Cell<Instant>,
    alarm: RefCell<Alarm>,
    uploading: Cell<bool>,
    uploaded: Cell<u64>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            last: Cell::new(now()),
            alarm: RefCell::new(Alarm::new()),
            uploading: Cell::new(false),
            uploaded: Cell::new(0),
        }
    }

    /// Something moved.
    pub(crate) fn beat(&self) {
        self.last.set(now());
    }

    /// When something moved last.
    pub(crate) fn last(&self) -> Instant {
        self.last.get()
    }

    /// Whether a request's body is being read, so that its reader would see the client leave.
    pub(crate) fn is_uploading(&self) -> bool {
        self.uploading.get()
    }

    /// A part of a request's body moved; whether there is more to come.
    pub(crate) fn upload(&self, bytes: u64, more: bool) {
        self.beat();
        self.uploading.set(more);
        self.uploaded.set(self.uploaded.get() + bytes);
    }

    /// Bytes of the request's body so far; counts anew afterwards.
    pub(crate) fn take_uploaded(&self) -> u64 {
        self.uploading.set(false);
        self.uploaded.take()
    }

    /// Ready once nothing has moved for `limit`.
    pub(crate) fn poll_silent(&self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        self.poll_until(cx, self.last.get() + limit)
    }

    /// Ready once `deadline` has passed, whatever has moved; as [`Alarm::poll`].
    pub(crate) fn poll_until(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.borrow_mut().poll(cx, deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_later_fires_only_then() {
        let mut alarm = Alarm::new();
        let start = now();
        let mut deadline = start + Duration::from_secs(1);
        poll_fn(|cx| {
            assert!(alarm.poll(cx, deadline).is_pending());
            Poll::Ready(())
        })
        .await;
        deadline = start + Duration::from_secs(5);
        poll_fn(|cx| alarm.poll(cx, deadline)).await;
        assert_eq!(now() - start, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_earlier_fires_then() {
        let mut alarm = Alarm::new();
        let start = now();
        poll_fn(|cx| {
            assert!(alarm.poll(cx, start + Duration::from_mins(1)).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx, start + Duration::from_secs(2))).await;
        assert_eq!((now() - start).as_secs(), 2);
    }
}
