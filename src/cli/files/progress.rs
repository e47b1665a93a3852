//! How far an import or export is: a bar on a terminal, a line now and then elsewhere, both on standard error.
//!
//! The bar and the time left count an item as its bytes plus [`ITEM_WEIGHT`], because small files cost their round trip
//! and large ones their bytes. Rates are those of the last seconds.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::{self, Moment};

/// Bytes that one item costs as much as.
const ITEM_WEIGHT: u64 = 16 << 10;
const DRAWN_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The time that rates are taken over.
const RATE_OVER: Duration = Duration::from_secs(5);

/// What there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) items: u64,
    pub(super) bytes: u64,
}

impl Total {
    fn weight(self) -> u64 {
        self.bytes.saturating_add(self.items.saturating_mul(ITEM_WEIGHT))
    }
}

pub(super) struct Progress {
    /// `files`, `lines` or `keys`.
    unit: &'static str,
    total: Option<Total>,
    items: AtomicU64,
    bytes: AtomicU64,
    bar: Option<ProgressBar>,
    recent: Mutex<VecDeque<(Moment, Total)>>,
}

impl Progress {
    /// Shows itself until the handle is dropped.
    pub(super) fn start(unit: &'static str, total: Option<Total>) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let bar = io::stderr().is_terminal().then(|| bar(total));
        let every = if bar.is_some() { DRAWN_EVERY } else { LINE_EVERY };
        let progress = Arc::new(Self {
            unit,
            total,
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bar,
            recent: Mutex::new(VecDeque::from([(clock::now(), Total::default())])),
        });
        let shown = progress.clone();
        let task = tokio::spawn(async move {
            loop {
                clock::sleep(every).await;
                shown.show();
            }
        });
        (progress, AbortOnDropHandle::new(task))
    }

    /// One item is done.
    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> Total {
        Total { items: self.items.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// A line on standard error, above the bar where there is one.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&self) {
        let done = self.done();
        let text = self.text(clock::now(), done);
        match &self.bar {
            Some(bar) => {
                bar.set_position(done.weight());
                bar.set_message(text);
            }
            None => say(&text),
        }
    }

    fn text(&self, now: Moment, done: Total) -> String {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((now, done));
        while recent.len() > 2 && recent.get(1).is_some_and(|(at, _)| now.since(*at) >= RATE_OVER) {
            recent.pop_front();
        }
        let (since, before) = *recent.front().expect("the newest is among them");
        line(self.unit, done, self.total, before, now.since(since))
    }
}

/// `1200 of 20000 files, 3.0 of 50.1 MiB, 410 files/s, 1.1 MiB/s, 0:46 left`.
fn line(unit: &str, done: Total, total: Option<Total>, before: Total, time: Duration) -> String {
    let per_second = |amount: u64| as_float(amount) / time.as_secs_f64().max(1e-3);
    let (items, bytes) = (per_second(done.items - before.items), per_second(done.bytes - before.bytes));
    let mut text = match total {
        Some(total) => {
            format!("{} of {} {unit}, {:.1} of {:.1} MiB", done.items, total.items, mib(done.bytes), mib(total.bytes))
        }
        None => format!("{} {unit}, {:.1} MiB", done.items, mib(done.bytes)),
    };
    let _ = write!(text, ", {items:.0} {unit}/s, {:.1} MiB/s", bytes / f64::from(1 << 20));
    if let Some(total) = total {
        let rate = per_second(done.weight() - before.weight());
        let left = as_float(total.weight().saturating_sub(done.weight()));
        // Beyond a hundred hours nobody believes a forecast.
        match left / rate {
            seconds if rate > 0.0 && seconds < 360_000.0 => {
                let left = Duration::from_secs_f64(seconds).as_secs();
                let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
                let _ = if hours > 0 {
                    write!(text, ", {hours}:{minutes:02}:{seconds:02} left")
                } else {
                    write!(text, ", {minutes}:{seconds:02} left")
                };
            }
            _ => text.push_str(", waiting"),
        }
    }
    text
}

fn bar(total: Option<Total>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    match total {
        Some(total) => ProgressBar::with_draw_target(Some(total.weight()), target)
            .with_style(style("{bar:24} {percent:>3} %  {msg}")),
        None => ProgressBar::with_draw_target(None, target).with_style(style("{spinner} {msg}")),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One line on standard error. When nobody reads it, so be it.
pub(super) fn say(text: &str) {
    let _ = io::Write::write_all(&mut io::stderr(), format!("{text}\n").as_bytes());
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn as_float(amount: u64) -> f64 {
    amount as f64
}

pub(super) fn mib(bytes: u64) -> f64 {
    as_float(bytes) / f64::from(1 << 20)
}

pub(super) fn per_second(amount: u64, time: Duration) -> f64 {
    as_float(amount) / time.as_secs_f64().max(1e-3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long_still() {
        let (done, before) = (Total { items: 300, bytes: 3 * MIB }, Total { items: 100, bytes: MIB });
        let total = Some(Total { items: 1000, bytes: 10 * MIB });
        assert_eq!(
            line("files", done, total, before, Duration::from_secs(2)),
            "300 of 1000 files, 3.0 of 10.0 MiB, 100 files/s, 1.0 MiB/s, 0:07 left"
        );
        assert_eq!(
            line("keys", done, None, before, Duration::from_secs(2)),
            "300 keys, 3.0 MiB, 100 keys/s, 1.0 MiB/s"
        );
        let day = Some(Total { items: 300 + 100 * 3723, bytes: 3 * MIB + 3723 * MIB });
        assert!(line("files", done, day, before, Duration::from_secs(2)).ends_with(", 1:02:03 left"));
    }

    #[test]
    fn without_any_progress_no_time_is_forecast() {
        let done = Total { items: 5, bytes: 0 };
        let text = line("files", done, Some(Total { items: 9, bytes: 0 }), done, Duration::ZERO);
        assert!(text.ends_with("0 files/s, 0.0 MiB/s, waiting"), "{text}");
    }

    #[test]
    fn templates_are_understood() {
        for template in ["{bar:24} {percent:>3} %  {msg}", "{spinner} {msg}"] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[tokio::test]
    async fn rates_are_those_of_the_last_seconds() {
        let (progress, _shown) = Progress::start("files", Some(Total { items: 100, bytes: 0 }));
        let begun = progress.recent.lock().unwrap()[0].0;
        for (second, items) in [(1, 50), (2, 50), (3, 50), (4, 50), (5, 50), (6, 50), (7, 60)] {
            let text = progress.text(begun.after(Duration::from_secs(second)), Total { items, bytes: 0 });
            if second == 6 {
                assert!(text.contains(" 0 files/s"), "the first second is forgotten: {text}");
            } else if second == 7 {
                assert!(text.contains(" 2 files/s"), "{text}");
            }
        }
    }
}
