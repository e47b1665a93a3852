//! Who is dead by what the voters of the meta group hear.

use super::*;
use crate::catalog::apply;
use crate::catalog::testing::profile;
use crate::types::{ClusterId, ReplicaId, Revision};

const GRACE: Duration = Duration::from_secs(300);

/// Five nodes; the meta group's voters are on the first three.
fn catalog(dead: &[u64]) -> Catalog {
    let mut catalog = None;
    let mut send = |command| match apply(&mut catalog, &command) {
        CatalogResponse::Refused { why } => panic!("{command:?}: {why}"),
        response => response,
    };
    send(CatalogCommand::Found {
        cluster: ClusterId(1),
        replication_factor: 3,
        initial_shards: 1,
        revision_base: Revision(1),
        node: profile(1),
    });
    for store in 2..=5 {
        send(CatalogCommand::JoinNode { time_ms: 3, node: profile(store) });
    }
    for (node, epoch) in [(2, 1), (3, 2)] {
        let expected_epoch = crate::types::Epoch(epoch);
        send(CatalogCommand::AddReplica { shard: META_SHARD, node: NodeId(node), expected_epoch });
        send(CatalogCommand::ReplicaIsVoter { shard: META_SHARD, replica: ReplicaId(node) });
    }
    for node in dead {
        send(CatalogCommand::MarkNode { time_ms: 4, node: NodeId(*node), is_dead: true });
    }
    catalog.unwrap()
}

/// What voters say of others, in seconds of silence.
fn heard(said: &[(u64, &[(u64, u64)])]) -> BTreeMap<NodeId, Vec<Silence>> {
    let silence = |(node, seconds): &(u64, u64)| Silence { node: NodeId(*node), for_ms: seconds * 1000 };
    said.iter().map(|(voter, silent)| (NodeId(*voter), silent.iter().map(silence).collect())).collect()
}

#[test]
fn a_node_is_dead_when_most_voters_have_not_heard_of_it_for_the_grace_period() {
    let catalog = catalog(&[]);
    let dead = |said| verdicts(&catalog, &heard(said), GRACE);
    assert_eq!(dead(&[(1, &[(5, 300)]), (2, &[(5, 400)]), (3, &[(5, 1)])]), [(NodeId(5), true)]);
    assert_eq!(dead(&[(1, &[(5, 300)]), (2, &[(5, 299)]), (3, &[(5, 1)])]), [], "one voter may be cut off itself");
    assert_eq!(dead(&[(1, &[(5, 300)])]), [], "voters that say nothing do not agree");
}

#[test]
fn a_voter_of_the_meta_group_dies_by_the_word_of_the_two_others() {
    let catalog = catalog(&[]);
    let dead = |said| verdicts(&catalog, &heard(said), GRACE);
    assert_eq!(dead(&[(1, &[(3, 300)]), (2, &[(3, 300)])]), [(NodeId(3), true)]);
    // The leader that hears nobody has no second word.
    assert_eq!(dead(&[(1, &[(2, 300), (3, 300), (4, 300), (5, 300)])]), []);
}

#[test]
fn a_dead_node_lives_as_soon_as_most_voters_hear_of_it() {
    let catalog = catalog(&[5]);
    let lives = |said| verdicts(&catalog, &heard(said), GRACE);
    assert_eq!(lives(&[(1, &[(5, 0)]), (2, &[(5, 1)]), (3, &[(5, 400)])]), [(NodeId(5), false)]);
    assert_eq!(lives(&[(1, &[(5, 0)]), (2, &[(5, 5)]), (3, &[(5, 400)])]), []);
    assert_eq!(lives(&[(1, &[(5, 400)]), (2, &[(5, 400)])]), [], "it is known to be dead already");
}

#[test]
fn a_start_counts_silence_from_zero_and_forgets_those_that_are_gone() {
    let silences = crate::router::Silences::default();
    silences.listen_to([NodeId(2), NodeId(3)].into_iter());
    assert!(silences.all().iter().all(|silence| silence.for_ms < 60_000), "nobody is silent since ever");
    silences.heard_of(NodeId(9));
    silences.listen_to([NodeId(3)].into_iter());
    assert_eq!(silences.all().iter().map(|silence| silence.node).collect::<Vec<_>>(), [NodeId(3)]);
}
