//! What a log entry asks of a shard, and what it answers. Both formats are part of disk and wire: golden files pin them,
//! tags are never reused, and a new kind of command is proposed only once the catalog's feature level allows it.

use bytes::Bytes;

use crate::catalog::{CatalogCommand, CatalogResponse, ReplicaBirth};
use crate::ring::{Token, TokenRange};
use crate::types::{Epoch, Revision, ShardId};
use crate::{wire_enum, wire_struct};

/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Longest content type that is kept, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One key's change.
    Write(Write),
    /// A change of the cluster's metadata; the meta group only.
    Catalog(CatalogCommand),
    /// The first command of a data shard: what it owns. Proposed by its founder, refused once it was applied.
    Birth(Birth),
    /// The shard becomes two. Proposed by its leader while a split of it runs.
    Split(Split),
    /// The shard does not become two by that split any more: what the driver of a split proposes that was given up.
    Fence(Fence),
}
wire_enum!(Command { 1 => Write(write), 2 => Catalog(command), 3 => Birth(birth), 4 => Split(split), 5 => Fence(fence) });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Bytes,
    /// The leader's shard time in milliseconds: the replicated time plus its own monotonic elapsed time. It only ever
    /// ages dedup records; it orders and expires nothing else.
    pub time_ms: u64,
    pub precondition: Precondition,
    /// At most [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes.
    pub idempotency_key: Option<Bytes>,
    pub action: Action,
}
wire_struct!(Write { key, time_ms, precondition, idempotency_key, action });

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Put {
        content_type: Option<String>,
        value: Bytes,
    },
    /// Idempotent: a key that is not there stays so, and no revision is used.
    Delete,
}
wire_enum!(Action { 1 => Put { content_type, value }, 2 => Delete });

/// What the key's current revision must be (RFC 9110 §13). Both must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Precondition {
    pub if_match: Option<Match>,
    pub if_none_match: Option<Match>,
}
wire_struct!(Precondition { if_match, if_none_match });

impl Precondition {
    pub fn is_none(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    pub fn holds(&self, current: Option<Revision>) -> bool {
        self.if_match.as_ref().is_none_or(|wanted| wanted.matches(current))
            && !self.if_none_match.as_ref().is_some_and(|unwanted| unwanted.matches(current))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `*`: the key exists.
    Any,
    /// The key exists at one of these.
    Revisions(Vec<Revision>),
}
wire_enum!(Match { 1 => Any, 2 => Revisions(revisions) });

impl Match {
    pub fn matches(&self, current: Option<Revision>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Match::Any, Some(_)) => true,
            (Match::Revisions(revisions), Some(current)) => revisions.contains(&current),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    pub shard: ShardId,
    pub range: TokenRange,
    pub epoch: Epoch,
    /// Where the revision clock starts.
    pub revision_base: Revision,
}
wire_struct!(Birth { shard, range, epoch, revision_base });

/// Two shards out of one (`architecture` §6): the tokens from `at` on become the child's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The shard's own when the split was planned: at any other it is refused, so of two copies one at most is taken
    /// (`models` §3).
    pub epoch: Epoch,
    /// Index of the entry that made the membership for which the births were planned.
    pub membership: u64,
    pub at: Token,
    pub child: ShardId,
    /// One for each voter.
    pub births: Vec<ReplicaBirth>,
}
wire_struct!(Split { epoch, membership, at, child, births });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Names the split, for no other has this child.
    pub child: ShardId,
}
wire_struct!(Fence { child });

/// Why a shard did not split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitRefusal {
    /// Also the answer to a second copy of a split that was taken: whoever asks goes by the shard's state, never by this
    /// (`models` §9).
    #[error("the shard's epoch is {epoch}")]
    Epoch { epoch: Epoch },
    #[error("the split was given up")]
    Fenced,
    #[error("the group's members are not those it was planned for")]
    Membership,
    #[error("the token is not within the shard")]
    Token,
}
wire_enum!(SplitRefusal { 1 => Epoch { epoch }, 2 => Fenced, 3 => Membership, 4 => Token });

