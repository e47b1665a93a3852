//! openraft's async runtime: tokio's tasks and channels, with time and randomness from [`crate::clock`].
//!
//! Every comparison with `now()` is made on CLOCK_BOOTTIME, which goes on through a suspend: a leader that slept through
//! its lease knows it. Sleeps run on tokio's clock; after a suspend one of them fires late, which costs a late tick. In a
//! simulation they too keep to the node's clock, whatever its rate.

use std::convert::Infallible;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::OptionalSend;
use openraft_rt::{AsyncRuntime, Instant};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioWatch};

use crate::clock::{self, Moment};

#[derive(Debug)]
pub struct Runtime {
    tokio: tokio::runtime::Runtime,
}

/// A [`Moment`] with the arithmetic that openraft asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RaftInstant(Moment);

impl RaftInstant {
    pub fn moment(&self) -> Moment {
        self.0
    }
}

impl Instant for RaftInstant {
    fn now() -> Self {
        Self(clock::now())
    }
}

impl Add<Duration> for RaftInstant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.after(duration))
    }
}

impl AddAssign<Duration> for RaftInstant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for RaftInstant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(Moment::from_origin(self.0.since_origin().saturating_sub(duration)))
    }
}

impl Sub for RaftInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}

impl SubAssign<Duration> for RaftInstant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

/// Random numbers from the crate's seam.
pub struct SeamRng;

impl rand::TryRng for SeamRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((clock::random_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(clock::random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&clock::random_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = BoxFuture<'static, ()>;
    type Instant = RaftInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = SeamRng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        clock::sleep(duration).boxed()
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Self::sleep(deadline - Self::Instant::now())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(clock::stretch(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Self::timeout(deadline - Self::Instant::now(), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SeamRng
    }

    fn new(threads: usize) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        Self { tokio: tokio.expect("the operating system gives threads for a runtime") }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.tokio.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_keeps_openraft_s_contract() {
        openraft_rt::testing::Suite::<Runtime>::test_all();
    }
}
