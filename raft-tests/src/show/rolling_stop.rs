//! SIGTERM to each node in turn under load, as in a rolling restart: it hands its leaderships over, drains, and ends by
//! itself with exit code 0; nothing that was acknowledged is lost.

use std::time::Duration;

use ringraft::clock;
use rustix::process::Signal;

use super::{Options, Times, Verdict, ms, per_second};
use crate::cluster::{Cluster, Plan};
use crate::fleet::{compare_digests, signal, since};
use crate::traffic::Traffic;

const WRITERS: usize = 16;
/// From the signal until the process has ended.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Traffic goes on so long between a node that is back and the next one's stop.
const BETWEEN: Duration = Duration::from_secs(1);

pub(super) async fn run(options: Options) -> Verdict {
    let rounds = options.rounds.unwrap_or(if options.short { 1 } else { 5 });
    let mut cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.http.address.clone()).collect();
    let traffic = Traffic::start(addresses.clone(), WRITERS, options.seed());
    let mut times = Times::default();
    for round in 1..=rounds {
        for place in 0..cluster.nodes.len() {
            cluster.wait_until_settled().await;
            tokio::time::sleep(BETWEEN).await;
            let (began, before) = (clock::now(), traffic.acknowledged());
            let node = &mut cluster.nodes[place];
            signal(node, Signal::TERM);
            let Some(status) = node.ended(END_LIMIT).await else {
                return Err(format!("{} has not ended {END_LIMIT:?} after SIGTERM", node.name));
            };
            let took = since(began);
            times.add(took);
            if !status.success() {
                return Err(format!("{} ended after SIGTERM with {status}", node.name));
            }
            node.start();
            node.wait_until_ready().await;
            println!(
                "  round {round}: {} ended {} after SIGTERM, back {:.2} s after it, {:.0} writes/s acknowledged",
                node.name,
                ms(took),
                since(began).as_secs_f64(),
                per_second(traffic.acknowledged() - before, since(began))
            );
        }
    }
    let told = traffic.stop().await;
    told.print();
    let checked = told.check(&addresses, WRITERS).await?;
    let compared = compare_digests(&cluster).await?;
    println!("  {checked} keys hold what was acknowledged, {compared} replicas are equal");
    println!("  a stop took p50 {}, max {}", ms(times.at(0.5)), ms(times.at(1.0)));
    Ok(())
}
