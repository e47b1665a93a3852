//! A timer that keeps to microseconds. The runtime's own counts in whole milliseconds: at a thousand requests a second
//! and more it would send in bursts and add its own delay to what is measured.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use crate::clock::{self, Moment};

/// Counts on the clock that [`clock::now`] reads.
pub(super) struct Timer {
    fd: AsyncFd<OwnedFd>,
}

impl Timer {
    /// Within a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        #[expect(deprecated, reason = "the other one is unsafe to call, for what owns no fixed descriptor; this does")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Returns once `moment` has come; at once when it has. A wait that was given up leaves nothing behind.
    pub(super) async fn until(&mut self, moment: Moment) -> io::Result<()> {
        if clock::now() >= moment {
            return Ok(());
        }
        let at = moment.since_origin();
        let it_value =
            Timespec { tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), tv_nsec: at.subsec_nanos().into() };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Setting it also takes back an expiry that nobody has read.
        rustix::time::timerfd_settime(
            self.fd.get_ref(),
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec { it_interval, it_value },
        )?;
        loop {
            let mut ready = self.fd.readable().await?;
            let mut expirations = [0; 8];
            match ready.try_io(|fd| rustix::io::read(fd.get_ref(), &mut expirations).map_err(io::Error::from)) {
                Ok(read) => return read.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_waits_until_its_moment() {
        let mut timer = Timer::new().unwrap();
        for _ in 0..100 {
            let moment = clock::now().after(Duration::from_micros(300));
            timer.until(moment).await.unwrap();
            assert!(clock::now() >= moment);
        }
        let past = clock::now();
        timer.until(past).await.unwrap();
    }

    /// How late the wake-up comes is the machine's matter; what it was set to is not.
    #[tokio::test]
    async fn it_is_set_to_the_very_moment_and_not_to_a_millisecond() {
        let mut timer = Timer::new().unwrap();
        for micros in [600_000_300, 600_000_500, 600_000_999] {
            let moment = clock::now().after(Duration::from_micros(micros));
            // Polled once, which sets it.
            let _ = timer.until(moment).now_or_never();
            let before = clock::now();
            let left = rustix::time::timerfd_gettime(timer.fd.get_ref()).unwrap().it_value;
            let after = clock::now();
            let left = Duration::new(u64::try_from(left.tv_sec).unwrap(), u32::try_from(left.tv_nsec).unwrap());
            // The kernel reads the same clock between our two looks at it.
            let grace = Duration::from_micros(10);
            assert!(left <= moment.since(before) + grace, "{left:?} {moment:?} {before:?}");
            assert!(left + grace >= moment.since(after), "{left:?} {moment:?} {after:?}");
        }
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_end_the_next_one_early() {
        let mut timer = Timer::new().unwrap();
        let near = clock::now().after(Duration::from_millis(5));
        // Polled once, and dropped; then its moment comes and nobody has read that.
        let _ = timer.until(near).now_or_never();
        Timer::new().unwrap().until(near.after(Duration::from_millis(1))).await.unwrap();
        let far = clock::now().after(Duration::from_millis(40));
        timer.until(far).await.unwrap();
        assert!(clock::now() >= far);
    }
}
