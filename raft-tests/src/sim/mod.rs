//! Whole nodes under turmoil: simulated time and network, disks in memory with the sync boundary modelled. The server's
//! code is the one that runs in production; only its seams (clock, network, disk) are others.
//!
//! | module | job |
//! |---|---|
//! | `world` | nodes that can be started, crashed and looked into; the step that all time passes by |
//! | `net`, `http` | turmoil's network behind the server's seam; single requests over it |
//! | `clocks` | a clock for each node: its rate, its suspends |
//! | `probe` | datagrams that show who reaches whom, so that a fault of the network is known to have been one |
//! | `plan` | what a seed comes to: cluster, thresholds, timing, load, faults |
//! | `fault`, `nemesis` | what can be broken, how that is confirmed, and when |
//! | `invariants` | what must hold of all replicas after each step |
//! | `trap`, `hammer` | the lease trap, a scenario that goes by a script, and its clients |
//! | `scripts` | faults by a script, each at the one moment at which a certain bug would show |
//! | `run` | one seed from its plan to its verdict |
//! | `command` | `raft-tests sim` |
//!
//! Everything that happens in a run follows from its seed, in a process that runs nothing else: random choices inside
//! the futures crate go on from those that the process made before.

mod clocks;
mod command;
mod fault;
mod hammer;
mod http;
mod invariants;
mod nemesis;
mod net;
mod plan;
mod probe;
mod regressions;
mod run;
pub mod scripts;
mod trap;
mod world;

pub use command::{USAGE, command};
pub use http::{call, request, until, until_ready};
pub use net::SimNet;
pub use world::{HTTP_PORT, PEER_PORT, Stage, World, config, host, simulate};
