//! What the nodes say of themselves: who leads which shard in which term, how far their logs go, what time they have.
//!
//! Each node is asked for itself alone, all at the same time and with a short limit: some of them are dead, stopped or
//! cut off, and that must not hold the others' answers up.

use std::collections::BTreeMap;
use std::time::Duration;

use ringraft::clock;
use ringraft::transport::dial::{Net, TcpNet};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::node::Node;
use crate::fleet::until;
use crate::http::Http;

const ASK_LIMIT: Duration = Duration::from_millis(500);
/// Until a line is in a log that was asked for.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// A shard's id.
pub use ringraft::types::ShardId;

/// One replica by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub shard: ShardId,
    /// As in the name of its directory.
    pub id: String,
    pub leads: bool,
    pub term: u64,
    pub last_index: u64,
    pub purged_index: u64,
}

/// What each node answered, by place; none where it did not in time.
pub struct Survey(Vec<Option<Vec<Replica>>>);

/// A shard's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    pub place: usize,
    pub term: u64,
}

pub async fn survey(nodes: &[Node]) -> Survey {
    Survey(futures::future::join_all(nodes.iter().map(|node| replicas(&node.http))).await)
}

async fn replicas(http: &Http) -> Option<Vec<Replica>> {
    let reply = tokio::time::timeout(ASK_LIMIT, http.get("/v1/status").try_send()).await.ok()?.ok()?;
    let body: Value = serde_json::from_slice(&reply.body).ok()?;
    let replica = |replica: &Value| {
        Some(Replica {
            shard: ShardId(number(&replica["shard"])?),
            id: replica["id"].as_str()?.to_string(),
            leads: replica["role"] == "leader",
            term: number(&replica["term"])?,
            last_index: number(&replica["last_index"]).unwrap_or_default(),
            purged_index: number(&replica["purged_index"]).unwrap_or_default(),
        })
    };
    body["replicas"].as_array()?.iter().map(replica).collect()
}

/// Ids and terms are strings in JSON.
fn number(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64())
}

impl Survey {
    pub fn replica(&self, place: usize, shard: ShardId) -> Option<&Replica> {
        self.0.get(place)?.as_ref()?.iter().find(|replica| replica.shard == shard)
    }

    /// Of two that say so the one with the higher term is right.
    pub fn leaders(&self) -> BTreeMap<ShardId, Leader> {
        let mut leaders: BTreeMap<ShardId, Leader> = BTreeMap::new();
        for (place, replicas) in self.0.iter().enumerate() {
            for replica in replicas.iter().flatten().filter(|replica| replica.leads) {
                let found = Leader { place, term: replica.term };
                let known = leaders.entry(replica.shard).or_insert(found);
                if known.term < found.term {
                    *known = found;
                }
            }
        }
        leaders
    }
}

/// Who leads a shard, as soon as somebody does whom `wanted` takes.
pub async fn leader(
    nodes: &[Node],
    shard: ShardId,
    limit: Duration,
    wanted: impl Fn(Leader) -> bool,
) -> Option<Leader> {
    until(limit, || async { survey(nodes).await.leaders().get(&shard).copied().filter(|leader| wanted(*leader)) }).await
}

/// How far the node's wall clock is ahead of the true time, in seconds. The clock stands in front of every line of the
/// node's log, so it is made to write one: by a connection to its peers' listener that is no peer's. (The `Date` of an
/// answer would not do: the server keeps it until the clock passes the next second, also when the clock was set back.)
pub async fn wall_clock_offset(node: &Node) -> Option<i64> {
    let from = node.log_length();
    let mut connection = TcpNet.dial(&node.peer).await.ok()?;
    connection.write_all(b"what time have you?").await.ok()?;
    let line = node.logs(from, &["handshake failed"], LOG_LIMIT).await?;
    let true_seconds = i64::try_from(clock::wall_ms() / 1000).ok()?;
    Some(seconds_of(line.split(' ').next()?)? - true_seconds)
}

/// Seconds since 1970 of a time as the log has it, `1994-11-06T08:49:37.123456Z`.
fn seconds_of(time: &str) -> Option<i64> {
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let numbers =
        |text: &str, between: char| -> Option<Vec<i64>> { text.split(between).map(|part| part.parse().ok()).collect() };
    let &[year, month, day] = numbers(date, '-')?.as_slice() else { return None };
    let &[hours, minutes, seconds] = numbers(clock.split('.').next()?, ':')?.as_slice() else { return None };
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_log_lines_are_read() {
        assert_eq!(seconds_of("1970-01-01T00:00:00.000000Z"), Some(0));
        assert_eq!(seconds_of("1994-11-06T08:49:37.5Z"), Some(784_111_777));
        assert_eq!(seconds_of("2028-02-29T23:59:59Z"), Some(1_835_481_599));
        assert_eq!(seconds_of("2226-03-01T00:00:00Z"), Some(8_083_670_400));
        assert_eq!(seconds_of("yesterday"), None);
    }

    #[test]
    fn of_two_that_lead_the_later_term_counts() {
        let leads = |term| Replica {
            shard: ShardId(1),
            id: "1".to_string(),
            leads: true,
            term,
            last_index: 0,
            purged_index: 0,
        };
        let survey = Survey(vec![Some(vec![leads(7)]), None, Some(vec![leads(9)])]);
        assert_eq!(survey.leaders()[&ShardId(1)], Leader { place: 2, term: 9 });
        assert!(survey.replica(1, ShardId(1)).is_none());
    }
}
