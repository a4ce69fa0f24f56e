//! The one reader of time.
//!
//! Everything that measures or waits takes its instants here, so that a test under tokio's paused
//! clock moves all of narrows at once, and no second notion of "now" can creep in.
//!
//! Time can be held for as long as one thing is decided ([`at`], [`held`]), so that what is written
//! down of a decision is the very moment that it was made for, and that it can be made for that moment
//! again.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tokio::time::Instant;
use tokio::time::Sleep;

/// A moment, by both clocks, in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
}

thread_local! {
    /// The moment that is held on this thread, if one is.
    static HELD: Cell<Option<Moment>> = const { Cell::new(None) };
}

/// The monotonic now.
#[expect(clippy::disallowed_methods, reason = "this is the clock that the ban points to")]
pub fn now() -> Instant {
    HELD.get().map_or_else(Instant::now, |moment| moment.now)
}

/// The wall clock, for log lines, for windows of the calendar, and to say which of two instances was
/// started last. No other decision may depend on it.
#[expect(clippy::disallowed_methods, reason = "this is the clock that the ban points to")]
pub fn wall() -> SystemTime {
    HELD.get().map_or_else(SystemTime::now, |moment| moment.wall)
}

/// When this process asked first.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(now)
}

/// Microseconds of the monotonic clock, from a moment of this process that is the same each time.
pub(crate) fn micros(instant: Instant) -> u64 {
    u64::try_from(instant.saturating_duration_since(origin()).as_micros()).unwrap_or(u64::MAX)
}

impl Moment {
    /// This one, or that which is held.
    pub(crate) fn present() -> Self {
        HELD.get().unwrap_or_else(|| {
            let since = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
            let wall = UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_micros() * 1000);
            let origin = origin();
            Self { now: origin + Duration::from_micros(micros(now())), wall }
        })
    }
}

/// Does something at a moment: whatever asks for the time meanwhile, on this thread, is told this one.
pub(crate) fn at<T>(moment: Moment, act: impl FnOnce() -> T) -> T {
    /// What was held before is held again, even if `act` panics.
    struct Restore(Option<Moment>);

    impl Drop for Restore {
        fn drop(&mut self) {
            HELD.set(self.0);
        }
    }

    let _restore = Restore(HELD.replace(Some(moment)));
    act()
}

/// The same future, for which time stands still while it works, and goes on while it waits. `is_held`
/// false leaves it as it is.
pub(crate) async fn held<F: Future>(is_held: bool, future: F) -> F::Output {
    if !is_held {
        return future.await;
    }
    let mut future = Box::pin(future);
    poll_fn(|cx| at(Moment::present(), || future.as_mut().poll(cx))).await
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
    use super::*;

    #[test]
    fn a_moment_that_is_held_is_the_only_one_until_it_is_over() {
        let before = now();
        let moment = Moment { now: before + Duration::from_hours(1), wall: UNIX_EPOCH };
        at(moment, || {
            assert_eq!((now(), wall(), Moment::present()), (moment.now, UNIX_EPOCH, moment));
            let inner = Moment { now: before, ..moment };
            at(inner, || assert_eq!(now(), before));
            assert_eq!(now(), moment.now);
        });
        assert!(now() < moment.now && wall() > UNIX_EPOCH);
    }

    #[test]
    fn a_moment_is_one_of_whole_microseconds() {
        let moment = Moment::present();
        let written = micros(moment.now);
        assert_eq!(origin() + Duration::from_micros(written), moment.now);
        let wall = moment.wall.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(wall.subsec_nanos() % 1000, 0);
    }

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
