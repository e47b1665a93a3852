//! Every file of a real source tree, stored under its path by many clients at once and read back equal by content,
//! through another node than it was written to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringraft::clock;

use super::{Options, Verdict, per_second};
use crate::client::{Client, Outcome, kv_path};
use crate::cluster::{Cluster, Plan};
use crate::fleet::since;

const CLIENTS: usize = 48;
const FILES_MIN: usize = 20_000;
/// Of --short, which shows the same with fewer of them.
const FILES_SHORT: usize = 4_000;
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest key.
const KEY_BYTES_MAX: usize = 2048;
const CLIENT_LIMIT: Duration = Duration::from_secs(30);
/// A write that is refused as overloaded, or a leader that moves, is tried again so often; nothing else is.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

struct Input {
    key: String,
    path: PathBuf,
}

pub(super) async fn run(options: Options) -> Verdict {
    let named = !options.trees.is_empty();
    let trees = if named { options.trees.clone() } else { default_trees() };
    let mut inputs = Vec::new();
    for tree in &trees {
        if !named && inputs.len() >= FILES_MIN {
            break;
        }
        let before = inputs.len();
        collect(tree, tree, &mut inputs).map_err(|error| format!("{}: {error}", tree.display()))?;
        println!("  {}: {} files of at most 1 MiB", tree.display(), inputs.len() - before);
    }
    if inputs.len() < FILES_MIN {
        return Err(format!(
            "only {} files, {FILES_MIN} are wanted: `cargo fetch` unpacks all dependencies; or name more source trees \
             with --tree DIRECTORY",
            inputs.len()
        ));
    }
    if options.short {
        // Spread over the whole tree.
        let step = inputs.len().div_ceil(FILES_SHORT);
        inputs = inputs.into_iter().step_by(step).collect();
    }
    let cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let addresses: Arc<[String]> = cluster.nodes.iter().map(|node| node.http.address.clone()).collect();
    let inputs: Arc<[Input]> = inputs.into();

    pass("stored", &inputs, &addresses, true).await?;
    pass("read back equal through another node", &inputs, &addresses, false).await
}

/// The sources of the dependencies first; they are some 15,000 files. Then, until there are enough, the headers of the C
/// and C++ libraries that RocksDB is built with, and what else every Debian machine has: how much that is differs.
pub(super) fn default_trees() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let system = ["/usr/include", "/usr/share", "/usr/lib"].map(PathBuf::from);
    [cargo.join("registry/src")].into_iter().chain(system).collect()
}

/// All regular files below a directory that are neither links nor too large, in a fixed order.
fn collect(root: &Path, directory: &Path, inputs: &mut Vec<Input>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            collect(root, &path, inputs)?;
        } else if kind.is_file() && entry.metadata()?.len() <= FILE_BYTES_MAX {
            let key = path.strip_prefix(root.parent().unwrap_or(root)).unwrap_or(&path).to_string_lossy().into_owned();
            if key.len() <= KEY_BYTES_MAX {
                inputs.push(Input { key, path });
            }
        }
    }
    Ok(())
}

/// Stores, or reads and compares, all inputs by all clients, and prints how fast.
async fn pass(what: &str, inputs: &Arc<[Input]>, addresses: &Arc<[String]>, store: bool) -> Verdict {
    let next = Arc::new(AtomicUsize::new(0));
    let began = clock::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(work(Arc::clone(inputs), Arc::clone(addresses), Arc::clone(&next), store)))
        .collect();
    let (mut bytes, mut retries) = (0, 0);
    for client in clients {
        let done = client.await.expect("a client does not panic")?;
        bytes += done.bytes;
        retries += done.retries;
    }
    let took = since(began);
    #[expect(clippy::cast_precision_loss)]
    let mib = bytes as f64 / f64::from(1 << 20);
    println!(
        "  {} files, {mib:.1} MiB {what} by {CLIENTS} clients in {:.1} s: {:.0} files/s, {:.1} MiB/s, {retries} tried again",
        inputs.len(),
        took.as_secs_f64(),
        per_second(inputs.len() as u64, took),
        mib / took.as_secs_f64()
    );
    Ok(())
}

#[derive(Default)]
struct Done {
    bytes: u64,
    retries: usize,
}

/// Takes one input after the other, as long as there are any. Input `i` is written to node `i` and read from the next.
async fn work(
    inputs: Arc<[Input]>,
    addresses: Arc<[String]>,
    next: Arc<AtomicUsize>,
    store: bool,
) -> Result<Done, String> {
    let mut clients: Vec<Client> = addresses.iter().map(Client::new).collect();
    let nodes = clients.len();
    let mut done = Done::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(input) = inputs.get(number) else { return Ok(done) };
        let content =
            tokio::fs::read(&input.path).await.map_err(|error| format!("{}: {error}", input.path.display()))?;
        let content = Bytes::from(content);
        let target = kv_path(input.key.as_bytes());
        done.bytes += content.len() as u64;
        if store {
            done.retries += put(&mut clients[number % nodes], &target, &content, &input.key).await?;
        } else {
            // Another node in every round: one or two further, as the number has it.
            let place = (number + 1 + number / nodes % (nodes - 1)) % nodes;
            let reply = clients[place].get(&target, CLIENT_LIMIT).await;
            match reply {
                Ok(reply) if reply.status == 200 && reply.body == content => {}
                Ok(reply) if reply.status == 200 => {
                    let (got, wanted) = (reply.body.len(), content.len());
                    return Err(format!("{}: {got} bytes came back, other than the {wanted} stored", input.key));
                }
                Ok(reply) => {
                    return Err(format!("{}: {} {}", input.key, reply.status, String::from_utf8_lossy(&reply.body)));
                }
                Err(trouble) => return Err(format!("{}: {trouble:?}", input.key)),
            }
        }
    }
}

/// Gives how often it had to be tried again.
async fn put(client: &mut Client, target: &str, content: &Bytes, key: &str) -> Result<usize, String> {
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        match client.put(target, content.clone(), CLIENT_LIMIT).await {
            Outcome::Acknowledged { .. } => return Ok(attempt),
            Outcome::NotApplied { why } => last = why,
            Outcome::Unknown { why } => return Err(format!("{key}: outcome unknown without a fault: {why}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{key}: refused {ATTEMPTS} times: {last}"))
}
