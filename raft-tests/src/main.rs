//! The fault tests of Ringraft as one program: see the README beside it.

use std::process::ExitCode;

use raft_tests::{checker, mutants, power_cuts, powerfs, real, report, show, sim};

const USAGE: &str = "\
usage: raft-tests try [--seed NUMBER] [--out DIRECTORY] [--no-root]
       raft-tests real --profile NAME [--seconds NUMBER] [--seed NUMBER] [--out DIRECTORY] [--no-root] [--nodes 3|5]
       raft-tests real --list
       raft-tests sim --seed NUMBER | --seeds NUMBER | --compare NUMBER | --regressions | --scenarios
       raft-tests script NAME [--seed NUMBER] [--history OUT.jsonl] [--json]
       raft-tests power-cuts [--whole-cluster] [--cuts NUMBER] [--seed NUMBER] [--out DIRECTORY]
                             [--plant ack-early|lie-sync|lie-dirsync]
       raft-tests mutants [--only NAME] [--seeds NUMBER] [--jobs NUMBER] [--out DIRECTORY]
       raft-tests check FILE [--picture OUT.html]
       raft-tests report DIRECTORY... [--html OUT.html] [--totals]
       raft-tests list
       raft-tests show NAME [--short] [--seed NUMBER] [--rounds NUMBER] [--minutes NUMBER] [--tree DIRECTORY]...

Exit codes: 0 good, 1 a violation, 2 undecided, 3 bad arguments or files, 4 void: the run proves nothing. Of `show` and of a
command that does not exist: 1 a statement is false, 2 bad arguments.

The program under test is RINGRAFT_BIN, or the `ringraft` beside this program. With KEEP_NODES=1 the nodes' data and
logs are left behind.";

/// As for every program: wrong arguments are not a failure of what is tested.
const EXIT_USAGE: u8 = 2;

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for show in show::ALL {
                println!("{:<14} {}", show.name, show.statement);
            }
            ExitCode::SUCCESS
        }
        ["show", name, rest @ ..] => match (show::find(name), show::Options::parse(rest)) {
            (Some(show), Ok(options)) => show::run(show, &options),
            (None, _) => usage(&format!("no show is named {name}; `raft-tests list` lists them")),
            (_, Err(why)) => usage(&why),
        },
        ["try", rest @ ..] => ExitCode::from(real::try_it(rest)),
        ["real", rest @ ..] => ExitCode::from(real::command(rest)),
        ["sim", rest @ ..] => ExitCode::from(sim::command(rest)),
        ["script", rest @ ..] => ExitCode::from(sim::scripts::command(rest)),
        ["power-cuts", rest @ ..] => ExitCode::from(power_cuts::command(rest)),
        ["mutants", rest @ ..] => ExitCode::from(mutants::command(rest)),
        ["check", rest @ ..] => ExitCode::from(checker::command(rest)),
        ["report", rest @ ..] => ExitCode::from(report::command(rest)),
        // For power loss: a file system, and a process to lose power under.
        ["powerfs", rest @ ..] => powerfs::process::main(rest),
        ["power-cuts-writer", rest @ ..] => power_cuts::writer::main(rest),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        [] => usage("a command is missing"),
        [other, ..] => usage(&format!("{other} is no command")),
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("raft-tests: {why}\n{USAGE}");
    ExitCode::from(EXIT_USAGE)
}
