//! Every request between peers, in one table. Numbers are never reused; a peer that does not know one answers so.

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum Method {
            $($(#[$doc])* $name = $number,)*
        }

        impl Method {
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    /// Raft: log entries, or a heartbeat.
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    /// Raft: one piece of a snapshot stream.
    SnapshotChunk = 5,
    /// Router: a single-key write for the leader.
    Write = 16,
    /// Router: a single-key read.
    Read = 17,
    /// Router: a scan of one shard.
    Scan = 18,
    /// The peer's copy of the catalog.
    FetchCatalog = 32,
    /// "Who are you, and what cluster do you know?"; answered by any node.
    WhoIs = 33,
    /// A node asks to be taken in.
    Join = 34,
    /// A catalog command, for the meta group's leader.
    ProposeCatalog = 35,
    /// What a node's replicas look like from within.
    ReplicaReports = 36,
    /// The hash of a replica's logical rows (test support).
    Digest = 37,
    /// "Would you lead this shard now?": asked before a transfer, because a failed one costs an election.
    ReadyToLead = 38,
    /// Router: who belongs to a group, asked of its leader.
    Members = 39,
    /// Router: the newest catalog, asked of the meta group's leader.
    NewestCatalog = 40,
    /// For how long a node has not heard of each of the others.
    Silences = 41,
    /// Router: what a shard's own state says of splits, asked of its leader.
    SplitState = 42,
    /// Router: where a shard can be split, asked of its leader.
    SplitPoint = 43,
    /// A replica flushes its rows: asked in front of a split, so that the child's birth has little to write.
    Flush = 44,
}

#[cfg(test)]
mod tests {
    use super::Method;

    #[test]
    fn numbers_never_change() {
        let pinned = [
            (1, Method::Append),
            (2, Method::Vote),
            (3, Method::PreVote),
            (4, Method::TransferLeader),
            (5, Method::SnapshotChunk),
            (16, Method::Write),
            (17, Method::Read),
            (18, Method::Scan),
            (32, Method::FetchCatalog),
            (33, Method::WhoIs),
            (34, Method::Join),
            (35, Method::ProposeCatalog),
            (36, Method::ReplicaReports),
            (37, Method::Digest),
            (38, Method::ReadyToLead),
            (39, Method::Members),
            (40, Method::NewestCatalog),
            (41, Method::Silences),
            (42, Method::SplitState),
            (43, Method::SplitPoint),
            (44, Method::Flush),
        ];
        for number in 0..=u8::MAX {
            let known = pinned.iter().find(|(pinned, _)| *pinned == number).map(|(_, method)| *method);
            assert_eq!(Method::from_number(number), known, "number {number}");
        }
        assert!(pinned.iter().all(|(number, method)| *method as u8 == *number));
    }
}
