//! The stream of a snapshot: whole or refused.

use openraft::EntryPayload;
use openraft::vote::RaftLeaderId;

use super::super::testing::{Stores, apply, birth, create, entry, history, log_id, put, rows_of};
use super::super::{Entry, LeaderId};
use super::*;
use crate::raft::state_machine::MachineShared;
use crate::ring::{Token, token_of};
use crate::storage::mem::MemDisk;
use crate::storage::{Durability, KeyRange};
use crate::types::ReplicaId;
use crate::wire::{Wire, golden};

const SHARD: ShardId = ShardId(3);
const STREAM: u64 = 5;

fn lower_half() -> TokenRange {
    TokenRange { first: Token::FIRST, last: Token(u64::MAX / 2) }
}

pub(super) async fn filled(range: TokenRange, values_of_bytes: usize) -> Stores {
    let mut stores = create(Arc::new(MemDisk::new(2)), 1).await;
    let payload = |index| match index {
        1 => EntryPayload::Normal(birth(range)),
        index => EntryPayload::Normal(put(&format!("k{index}"), vec![7; values_of_bytes])),
    };
    let mut entries = history(0, 1);
    entries.extend((1..40).map(|index| -> Entry { entry(1, index, payload(index)) }));
    apply(&mut stores.machine, entries).await.unwrap();
    stores
}

pub(super) fn chunks_of(shared: &MachineShared) -> Vec<Chunk> {
    let vote = Vote { leader_id: LeaderId::new(1, ReplicaId(1)), committed: true };
    let mut sender = Sender::new(Arc::from(shared.store.view()), SHARD).unwrap();
    let mut chunks = Vec::new();
    loop {
        let (rows, last) = sender.next_rows().unwrap();
        let end = last.then(|| sender.end(vote));
        chunks.push(Chunk { stream: STREAM, position: chunks.len() as u64, rows, end });
        if last {
            return chunks;
        }
    }
}

fn receive(at: &MachineShared, chunks: &[Chunk]) -> io::Result<Received> {
    let mut receiver = Receiver::begin(&at.store, STREAM, at.store.directory() + 1)?;
    for chunk in chunks {
        receiver.take(chunk)?;
        if let Some(end) = &chunk.end {
            return receiver.finish(end);
        }
    }
    panic!("no last piece");
}

#[test]
fn pieces_keep_their_bytes() {
    let row = |key, value| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    let vote = Vote { leader_id: LeaderId::new(1, ReplicaId(2)), committed: true };
    let rows = vec![row(b"\x10a", b"v"), row(b"\x10b", b"")];
    let first = Chunk { stream: 0x0102, position: 0, rows, end: None };
    let last = Chunk { position: 3, rows: Vec::new(), end: Some(End { vote, rows: 4, hash: 5 }), ..first.clone() };
    golden::check("snapshot_chunk", &[first, last]);
}

/// Sender and receiver may be of two releases, and so may two replicas whose digests are compared.
#[test]
fn the_hash_over_rows_never_changes() {
    let mut tally = Tally::new();
    assert_eq!(tally.hash.digest(), 0x2d06_8005_38d3_94c2);
    tally.add(b"\x10a", b"value");
    tally.add(b"\x10b", b"");
    assert_eq!((tally.rows, tally.hash.digest()), (2, 0xc174_b3b8_2a8a_86e0));
}

#[tokio::test]
async fn a_snapshot_of_many_pieces_arrives_as_it_was_sent() {
    let from = filled(TokenRange::full(), 100_000).await;
    let to = create(Arc::new(MemDisk::new(1)), 2).await;
    let chunks = chunks_of(&from.shared);
    assert!(chunks.len() > 2);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.rows.iter().map(|(_, value)| value.len()).sum::<usize>() <= CHUNK_BYTES + 100_100)
    );
    let carried: Vec<Chunk> = chunks.iter().map(|chunk| Chunk::from_bytes(chunk.to_bytes()).unwrap()).collect();
    assert_eq!(carried, chunks);
    let received = receive(&to.shared, &carried).unwrap();
    assert_eq!(received.record.applied, Some(log_id(1, 39)));
    let identity = to.shared.store.engine().get(keys::REPLICA_IDENTITY).unwrap();
    to.shared.store.switch(received.install);
    let (mut sent, mut arrived) =
        (rows_of(from.shared.store.view().as_ref()), rows_of(to.shared.store.view().as_ref()));
    assert_eq!(arrived.remove(keys::REPLICA_IDENTITY), identity, "it stays this replica's directory");
    sent.remove(keys::REPLICA_IDENTITY);
    assert_eq!(arrived, sent);
    let digest_of = |shared: &MachineShared| digest(shared.store.view().as_ref(), SHARD).unwrap();
    assert_eq!(digest_of(&to.shared), digest_of(&from.shared));
}

