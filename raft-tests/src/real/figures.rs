//! What a run measures besides its faults.

use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Default)]
pub struct Figures {
    times: BTreeMap<String, Vec<Duration>>,
    counts: BTreeMap<String, u64>,
    /// What must not be, beyond what the checker sees.
    pub violations: Vec<String>,
}

impl Figures {
    /// One measurement, in milliseconds in the end.
    pub fn time(&mut self, name: &str, time: Duration) {
        self.times.entry(name.to_string()).or_default().push(time);
    }

    pub fn count(&mut self, name: &str, count: u64) {
        *self.counts.entry(name.to_string()).or_default() += count;
    }

    pub fn get_count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// Of each time the number, the middle one and the longest; counts as they are.
    pub fn all(&self) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        for (name, times) in &self.times {
            let mut times = times.clone();
            times.sort_unstable();
            let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
            // An added-up report keeps the larger one of two middles: its name says so.
            all.insert(format!("{name}_p50_max"), ms(times.get(times.len().saturating_sub(1) / 2)));
            all.insert(format!("{name}_max"), ms(times.last()));
            all.insert(format!("{name}_count"), count(times.len() as u64));
        }
        all.extend(self.counts.iter().map(|(name, value)| (name.clone(), count(*value))));
        all
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_a_count_a_middle_and_a_longest() {
        let mut figures = Figures::default();
        for ms in [30, 10, 20] {
            figures.time("gap_ms", Duration::from_millis(ms));
        }
        let all = figures.all();
        assert_eq!((all["gap_ms_p50_max"], all["gap_ms_max"], all["gap_ms_count"]), (20.0, 30.0, 3.0));
    }
}
