//! Scans merged over shards: one linearizable read for each shard and page, rows in byte order of their keys.
//!
//! Invariants: the ranges that the answers came from tile the ring (or are the one shard that a prefix's tag fixes), else
//! the page is asked for again with a newer catalog; a page emits rows only up to the smallest last key of any shard that
//! stopped early, because that shard may hold keys right after it.

use bytes::Bytes;
use futures::StreamExt;

use super::{Attempt, Error, Options, RemoteScan, Router, ScanShardRequest, Search, Target, local};
use crate::clock::{self, Moment};
use crate::machine::query::{ScanRequest, ScannedRow};
use crate::method::Method;
use crate::ring::{Ring, TokenRange, hash_tag};
use crate::shard::{Consistency, ScannedPart};
use crate::types::ShardId;

/// Shards asked at the same time for one page.
const SHARDS_AT_ONCE: usize = 32;
/// Keys and values gathered for one page over all shards, in bytes; each shard gives its part, and a row at least.
const PAGE_BYTES_GATHERED_MAX: usize = 16 << 20;
const SHARD_BYTES_MAX: usize = 2 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub from: Bytes,
    pub before: Option<Bytes>,
    /// What all keys begin with, where the scan is by prefix: a whole `{tag}` in it fixes the shard.
    pub prefix: Option<Bytes>,
    /// Rows of the page at most.
    pub rows_max: u32,
    pub keys_only: bool,
    pub consistency: Consistency,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub rows: Vec<ScannedRow>,
    /// Where the next page begins: right after the last key given. None at the end.
    pub next: Option<Bytes>,
    /// The weakest that any shard served.
    pub consistency: Consistency,
    /// Of a stale page: it holds every write acknowledged before this moment. None when that is unknown of any shard.
    pub fresh_at: Option<Moment>,
    pub shards: usize,
}

impl Router {
    pub async fn scan(&self, request: PageRequest, options: Options) -> Result<Page, Error> {
        loop {
            let ring = self.ring().ok_or(Error::Starting)?;
            let one_shard = request.prefix.as_deref().and_then(|prefix| {
                hash_tag(prefix)?;
                Some(*ring.find(crate::ring::token_of(prefix)))
            });
            let shards: Vec<(TokenRange, ShardId)> = ring
                .iter()
                .map(|(range, shard)| (range, *shard))
                .filter(|(_, shard)| one_shard.is_none_or(|only| only == *shard))
                .collect();
            let answers = self.scan_shards(&shards, &request, options).await?;
            let covers = match one_shard {
                Some(_) => shards.iter().zip(&answers).all(|((range, _), part)| *range == part.answer.range),
                None => Ring::new(answers.iter().map(|part| (part.answer.range, ())).collect()).is_ok(),
            };
            if covers {
                return Ok(merge(answers, request.rows_max));
            }
            // Shards changed between the answers; the next catalog knows.
            let shard = shards.first().map_or(ShardId(0), |(_, shard)| *shard);
            self.pause(options, Error::NoLeader { shard }).await?;
        }
    }

    async fn scan_shards(
        &self,
        shards: &[(TokenRange, ShardId)],
        request: &PageRequest,
        options: Options,
    ) -> Result<Vec<ScannedPart>, Error> {
        let scan = ScanRequest {
            from: request.from.clone(),
            before: request.before.clone(),
            // One more than the page, so that "no next page" is known without another round.
            rows_max: request.rows_max.saturating_add(1),
            bytes_max: shard_bytes_max(shards.len()),
            keys_only: request.keys_only,
        };
        let asked: Vec<_> = shards
            .iter()
            .map(|(_, shard)| self.scan_shard(*shard, scan.clone(), request.consistency, options))
            .collect();
        let answers: Vec<_> = futures::stream::iter(asked).buffered(SHARDS_AT_ONCE).collect().await;
        answers.into_iter().collect()
    }

    async fn scan_shard(
        &self,
        shard: ShardId,
        scan: ScanRequest,
        consistency: Consistency,
        options: Options,
    ) -> Result<ScannedPart, Error> {
        let mut search = Search::default();
        // A local replica that is still being filled cannot: then any other is asked.
        let mut local_may_answer = consistency == Consistency::Stale;
        loop {
            let target = match self.host().group(shard).filter(|_| local_may_answer) {
                Some(group) => Some(Target::Local(group)),
                None => self.target(shard, &mut search, options)?,
            };
            let Some(target) = target else {
                search.begin_again();
                self.pause(options, Error::NoLeader { shard }).await?;
                continue;
            };
            let node = target.node(self.host());
            match self.scan_at(target, shard, scan.clone(), consistency, options).await {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Final(error) => return Err(error),
                Attempt::Again { leader: Some(leader), .. } if search.follows(node, leader) => {}
                Attempt::Again { error, .. } => {
                    local_may_answer = false;
                    search.failed_at(node);
                    self.forget_leader(shard, node);
                    self.pause(options, error).await?;
                }
            }
            if clock::now() >= options.deadline {
                return Err(Error::NoLeader { shard });
            }
        }
    }

