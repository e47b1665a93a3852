//! Steps and states in words.

use std::fmt::Write as _;

use super::state::{Attempt, Entry, FAILED, Group, Log, NOBODY, OPS_MAX, Operation, Phase, Shard, Stage, State};
use super::{Split, Step, Want};

impl Split {
    pub(super) fn describe_step(&self, state: &State, step: Step) -> String {
        let name = |node: u8| format!("node {}", state.nodes[usize::from(node)].name.0);
        let leader = |leader: u8| if leader == NOBODY { "nobody".into() } else { name(leader) };
        match step {
            Step::Send { op, attempt } => {
                let again = if attempt == 0 { "asks for" } else { "tries again:" };
                let knows_child = state.ops[usize::from(op)].knows_child;
                let route = if knows_child { "the child" } else { "the parent" };
                format!("client {} {again} {}; its router takes {route}", op + 1, self.wanted(op))
            }
            Step::Refresh { op } => format!("client {}'s router hears of the child from the catalog", op + 1),
            Step::Arrive { op, attempt } => {
                let Attempt::Sent(group) = state.ops[usize::from(op)].attempts[usize::from(attempt)] else {
                    return format!("{step:?}");
                };
                let (group_name, at) = (group_name(group), leader(state.leader(group)));
                let index = state.log(group).length;
                if self.want(op).is_read() {
                    format!("{at} leads the {group_name} and gives client {}'s read the index {index}", op + 1)
                } else {
                    let number = attempt + 1;
                    let index = index + 1;
                    format!("{at} leads the {group_name} and commits client {}'s attempt {number} as {index}", op + 1)
                }
            }
            Step::View { op } => {
                let Attempt::Waiting { group, at, .. } = state.ops[usize::from(op)].attempts[0] else {
                    return format!("{step:?}");
                };
                let replica = state.replica(group, at);
                let revision = replica.revisions[usize::from(self.want(op).token())];
                let owns = if replica.owns(self.want(op).token()) { "in" } else { "outside" };
                format!(
                    "{} takes client {}'s view of the {}: revision {revision}, {owns} its range",
                    name(at),
                    op + 1,
                    group_name(group)
                )
            }
            Step::Drive if state.operation == Operation::Aborting => "the driver sends the fence to the parent".into(),
            Step::Drive => "the driver sends the split to the parent".into(),
            Step::ProposeSplit => format!("{} commits the split in the parent's log", leader(state.parent_leader)),
            Step::ProposeFence => format!("{} commits the fence in the parent's log", leader(state.parent_leader)),
            Step::Learn => {
                "the driver reads the parent's state and writes the operation's result into the catalog".into()
            }
            Step::Close => "the driver closes the operation: all replicas of the child run".into(),
            Step::GiveUp => "the operation is to be given up".into(),
            Step::ElectParent(node) => format!("{} is elected leader of the parent", name(node)),
            Step::Transfer(node) => format!("{} takes over the parent's leadership", name(node)),
            Step::ElectChild(node) => format!("{} is elected leader of the child", name(node)),
            Step::First => "the child's leader commits an entry of its own".into(),
            Step::Apply(node) => format!("{} applies the parent's log", name(node)),
            Step::Divide(node) => {
                let part = match state.nodes[usize::from(node)].phase {
                    Phase::Idle if state.crashes_left == 0 => "applies the split: child recorded, parent narrowed",
                    Phase::Narrowed if state.crashes_left == 0 => "flushes the narrowed parent; its child is live",
                    Phase::Idle => "applies the split: makes the child's directory and syncs its record",
                    Phase::Recorded => "writes the narrowed parent, in memory",
                    Phase::Narrowed => "flushes the narrowed parent",
                    Phase::Flushed => "has the split applied: its child is live",
                };
                format!("{} {part}", name(node))
            }
            Step::ApplyChild(node) => format!("{} applies the child's log", name(node)),
            Step::Install(node) => {
                format!("{} installs a snapshot of the parent from {}", name(node), leader(state.parent_leader))
            }
            Step::Report(node) => format!("{} reports that its parent was installed past the split", name(node)),
            Step::MakeEmpty(node) => format!("{} makes an empty replica of the child", name(node)),
            Step::Fill(node) => format!("{} gets a snapshot of the child", name(node)),
            Step::MoveAway(node) => format!("the parent's replica on {} is moved away and destroyed", name(node)),
            Step::Crash(node) => format!("{} crashes and starts again", name(node)),
            Step::Lose(node) => format!("{} is lost for good", name(node)),
            Step::MetaChange => "the meta group has a new leader, which does not know what was sent".into(),
        }
    }