#[tokio::test]
async fn left_overs_of_a_split_neither_travel_nor_count() {
    let whole = filled(TokenRange::full(), 10).await;
    let half = filled(lower_half(), 10).await;
    let outside = |key: &Bytes| {
        let token = keys::user_key(key).map(|key| token_of(&key));
        let dedup_key = keys::dedup_of_age(key).unwrap_or_else(|| key.clone());
        token.or(keys::dedup_token(&dedup_key).map(Token)).is_some_and(|token| !lower_half().contains(token))
    };
    let digest_of = |stores: &Stores| digest(stores.shared.store.view().as_ref(), SHARD).unwrap();
    let before = digest_of(&half);
    // What a split leaves behind: rows, dedup records and their index entries of the other half.
    let mut left_over = Batch::default();
    for (key, value) in rows_of(whole.shared.store.view().as_ref()) {
        if outside(&key) {
            left_over.put(key, value);
        }
    }
    let kinds: std::collections::BTreeSet<u8> = left_over
        .changes
        .iter()
        .map(|change| match change {
            crate::storage::Change::Put(key, _) => key[0],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [0x10, 0x20, 0x21].into());
    half.shared.store.engine().write(left_over, Durability::Buffered).unwrap();
    assert_eq!(digest_of(&half), before);
    let sent: Vec<Bytes> =
        chunks_of(&half.shared).into_iter().flat_map(|chunk| chunk.rows).map(|(key, _)| key).collect();
    assert!(sent.len() > 10 && !sent.iter().any(outside));
}

#[tokio::test]
async fn a_digest_notices_every_byte_but_not_how_far_the_log_is() {
    let stores = filled(TokenRange::full(), 10).await;
    let engine = stores.shared.store.engine();
    let digest_now = || digest(engine.view().as_ref(), SHARD).unwrap();
    let (applied, hash) = digest_now();
    assert_eq!(applied, Some(39));
    for (key, value) in rows_of(engine.view().as_ref()) {
        if [keys::SHARD_STATE, keys::APPLIED, keys::REPLICA_IDENTITY].contains(&key.as_ref()) {
            continue;
        }
        let mut flip = Batch::default();
        let mut flipped = value.to_vec();
        match flipped.last_mut() {
            Some(byte) => *byte ^= 1,
            None => flipped.push(1),
        }
        flip.put(key.clone(), flipped);
        engine.write(flip, Durability::Buffered).unwrap();
        assert_ne!(digest_now().1, hash, "{key:?}");
        let mut back = Batch::default();
        back.put(key, value);
        engine.write(back, Durability::Buffered).unwrap();
    }
    let mut further = Batch::default();
    let record = AppliedRecord { applied: Some(log_id(1, 40)), ..AppliedRecord::default() };
    further.put(Bytes::from_static(keys::APPLIED), record.to_bytes());
    engine.write(further, Durability::Buffered).unwrap();
    assert_eq!(digest_now(), (Some(40), hash));
}

#[tokio::test]
async fn a_stream_that_lost_or_changed_anything_is_refused() {
    let from = filled(TokenRange::full(), 100_000).await;
    let to = create(Arc::new(MemDisk::new(1)), 2).await;
    let sound = chunks_of(&from.shared);
    let mut flipped = sound.clone();
    let (_, value) = &mut flipped[1].rows[0];
    let mut bytes = value.to_vec();
    bytes[50] ^= 1;
    *value = bytes.into();
    let mut missing = sound.clone();
    missing.remove(1);
    let mut missing_unnoticed = missing.clone();
    for (position, chunk) in missing_unnoticed.iter_mut().enumerate() {
        chunk.position = position as u64;
    }
    let mut swapped = sound.clone();
    swapped.swap(0, 1);
    let mut twice = sound.clone();
    twice.insert(1, sound[0].clone());
    let mut of_another = sound.clone();
    of_another[1].stream += 1;
    let mut row_less = sound.clone();
    row_less[1].rows.pop();
    let mut moved = sound.clone();
    let row = moved[1].rows.remove(0);
    moved[1].rows.push(row);
    for (what, wrong) in [
        ("flipped", flipped),
        ("missing", missing),
        ("missing, positions closed up", missing_unnoticed),
        ("swapped", swapped),
        ("twice", twice),
        ("of another stream", of_another),
        ("a row less", row_less),
        ("another order", moved),
    ] {
        assert!(receive(&to.shared, &wrong).is_err(), "{what}");
    }
    receive(&to.shared, &sound).unwrap();
}

#[tokio::test]
async fn a_view_that_is_sent_is_of_one_moment() {
    let mut from = filled(TokenRange::full(), 100_000).await;
    let before = rows_of(from.shared.store.view().as_ref());
    let mut sender = Sender::new(Arc::from(from.shared.store.view()), SHARD).unwrap();
    let (mut rows, mut last) = sender.next_rows().unwrap();
    assert!(!last);
    let change = entry(1, 40, EntryPayload::Normal(put("k9", "changed")));
    apply(&mut from.machine, vec![change]).await.unwrap();
    while !last {
        let (more, is_last) = sender.next_rows().unwrap();
        rows.extend(more);
        last = is_last;
    }
    let mut sent: std::collections::BTreeMap<Bytes, Bytes> = rows.into_iter().collect();
    sent.insert(Bytes::from_static(keys::REPLICA_IDENTITY), before[keys::REPLICA_IDENTITY].clone());
    assert_eq!(sent, before);
    assert!(from.shared.store.view().scan(&KeyRange::prefix(b"")).count() >= before.len());
}