    async fn scan_at(
        &self,
        target: Target,
        shard: ShardId,
        scan: ScanRequest,
        consistency: Consistency,
        options: Options,
    ) -> Attempt<ScannedPart> {
        match target {
            Target::Local(group) => local(shard, group.scan(scan, consistency, options.deadline).await),
            Target::Node(node) => {
                let request = ScanShardRequest { shard, scan, consistency };
                let asked = clock::now();
                let answer = self.call::<RemoteScan>(node, Method::Scan, shard, &request, options.deadline).await;
                answer.map(|remote| remote.into_part(asked))
            }
        }
    }
}

fn shard_bytes_max(shards: usize) -> u32 {
    let part = (PAGE_BYTES_GATHERED_MAX / shards.max(1)).min(SHARD_BYTES_MAX);
    u32::try_from(part).expect("a part of 16 MiB fits 32 bits")
}

fn merge(parts: Vec<ScannedPart>, rows_max: u32) -> Page {
    let weakest = |page: Consistency, shard: Consistency| match (page, shard) {
        (Consistency::Stale, _) | (_, Consistency::Stale) => Consistency::Stale,
        (Consistency::Lease, _) | (_, Consistency::Lease) => Consistency::Lease,
        _ => Consistency::Linearizable,
    };
    let consistency = parts.iter().map(|part| part.served).fold(Consistency::Linearizable, weakest);
    let shards = parts.len();
    // Only stale parts are old; one of unknown age makes the whole unknown, because `None` is the smallest.
    let fresh_at =
        parts.iter().filter(|part| part.served == Consistency::Stale).map(|part| part.fresh_at).min().flatten();
    let complete_to: Option<Bytes> = parts
        .iter()
        .filter(|part| part.answer.more)
        .filter_map(|part| part.answer.rows.last().map(|row| row.key.clone()))
        .min();
    let stopped_early = complete_to.is_some();
    let mut rows: Vec<ScannedRow> = parts.into_iter().flat_map(|part| part.answer.rows).collect();
    rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    if let Some(complete_to) = complete_to {
        rows.retain(|row| row.key <= complete_to);
    }
    let cut = rows.len() > rows_max as usize;
    rows.truncate(rows_max as usize);
    let next = if cut || stopped_early { rows.last().map(|row| successor(&row.key)) } else { None };
    Page { rows, next, consistency, fresh_at, shards }
}

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::query::ScanAnswer;
    use crate::types::{Epoch, Revision};

    fn answer(keys: &[&str], more: bool) -> ScannedPart {
        let rows = keys.iter().map(|key| ScannedRow {
            key: Bytes::copy_from_slice(key.as_bytes()),
            revision: Revision(1),
            content_type: None,
            value_bytes: 0,
            value: None,
        });
        let answer = ScanAnswer { range: TokenRange::full(), epoch: Epoch(1), rows: rows.collect(), more };
        ScannedPart { answer, served: Consistency::Linearizable, fresh_at: None }
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.rows.iter().map(|row| std::str::from_utf8(&row.key).unwrap()).collect()
    }

    #[test]
    fn rows_of_all_shards_come_in_key_order() {
        let page = merge(vec![answer(&["a", "d"], false), answer(&["b", "c"], false)], 10);
        assert_eq!((keys(&page), page.next.clone()), (vec!["a", "b", "c", "d"], None));
    }

    #[test]
    fn a_page_ends_where_the_first_shard_stopped() {
        let page = merge(vec![answer(&["a", "b"], true), answer(&["c", "d"], false)], 10);
        assert_eq!(keys(&page), ["a", "b"], "the first shard may hold bb, which comes before c");
        assert_eq!(page.next.as_deref(), Some(b"b\0".as_slice()));
    }

    #[test]
    fn a_full_page_names_where_the_next_one_begins() {
        let page = merge(vec![answer(&["a", "c"], false), answer(&["b"], false)], 2);
        assert_eq!((keys(&page), page.next.as_deref()), (vec!["a", "b"], Some(b"b\0".as_slice())));
    }

    #[test]
    fn a_stale_page_is_as_old_as_its_oldest_part() {
        let at = |ms| Moment::from_origin(std::time::Duration::from_millis(ms));
        let stale = |fresh_at| ScannedPart { served: Consistency::Stale, fresh_at, ..answer(&[], false) };
        let page = |parts| merge(parts, 10).fresh_at;
        assert_eq!(page(vec![stale(Some(at(7))), stale(Some(at(5))), stale(Some(at(9)))]), Some(at(5)));
        assert_eq!(page(vec![stale(Some(at(7))), stale(None)]), None, "unknown of one part is unknown of the page");
        assert_eq!(page(vec![stale(Some(at(7))), answer(&[], false)]), Some(at(7)), "a linearizable part has no age");
        assert_eq!(page(vec![answer(&[], false)]), None);
    }
}