    fn wanted(&self, op: u8) -> String {
        match self.want(op) {
            Want::Nothing => "nothing".into(),
            Want::KeyedPut(token) => format!("a put with an idempotency key ({token:?})"),
            Want::Put(token) => format!("a put ({token:?})"),
            Want::CompareAndSet(token) => format!("a compare-and-set against revision 1 ({token:?})"),
            Want::Read(token) => format!("a read ({token:?})"),
        }
    }

    pub(super) fn draw(&self, state: &State) -> String {
        let mut out = format!("operation: {:?}", state.operation);
        let logs =
            [("parent", &state.parent_log, state.parent_leader), ("child", &state.child_log, state.child_leader)];
        for (name, log, leader) in logs {
            let leader =
                state.nodes.get(usize::from(leader)).map_or("none".into(), |node| format!("node {}", node.name.0));
            write!(out, "\n{name}: leader {leader}, log {}", draw_log(log)).expect("writing to a string cannot fail");
        }
        let mut nodes = state.nodes;
        nodes.sort_by_key(|node| node.name.0);
        for node in nodes {
            let number = node.name.0;
            let parent = match (node.lost, node.moved_away) {
                (true, _) => "lost for good".into(),
                (false, true) => "parent moved away".into(),
                (false, false) => format!("parent {}", self.draw_shard(&node.parent)),
            };
            let child = match node.stage {
                Stage::None => "no child".into(),
                Stage::Empty => "child empty".into(),
                stage => format!("child {stage:?} {}", self.draw_shard(&node.child)),
            };
            write!(out, "\nnode {number}: {parent}; {child}").expect("writing to a string cannot fail");
        }
        for op in (0..OPS_MAX as u8).filter(|op| self.want(*op) != Want::Nothing) {
            let answer = match state.ops[usize::from(op)].answer {
                0 => "no answer".to_string(),
                failed if failed & FAILED != 0 => format!("told that it failed at revision {}", failed & !FAILED),
                revision => format!("told revision {revision}"),
            };
            write!(out, "\nclient {}: {}: {answer}", op + 1, self.wanted(op)).expect("writing to a string cannot fail");
        }
        out
    }

    fn draw_shard(&self, shard: &Shard) -> String {
        let range = match shard.range {
            0 => "nothing",
            1 => "left",
            2 => "right",
            _ => "left+right",
        };
        let Shard { applied, epoch, clock, revisions, times, .. } = shard;
        format!(
            "at {applied} owns {range}, epoch {epoch}, clock {clock}, revisions {revisions:?}, carried out {times:?}"
        )
    }
}

fn group_name(group: Group) -> &'static str {
    match group {
        Group::Parent => "parent",
        Group::Child => "child",
    }
}

fn draw_log(log: &Log) -> String {
    let words = log.entries.iter().take(usize::from(log.length)).map(|entry| match entry {
        Entry::Write { op, attempt } => format!("client {}'s attempt {}", op + 1, attempt + 1),
        Entry::Split => "split".into(),
        Entry::Fence => "fence".into(),
        Entry::First => "first".into(),
        Entry::None => "nothing".into(),
    });
    format!("[{}]", words.collect::<Vec<_>>().join(", "))
}
