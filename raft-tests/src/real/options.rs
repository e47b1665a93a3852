//! The words of `raft-tests real`.

use std::path::PathBuf;

use super::profile::{self, Profile};
use super::world::Ground;

pub const USAGE: &str = "\
usage: raft-tests real --profile NAME [--seconds NUMBER] [--times NUMBER] [--seed NUMBER] [--out DIRECTORY] [--no-root]
                       [--nodes 3|5]
       raft-tests real --list
       raft-tests try [--seed NUMBER] [--out DIRECTORY] [--no-root]

Starts a cluster of real processes, makes faults while clients write a history, checks it, and leaves history.jsonl,
run.json and each node's log in a new directory. Without --no-root it needs root and the programs of the Debian packages
iproute2 and nftables; everything it makes is in namespaces of its own and gone with it. With --no-root it makes fewer
faults. --times ends the run after so many faults, and not after a time.
Exits with 0 good, 1 violation, 2 undecided, 3 bad arguments or a machine that cannot run it, 4 void.";

/// Shortest run, in seconds: less has no time for a fault.
const SECONDS_MIN: u64 = 10;

#[derive(Debug, PartialEq)]
pub struct Options {
    pub profile: &'static Profile,
    pub seconds: u64,
    /// Cards dealt; none for as many as the time allows.
    pub times: Option<u64>,
    pub seed: u64,
    pub out: PathBuf,
    pub ground: Ground,
    pub nodes: usize,
}

impl Options {
    /// `draw` gives a seed when none is said.
    pub fn parse(words: &[&str], draw: impl FnOnce() -> u64) -> Result<Self, String> {
        let (mut name, mut seconds, mut times, mut seed, mut out) = (None, None, None, None, None);
        let (mut ground, mut nodes) = (Ground::Bridge, None);
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| format!("{word} wants a value"));
            let number = |text: &str| {
                text.parse::<u64>().map_err(|_| format!("{word} takes a whole number from 0 on, not {text:?}"))
            };
            match word {
                "--profile" => name = Some(value()?),
                "--seconds" => seconds = Some(number(value()?)?),
                "--times" => times = Some(number(value()?)?),
                "--seed" => seed = Some(number(value()?)?),
                "--out" => out = Some(PathBuf::from(value()?)),
                "--no-root" => ground = Ground::Proxy,
                "--nodes" => {
                    nodes = match value()? {
                        "3" => Some(3),
                        "5" => Some(5),
                        other => return Err(format!("--nodes takes 3 or 5, not {other:?}")),
                    };
                }
                other => return Err(format!("{other} is no option")),
            }
        }
        let name = name.ok_or("--profile is missing; --list lists the profiles")?;
        let profile = profile::find(name).ok_or_else(|| {
            let names: Vec<&str> = profile::ALL.iter().map(|profile| profile.name).collect();
            format!("no profile is named {name}; there are {}", names.join(", "))
        })?;
        let seconds = seconds.unwrap_or(profile.seconds);
        if seconds < SECONDS_MIN {
            return Err(format!("--seconds takes {SECONDS_MIN} or more, not {seconds}"));
        }
        if times == Some(0) {
            return Err("--times takes 1 or more".to_string());
        }
        let needs_spare = profile::needs(profile.cards).spare_nodes;
        let nodes = nodes.unwrap_or(if needs_spare { 5 } else { 3 });
        if needs_spare && nodes == 3 {
            return Err(format!("{name} needs nodes that have no replica of a shard: --nodes 5"));
        }
        let seed = seed.unwrap_or_else(draw);
        let out = out.unwrap_or_else(|| PathBuf::from(format!("real-{name}-{seed}")));
        Ok(Self { profile, seconds, times, seed, out, ground, nodes })
    }

    /// The command that repeats the run, as far as real processes repeat anything.
    pub fn command(&self) -> String {
        let mut command = format!("raft-tests real --profile {} --seed {}", self.profile.name, self.seed);
        match self.times {
            Some(times) => command += &format!(" --times {times}"),
            None => command += &format!(" --seconds {}", self.seconds),
        }
        if self.nodes != 3 {
            command += &format!(" --nodes {}", self.nodes);
        }
        if self.ground == Ground::Proxy {
            command += " --no-root";
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(words, || 77)
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let options = parse(&["--profile", "kill-pause"]).unwrap();
        assert_eq!((options.seconds, options.nodes, options.seed, options.ground), (60, 3, 77, Ground::Bridge));
        assert_eq!(options.out, PathBuf::from("real-kill-pause-77"));
        assert_eq!(options.command(), "raft-tests real --profile kill-pause --seed 77 --seconds 60");
    }

    #[test]
    fn a_command_repeats_its_run() {
        let words = ["--profile", "lease-trap", "--times", "200", "--seed", "5", "--nodes", "5", "--no-root"];
        let options = parse(&words).unwrap();
        let command = options.command();
        let again: Vec<&str> = command.split(' ').skip(2).collect();
        assert_eq!(parse(&again).unwrap(), options);
    }

    #[test]
    fn bad_words_are_told_with_what_is_allowed() {
        for (words, told) in [
            (&["--profile", "killing"][..], "kill-pause"),
            (&[], "--profile is missing"),
            (&["--profile", "kill-pause", "--seconds", "1"], "10 or more"),
            (&["--profile", "kill-pause", "--seed", "-1"], "whole number"),
            (&["--profile", "kill-pause", "--nodes", "4"], "3 or 5"),
            (&["--profile", "kill-pause", "--times", "0"], "1 or more"),
            (&["--profile", "kill-pause", "--fast"], "no option"),
            (&["--profile"], "wants a value"),
        ] {
            let why = parse(words).unwrap_err();
            assert!(why.contains(told), "{words:?}: {why}");
        }
    }
}
