//! Steps and states in words.

use std::fmt::Write as _;

use super::state::{FRESH, Kind, LEAVING, Life, Log, State};
use super::steps::all;
use super::{Move, Step};

fn name(state: &State, id: u8) -> String {
    match id {
        LEAVING => "the old replica".into(),
        FRESH => "the fresh replica".into(),
        _ => format!("replica {}", state.replica(id).name.0 + 1),
    }
}

impl Move {
    pub(super) fn describe_step(&self, state: &State, step: Step) -> String {
        let name = |id: u8| name(state, id);
        match step {
            Step::Campaign { by, granted, is_upset } => {
                let from: Vec<String> = all().filter(|id| granted & (1 << id) != 0).map(name).collect();
                let upset = if is_upset { " although there is a leader" } else { "" };
                format!("{} is granted the votes of {}{upset}", name(by), from.join(" and "))
            }
            Step::Win { by } => format!("{} hears of its votes and leads", name(by)),
            Step::Append { from, to } => format!("{} brings {} up to date", name(from), name(to)),
            Step::Commit { by } => format!("{} commits what a quorum has", name(by)),
            Step::Write { at } => format!("{} takes a client's write", name(at)),
            Step::MakeFresh => "the fresh replica is made, empty, by order of the catalog".into(),
            Step::OrderAgain { id } => format!("{} is made again, empty, by an old copy of the catalog", name(id)),
            Step::Plan { at } => {
                format!("the driver at {} plans {:?}", name(at), self.next_change(state, at).unwrap_or(Kind::Back))
            }
            Step::Act { at } => {
                let plan = state.replica(at).plan.map(|plan| plan.append);
                format!(
                    "{} appends the planned {:?}, if the membership is as it was",
                    name(at),
                    plan.unwrap_or(Kind::Back)
                )
            }
            Step::TimeOut { at } => {
                format!("the driver at {} hears nothing of its plan, which may still arrive", name(at))
            }
            Step::ActLate { at } => format!("the late plan arrives at {}", name(at)),
            Step::Complete { at } => format!("{} completes the joint membership", name(at)),
            Step::StepDown { of } => format!("{} is out of the membership and steps down", name(of)),
            Step::Learn { .. } => {
                "the driver reads the committed membership and writes the result into the catalog".into()
            }
            Step::GiveUp => "the move is to be given up".into(),
            Step::Destroy { id } => format!("{} is destroyed by its node", name(id)),
            Step::Crash { of } => format!("{} crashes and starts again", name(of)),
            Step::Lose { id } => format!("{} is lost for good with its node", name(id)),
        }
    }

    pub(super) fn draw(&self, state: &State) -> String {
        let mut out = format!("operation: {:?}\ncommitted: {}", state.operation, draw_log(&state.committed));
        for id in all() {
            let replica = state.replica(id);
            let who = name(state, id);
            let what = match replica.life {
                Life::Live => format!(
                    "{:?} in term {}, log {}, committed {}{}",
                    replica.role,
                    replica.term,
                    draw_log(&replica.log),
                    replica.commit,
                    if self.serves(state, id) { ", serves" } else { "" }
                ),
                life => format!("{life:?}"),
            };
            write!(out, "\n{who}: {what}").expect("writing to a string cannot fail");
        }
        out
    }
}

fn draw_log(log: &Log) -> String {
    let words: Vec<String> = log.entries().iter().map(|entry| format!("{:?}@{}", entry.kind, entry.term)).collect();
    format!("[{}]", words.join(" "))
}
