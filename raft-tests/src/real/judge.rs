//! When a run proves nothing, though nothing is wrong: too little was asked, too few faults took place, or it is not
//! sure that they did.

use std::collections::BTreeMap;

use crate::record::Run;

/// Answered operations a second before the first fault.
pub const RATE_MIN: f64 = 50.0;
/// Checked operations of a run of a minute; of another one in proportion.
pub const OPERATIONS_A_MINUTE_MIN: f64 = 2_000.0;
/// Confirmed faults of each class of the profile.
pub const CLASS_MIN: u64 = 3;
/// Confirmed faults that hit a leader, of a profile that aims at leaders.
pub const LEADER_MIN: u64 = 2;
/// Writes of unknown outcome, of all.
pub const UNKNOWN_PART_MAX: f64 = 0.1;

/// Under load something is always unsynced.
pub const DROPPED_FIGURE: &str = "power_loss_pages_dropped";

/// What a run was to do.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Classes of the profile's faults that this world can make.
    pub classes: Vec<&'static str>,
    pub aims_at_leaders: bool,
    /// From the first operation to the last fault's end.
    pub seconds: f64,
    /// Answered operations a second before the first fault.
    pub rate_before: f64,
    /// Faults that were to be made, when a number of them was asked for.
    pub times: Option<u64>,
}

/// Every rule that the run breaks.
pub fn void(run: &Run, wanted: &Wanted) -> Vec<String> {
    let mut void = Vec::new();
    if wanted.rate_before < RATE_MIN {
        void.push(format!(
            "{:.0} answers a second before the first fault; {RATE_MIN:.0} are wanted",
            wanted.rate_before
        ));
    }
    let operations_min = OPERATIONS_A_MINUTE_MIN * wanted.seconds / 60.0;
    if super::figures::count(run.operations) < operations_min {
        let seconds = wanted.seconds;
        void.push(format!("{} operations checked in {seconds:.0} s; {operations_min:.0} are wanted", run.operations));
    }
    let mut confirmed: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, count) in &run.faults {
        *confirmed.entry(name.split('/').next().unwrap_or(name)).or_default() += count.confirmed;
        if count.unconfirmed > 0 {
            void.push(format!("{} of {name} not confirmed", count.unconfirmed));
        }
    }
    let class_min = wanted.times.map_or(CLASS_MIN, |times| times.min(CLASS_MIN));
    for class in &wanted.classes {
        let count = confirmed.get(class).copied().unwrap_or_default();
        if count < class_min {
            void.push(format!("{class} took place {count} times; {class_min} are wanted"));
        }
    }
    let hit: u64 = run.faults.values().map(|count| count.hit_leader).sum();
    let leader_min = wanted.times.map_or(LEADER_MIN, |times| times.min(LEADER_MIN));
    if wanted.aims_at_leaders && hit < leader_min {
        void.push(format!("a leader was hit {hit} times; {leader_min} are wanted"));
    }
    if confirmed.contains_key("power-loss") && run.figures.get(DROPPED_FIGURE).is_none_or(|dropped| *dropped == 0.0) {
        void.push("power was lost, and not one unsynced page with it".to_string());
    }
    let unknown_max = super::figures::count(run.writes) * UNKNOWN_PART_MAX;
    if super::figures::count(run.unknown_writes) > unknown_max {
        void.push(format!(
            "{} of {} writes are of unknown outcome; {:.0} % may be",
            run.unknown_writes,
            run.writes,
            UNKNOWN_PART_MAX * 100.0
        ));
    }
    void
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RunKind;

    fn good() -> (Run, Wanted) {
        let mut run = Run::new(RunKind::Real, "kill-pause", 1, "");
        (run.operations, run.writes, run.unknown_writes) = (2_000, 100, 10);
        for _ in 0..3 {
            run.fault("kill/leader", true, true);
            run.fault("pause/one", true, false);
        }
        let wanted = Wanted {
            classes: vec!["kill", "pause"],
            aims_at_leaders: true,
            seconds: 60.0,
            rate_before: 50.0,
            times: None,
        };
        (run, wanted)
    }

    #[track_caller]
    fn only(told: &str, change: impl FnOnce(&mut Run, &mut Wanted)) {
        let (mut run, mut wanted) = good();
        change(&mut run, &mut wanted);
        let void = void(&run, &wanted);
        assert!(void.len() == 1 && void[0].contains(told), "{void:?}");
    }

    #[test]
    fn a_run_that_keeps_every_rule_just_so_is_not_void() {
        let (run, wanted) = good();
        assert_eq!(void(&run, &wanted), Vec::<String>::new());
    }

    #[test]
    fn too_few_answers_before_the_first_fault_make_it_void() {
        only("49 answers a second", |_, wanted| wanted.rate_before = 49.4);
    }

    #[test]
    fn too_few_checked_operations_for_its_time_make_it_void() {
        only("1999 operations", |run, _| run.operations = 1_999);
        only("2000 operations checked in 61 s", |_, wanted| wanted.seconds = 61.0);
    }

    #[test]
    fn a_class_that_took_place_too_seldom_makes_it_void() {
        only("pause took place 2 times", |run, _| {
            run.faults.get_mut("pause/one").unwrap().confirmed = 2;
        });
        only("clock took place 0 times", |_, wanted| wanted.classes.push("clock"));
    }

    #[test]
    fn kinds_of_one_class_count_together() {
        let (mut run, wanted) = good();
        run.faults.get_mut("pause/one").unwrap().confirmed = 2;
        run.fault("pause/leader-long", true, true);
        assert_eq!(void(&run, &wanted), Vec::<String>::new());
    }

    #[test]
    fn a_profile_that_aims_at_leaders_and_hits_too_few_is_void() {
        only("a leader was hit 1 times", |run, _| run.faults.get_mut("kill/leader").unwrap().hit_leader = 1);
        let (mut run, mut wanted) = good();
        run.faults.get_mut("kill/leader").unwrap().hit_leader = 0;
        wanted.aims_at_leaders = false;
        assert_eq!(void(&run, &wanted), Vec::<String>::new());
    }

    #[test]
    fn one_fault_that_was_not_confirmed_makes_it_void() {
        only("1 of kill/leader not confirmed", |run, _| run.fault("kill/leader", false, false));
    }

    #[test]
    fn power_losses_that_lose_nothing_make_it_void() {
        only("not one unsynced page", |run, _| run.fault("power-loss/all", true, true));
        let (mut run, wanted) = good();
        run.fault("power-loss/all", true, true);
        run.figures.insert(DROPPED_FIGURE.to_string(), 1.0);
        assert_eq!(void(&run, &wanted), Vec::<String>::new());
    }

    #[test]
    fn too_many_unknown_writes_make_it_void() {
        only("11 of 100 writes", |run, _| run.unknown_writes = 11);
    }

    #[test]
    fn a_run_of_so_many_faults_wants_no_more_than_those() {
        let (mut run, mut wanted) = good();
        run.faults.remove("pause/one");
        (wanted.classes, wanted.times) = (vec!["kill"], Some(1));
        let count = run.faults.get_mut("kill/leader").unwrap();
        (count.confirmed, count.hit_leader) = (1, 1);
        assert_eq!(void(&run, &wanted), Vec::<String>::new());
    }
}