/// The answer of `apply`, the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A blank or membership entry.
    Nothing,
    /// The value is stored at `revision`.
    Written {
        revision: Revision,
        created: bool,
        replayed: bool,
    },
    /// The key is not there (any more). `revision` is the delete's own, none when there was nothing to delete.
    Deleted {
        revision: Option<Revision>,
        replayed: bool,
    },
    /// Nothing changed: the key was at `current`.
    PreconditionFailed {
        current: Option<Revision>,
        replayed: bool,
    },
    /// Nothing changed: the shard does not own the key. `range` is none before its birth.
    NotOwner {
        range: Option<TokenRange>,
        epoch: Epoch,
    },
    /// Nothing changed: this idempotency key belongs to another payload.
    IdempotencyKeyReuse,
    /// Nothing changed: the dedup table is full, and forgetting early would break its promise.
    IdempotencyTableFull,
    Catalog(CatalogResponse),
    /// The shard owns its range now, or did already.
    Born,
    /// Nothing changed: a data command in the meta group or the other way round. A bug of the proposer.
    Misdirected,
    /// The shard has become two.
    Split,
    /// Nothing changed.
    NotSplit {
        why: SplitRefusal,
    },
    /// The shard will not become two by that split, unless it has already.
    Fenced,
}
wire_enum!(Response {
    1 => Nothing,
    2 => Written { revision, created, replayed },
    3 => Deleted { revision, replayed },
    4 => PreconditionFailed { current, replayed },
    5 => NotOwner { range, epoch },
    6 => IdempotencyKeyReuse,
    7 => IdempotencyTableFull,
    8 => Catalog(response),
    9 => Born,
    10 => Misdirected,
    11 => Split,
    12 => NotSplit { why },
    13 => Fenced,
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ReplicaId;
    use crate::wire::golden;

    fn split() -> Command {
        Command::Split(Split {
            epoch: Epoch(0x0102),
            membership: 0x0203,
            at: Token(0x0304),
            child: ShardId(0x0405),
            births: vec![ReplicaBirth { parent: ReplicaId(0x0506), child: ReplicaId(0x0607) }],
        })
    }

    #[test]
    fn commands_keep_their_bytes() {
        golden::check(
            "command",
            &[
                Command::Write(Write {
                    key: Bytes::from_static(b"a\x00\xff"),
                    time_ms: 1,
                    precondition: Precondition::default(),
                    idempotency_key: None,
                    action: Action::Put { content_type: None, value: Bytes::from_static(b"v") },
                }),
                Command::Write(Write {
                    key: Bytes::from_static(b"k"),
                    time_ms: u64::MAX,
                    precondition: Precondition {
                        if_match: Some(Match::Revisions(vec![Revision(1), Revision(2)])),
                        if_none_match: Some(Match::Any),
                    },
                    idempotency_key: Some(Bytes::from_static(b"retry-1")),
                    action: Action::Put { content_type: Some("text/plain".into()), value: Bytes::new() },
                }),
                Command::Write(Write {
                    key: Bytes::from_static(b"k"),
                    time_ms: 0,
                    precondition: Precondition { if_match: Some(Match::Any), if_none_match: None },
                    idempotency_key: None,
                    action: Action::Delete,
                }),
                Command::Birth(Birth {
                    shard: ShardId(3),
                    range: TokenRange { first: Token(1), last: Token(u64::MAX) },
                    epoch: Epoch(1),
                    revision_base: Revision(0x18f3c5a2b0000),
                }),
                split(),
                Command::Fence(Fence { child: ShardId(0x0405) }),
            ],
        );
    }

    #[test]
    fn commands_and_answers_of_the_catalog_keep_their_bytes() {
        let catalog = [
            Command::Catalog(CatalogCommand::ShardLive { shard: ShardId(0x0102) }),
            Command::Catalog(CatalogCommand::RaiseFeatureLevel { to: 3 }),
        ];
        golden::check("command_catalog", &catalog);
        let responses = [
            Response::Catalog(CatalogResponse::Applied { version: 0x0102 }),
            Response::NotOwner { range: Some(TokenRange { first: Token(1), last: Token(2) }), epoch: Epoch(4) },
            Response::PreconditionFailed { current: None, replayed: true },
        ];
        golden::check("response_catalog", &responses);
        let write = |action| Write {
            key: Bytes::new(),
            time_ms: 0,
            precondition: Precondition::default(),
            idempotency_key: None,
            action,
        };
        let birth = Birth { shard: ShardId(1), range: TokenRange::full(), epoch: Epoch(1), revision_base: Revision(1) };
        let [of_catalog, _] = catalog;
        golden::has_every_tag(&[
            Command::Write(write(Action::Delete)),
            of_catalog,
            Command::Birth(birth),
            split(),
            Command::Fence(Fence { child: ShardId(2) }),
        ]);
        golden::has_every_tag(&[Action::Put { content_type: None, value: Bytes::new() }, Action::Delete]);
        golden::has_every_tag(&[Match::Any, Match::Revisions(Vec::new())]);
    }

    #[test]
    fn responses_keep_their_bytes() {
        let responses = [
            Response::Nothing,
            Response::Written { revision: Revision(7), created: true, replayed: false },
            Response::Deleted { revision: Some(Revision(7)), replayed: true },
            Response::Deleted { revision: None, replayed: false },
            Response::PreconditionFailed { current: Some(Revision(9)), replayed: false },
            Response::NotOwner { range: None, epoch: Epoch(4) },
            Response::IdempotencyKeyReuse,
            Response::IdempotencyTableFull,
            Response::Born,
            Response::Misdirected,
            Response::Split,
            Response::NotSplit { why: SplitRefusal::Epoch { epoch: Epoch(0x0102) } },
            Response::NotSplit { why: SplitRefusal::Fenced },
            Response::NotSplit { why: SplitRefusal::Membership },
            Response::NotSplit { why: SplitRefusal::Token },
            Response::Fenced,
        ];
        golden::check("response", &responses);
        let mut all = responses.to_vec();
        all.push(Response::Catalog(CatalogResponse::Applied { version: 1 }));
        golden::has_every_tag(&all);
        let refusals = [
            SplitRefusal::Epoch { epoch: Epoch(1) },
            SplitRefusal::Fenced,
            SplitRefusal::Membership,
            SplitRefusal::Token,
        ];
        golden::has_every_tag(&refusals);
    }

    #[test]
    fn preconditions_follow_rfc_9110() {
        let at = |revision: u64| Some(Revision(revision));
        let if_match = |wanted| Precondition { if_match: Some(wanted), if_none_match: None };
        let if_none = |unwanted| Precondition { if_match: None, if_none_match: Some(unwanted) };
        assert!(Precondition::default().holds(None) && Precondition::default().holds(at(1)));
        assert!(if_match(Match::Any).holds(at(1)) && !if_match(Match::Any).holds(None));
        assert!(if_none(Match::Any).holds(None) && !if_none(Match::Any).holds(at(1)));
        let several = || Match::Revisions(vec![Revision(1), Revision(2)]);
        assert!(
            if_match(several()).holds(at(2)) && !if_match(several()).holds(at(3)) && !if_match(several()).holds(None)
        );
        assert!(if_none(several()).holds(at(3)) && if_none(several()).holds(None) && !if_none(several()).holds(at(1)));
    }
}
