//! A voter that restarts has forgotten the lease it granted (`openraft` §3.2). While the leader it was granted to is cut
//! off and still answers by it, no other leader may acknowledge a write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringraft::clock;
use ringraft::machine::Response;
use ringraft::raft::{ReadMode, Timing};

use super::cluster::{Cluster, pause, put, soon, until};

/// A legal timing with candidates that are quick against the lease they could break: a lease read trusts 700 ms.
pub(super) const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(50),
    election_min: Duration::from_millis(200),
    election_max: Duration::from_millis(1000),
    quorum_loss_probe: Duration::from_millis(2000),
};
/// A round says nothing when the voters came back after the lease, as they may on a machine that is busy.
const ROUNDS_MAX: u32 = 10;
const READ_DEADLINE: Duration = Duration::from_millis(50);

/// How long the old leader is still asked after the write elsewhere.
const ASKED_ON: Duration = Duration::from_millis(300);

/// Who restarts once the leader is cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trap {
    BothVoters,
    /// One alone; the other was cut off before, remembers no lease that counts, and asks for votes all the time.
    OneVoter,
}

pub(super) async fn both_voters_restart(cluster: Cluster) {
    run(cluster, Trap::BothVoters).await;
}

pub(super) async fn one_voter_restarts(cluster: Cluster) {
    run(cluster, Trap::OneVoter).await;
}

async fn run(cluster: Cluster, trap: Trap) {
    cluster.form().await;
    for round in 0..ROUNDS_MAX {
        if spring(&cluster, trap, round).await {
            return;
        }
    }
    panic!("in no round did the leader answer by its lease after the voters were back");
}

/// Order of what happened anywhere in the group.
#[derive(Default)]
struct History {
    next: AtomicU64,
}

impl History {
    fn place(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }
}

/// A read that the old leader answered.
#[derive(Debug)]
struct Answered {
    begun: u64,
    value: Option<Bytes>,
    served: ReadMode,
}

/// One round. Says whether the old leader answered by its lease after the voters were back.
async fn spring(cluster: &Cluster, trap: Trap, round: u32) -> bool {
    let (old_value, new_value) = (format!("old{round}"), format!("new{round}"));
    cluster.put("k", old_value.clone()).await;
    cluster.expect_equal_replicas().await;
    let leader = cluster.leader().await;
    let [first, second] = cluster.others(leader);
    if trap == Trap::OneVoter {
        cluster.world.cut(leader, first);
        let cut = clock::now();
        // Past its own patience the first asks for votes, and the second remembers the lease.
        let timing = cluster.timing();
        until("the first is out of patience", || clock::now().since(cut) > 2 * timing.election_max).await;
        if !cluster.replica(leader).is_leader() {
            cluster.rejoin(leader);
            return false;
        }
    }

    let history = History::default();
    cluster.isolate(leader);
    let cut = clock::now();
    let is_over = AtomicBool::new(false);
    let read = async {
        let mut answered = Vec::new();
        while !is_over.load(Ordering::SeqCst) {
            let begun = history.place();
            let deadline = clock::now().after(READ_DEADLINE);
            if let Ok((value, served)) = cluster.read(leader, "k", ReadMode::Lease, deadline).await {
                answered.push(Answered { begun, value, served });
            }
            pause().await;
        }
        answered
    };
    let restart_and_write = async {
        match trap {
            Trap::BothVoters => {
                tokio::join!(restart(cluster, first), restart(cluster, second));
            }
            Trap::OneVoter => restart(cluster, second).await,
        }
        let back = history.place();
        let acknowledged = write_at_either(cluster, [first, second], &new_value, &history).await;
        let (timing, acknowledged_at) = (cluster.timing(), clock::now());
        until("every lease is over and the old leader was asked since", || {
            clock::now().since(cut) > timing.election_max && clock::now().since(acknowledged_at) > ASKED_ON
        })
        .await;
        is_over.store(true, Ordering::SeqCst);
        (back, acknowledged)
    };
    let (answered, (back, acknowledged)) = tokio::join!(read, restart_and_write);

    let stale: Vec<_> = answered
        .iter()
        .filter(|read| read.begun > acknowledged && read.value.as_deref() != Some(new_value.as_bytes()))
        .collect();
    assert!(
        stale.is_empty(),
        "round {round}: {} reads at the cut-off leader, the first {:?}, began after {new_value:?} was acknowledged \
         elsewhere (at {acknowledged})",
        stale.len(),
        stale[0]
    );
    let covers = answered.iter().any(|read| read.begun > back && read.served == ReadMode::Lease);
    cluster.rejoin(leader);
    cluster.expect("k", new_value.as_bytes()).await;
    covers
}

async fn restart(cluster: &Cluster, number: u64) {
    cluster.world.kill(number).await;
    cluster.world.start(number).await;
}

/// Writes at whichever of the two leads, as soon as one does. Gives the place of its acknowledgement.
async fn write_at_either(cluster: &Cluster, voters: [u64; 2], value: &str, history: &History) -> u64 {
    const ATTEMPT: Duration = Duration::from_secs(2);
    let deadline = soon();
    loop {
        for number in voters {
            let replica = cluster.replica(number);
            if replica.is_leader() {
                let written = replica.propose(put("k", value.to_string()), None, clock::now().after(ATTEMPT)).await;
                if matches!(written, Ok(Response::Written { .. })) {
                    return history.place();
                }
            }
        }
        assert!(clock::now() < deadline, "neither voter leads");
        pause().await;
    }
}
