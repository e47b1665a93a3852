//! Steps and states in words.

use std::fmt::Write as _;

use super::state::{Attempt, Entry, FAILED, Log, NOBODY, OPS_MAX, Operation, Phase, Shard, State};
use super::{Merge, Step, Want};

impl Merge {
    pub(super) fn describe_step(&self, state: &State, step: Step) -> String {
        let name = |node: u8| match state.nodes.get(usize::from(node)) {
            Some(node) => format!("node {}", node.name.0),
            None => "nobody".into(),
        };
        match step {
            Step::Send { op, attempt: 0 } => format!("client {} asks for {:?}", op + 1, self.want(op)),
            Step::Send { op, .. } => format!("client {} tries again: {:?}", op + 1, self.want(op)),
            Step::Arrive { op, attempt } => {
                let Attempt::Sent(group) = state.ops[usize::from(op)].attempts[usize::from(attempt)] else {
                    return format!("{step:?}");
                };
                let what = if self.want(op).is_read() { "notes what is committed for" } else { "commits" };
                let (leader, number) = (name(state.leader(group)), attempt + 1);
                format!("{leader} leads the {group:?} and {what} client {}'s attempt {number}", op + 1)
            }
            Step::View { op } => {
                let Attempt::Waiting { group, at, .. } = state.ops[usize::from(op)].attempts[0] else {
                    return format!("{step:?}");
                };
                let revision = state.replica(group, at).revisions[usize::from(self.want(op).token())];
                format!("{} takes client {}'s view of the {group:?}: revision {revision}", name(at), op + 1)
            }
            Step::Reroute { op, .. } => format!("client {}'s router hears that the left has the right's range", op + 1),
            Step::Drive => match state.operation {
                Operation::Open => format!("the driver sends Freeze{{{}}} to the right", state.merge),
                _ => format!("the driver sends Absorb{{{}}} to the left", state.merge),
            },
            Step::ProposeFreeze { merge } => {
                format!("{} commits Freeze{{{merge}}} in the right's log", name(state.right_leader))
            }
            Step::ProposeUnfreeze { merge } => {
                format!("{} commits Unfreeze{{{merge}}} in the right's log", name(state.right_leader))
            }
            Step::ProposeAbsorb => {
                format!("{} commits Absorb{{{}}} in the left's log", name(state.left_leader), state.merge)
            }
            Step::Thaw { merge } => {
                format!("the right is found frozen under the aborted merge {merge}: Unfreeze is sent")
            }
            Step::Report(node) => format!("{} reports the freeze of merge {}", name(node), state.merge),
            Step::DecideAbsorb => "the catalog decides: absorb".into(),
            Step::DecideAbort => "the catalog decides: abort".into(),
            Step::AbsorbAllTheSame => "a driver that did not ask the catalog sends Absorb".into(),
            Step::Learn => "the driver reads the left's state and writes the result into the catalog".into(),
            Step::BeginAgain => "another merge of the two is begun".into(),
            Step::ElectLeft(node) => format!("{} is elected leader of the left", name(node)),
            Step::ElectRight(node) => format!("{} is elected leader of the right", name(node)),
            Step::ApplyLeft(node) => format!("{} applies the left's log", name(node)),
            Step::ApplyRight(node) => format!("{} applies the right's log", name(node)),
            Step::Absorb(node) => {
                let part = match state.nodes[usize::from(node)].phase {
                    Phase::Idle => "meets Absorb in the left's log",
                    Phase::Taken => "flushes the left with what it took over",
                    Phase::Flushed => "has Absorb applied",
                };
                format!("{} {part}", name(node))
            }
            Step::FlushRight(node) => format!("{} flushes the right", name(node)),
            Step::Install(node) => format!("{} installs a snapshot of the left past Absorb", name(node)),
            Step::DestroyRight(node) => format!("{} destroys its replica of the right", name(node)),
            Step::Crash(node) => format!("{} crashes and starts again", name(node)),
            Step::Lose(node) => format!("{} is lost for good", name(node)),
            Step::MetaChange => "the meta group has a new leader, which does not know what was sent".into(),
        }
    }

    pub(super) fn draw(&self, state: &State) -> String {
        let mut out = format!("operation: merge {}, {:?}", state.merge, state.operation);
        let logs = [("left", &state.left_log, state.left_leader), ("right", &state.right_log, state.right_leader)];
        for (name, log, leader) in logs {
            let leader = if leader == NOBODY {
                "none".into()
            } else {
                format!("node {}", state.nodes[usize::from(leader)].name.0)
            };
            write!(out, "\n{name}: leader {leader}, log {}", draw_log(log)).expect("writing to a string cannot fail");
        }
        let mut nodes = state.nodes;
        nodes.sort_by_key(|node| node.name.0);
        for node in nodes {
            let left = match (node.lost, node.left_stopped) {
                (true, _) => "lost for good".into(),
                (_, true) => "left stopped".into(),
                _ => format!("left {}", draw_shard(&node.left)),
            };
            let right =
                if node.right_gone { "right destroyed".into() } else { format!("right {}", draw_shard(&node.right)) };
            write!(out, "\nnode {}: {left}; {right}", node.name.0).expect("writing to a string cannot fail");
        }
        for op in (0..OPS_MAX as u8).filter(|op| self.want(*op) != Want::Nothing) {
            let answer = match state.ops[usize::from(op)].answer {
                0 => "no answer".to_string(),
                failed if failed & FAILED != 0 => format!("told that it failed at revision {}", failed & !FAILED),
                revision => format!("told revision {revision}"),
            };
            write!(out, "\nclient {}: {:?}: {answer}", op + 1, self.want(op)).expect("writing to a string cannot fail");
        }
        out
    }
}

fn draw_shard(shard: &Shard) -> String {
    let range = match shard.range {
        0 => "nothing",
        1 => "left",
        2 => "right",
        _ => "left+right",
    };
    let Shard { applied, epoch, clock, revisions, frozen, .. } = shard;
    let frozen = if *frozen == 0 { String::new() } else { format!(", frozen for merge {frozen}") };
    format!("at {applied} owns {range}, epoch {epoch}, clock {clock}, revisions {revisions:?}{frozen}")
}

fn draw_log(log: &Log) -> String {
    let words = log.entries.iter().take(usize::from(log.length)).map(|entry| match entry {
        Entry::Write { op, attempt } => format!("client {}'s attempt {}", op + 1, attempt + 1),
        Entry::Freeze { merge } => format!("Freeze{{{merge}}}"),
        Entry::Unfreeze { merge } => format!("Unfreeze{{{merge}}}"),
        Entry::Absorb { merge } => format!("Absorb{{{merge}}}"),
        Entry::None => "nothing".into(),
    });
    format!("[{}]", words.collect::<Vec<_>>().join(", "))
}
