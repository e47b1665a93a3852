//! Links that are cut, lossy, slow, late or reset.

use std::time::Duration;

use rand::RngExt;

use super::{Aim, Fault, Field, Held, Kind, Observed, Shape, Standing, Way, look};
use crate::real::world::Spoil;

/// Peers send something at least every second, so that each way of these meets its rule.
const CUT_MS: (u64, u64) = (2_500, 4_500);
const SPOILED_MS: (u64, u64) = (2_500, 4_500);
const LOSS_PERCENT: (u32, u32) = (5, 30);
/// Of packets, and of time, by the world.
const RESET_PERMILLE: (u32, u32) = (5, 30);
const RESET_EVERY_MS: (u64, u64) = (200, 1_000);
/// A few times what heartbeats and the load of a run need, down to less than that.
const SLOW_KBIT: (u32, u32) = (256, 1_024);
const DELAY_MS: (u64, u64) = (20, 250);
/// Beyond the time that it stands, until somebody else leads.
const DEPOSED_LIMIT: Duration = Duration::from_secs(8);

pub(super) async fn cut(field: &mut Field, fault: Fault, shape: Shape) -> Result<Standing, String> {
    let needs_leader = fault.aims_at_leader();
    let aim = if needs_leader { Some(field.aim().await?) } else { None };
    let (on, ways) = ways_of(field, shape, aim)?;
    let hit_leader = aim.is_some() || field.any_leads(&on).await;
    let deposed = aim.filter(|_| shape == Shape::IsolateLeader && !field.paired);
    let began = ringraft::clock::now();
    let mut standing = stand(field, fault, on, ways, Spoil::Cut, hit_leader, deposed).await?;
    standing.hold = field.between(CUT_MS.0, CUT_MS.1);
    if let Some(aim) = deposed {
        field.goes_on_without(aim, began, "write_gap_after_leader_cut_off_ms").await?;
        standing.hold = standing.hold.saturating_sub(super::since(began));
    }
    Ok(standing)
}

/// The nodes that are hit, and the ways that are cut.
fn ways_of(field: &mut Field, shape: Shape, aim: Option<Aim>) -> Result<(Vec<usize>, Vec<Way>), String> {
    let places = field.places();
    let across = |some: &[usize], others: &[usize]| -> Vec<Way> {
        some.iter().flat_map(|one| others.iter().flat_map(|other| Way::both(*one, *other))).collect()
    };
    let leader = aim.map(|aim| aim.leader.place);
    let with_leader = || leader.ok_or_else(|| "no leader was looked for".to_string());
    Ok(match shape {
        Shape::IsolateLeader => {
            let leader = with_leader()?;
            (vec![leader], across(&[leader], &field.others(&[leader])))
        }
        Shape::DeafLeader => {
            let leader = with_leader()?;
            (vec![leader], field.others(&[leader]).into_iter().map(|from| Way { from, to: leader }).collect())
        }
        Shape::MuteLeader => {
            let leader = with_leader()?;
            (vec![leader], field.others(&[leader]).into_iter().map(|to| Way { from: leader, to }).collect())
        }
        Shape::Halves => {
            let minority = field.choose_some(&places, places.len() - field.majority());
            let ways = across(&minority, &field.others(&minority));
            (minority, ways)
        }
        Shape::Bridge => {
            let middle = field.choose(&places)?;
            let rest = field.others(&[middle]);
            let one_side = field.choose_some(&rest, rest.len() / 2);
            let other_side: Vec<usize> = rest.into_iter().filter(|place| !one_side.contains(place)).collect();
            let ways = across(&one_side, &other_side);
            (one_side, ways)
        }
        Shape::OneLink => {
            let both = field.choose_some(&places, 2);
            let ways = Way::both(both[0], both[1]).to_vec();
            (both, ways)
        }
    })
}

async fn stand(
    field: &mut Field,
    fault: Fault,
    on: Vec<usize>,
    ways: Vec<Way>,
    spoil: Spoil,
    hit_leader: bool,
    deposed: Option<Aim>,
) -> Result<Standing, String> {
    let kind = spoil.kind();
    let before = field.world.met(&ways, kind).await?;
    field.announce(fault, &on)?;
    field.world.spoil(&ways, spoil).await?;
    let held = Held::Ways { ways, kind, before, deposed };
    Ok(Standing { fault, on, hit_leader, hold: Duration::ZERO, held })
}

/// All links, or all that go out from one node.
pub(super) async fn spoil(field: &mut Field, fault: Fault) -> Result<Standing, String> {
    let places = field.places();
    let all = || places.iter().flat_map(|from| places.iter().map(|to| Way { from: *from, to: *to }));
    let all: Vec<Way> = all().filter(|way| way.from != way.to).collect();
    let spoil = match fault {
        Fault::Loss => Spoil::Loss { percent: field.rng.random_range(LOSS_PERCENT.0..=LOSS_PERCENT.1) },
        Fault::Reset => Spoil::Reset {
            permille: field.rng.random_range(RESET_PERMILLE.0..=RESET_PERMILLE.1),
            every_ms: field.rng.random_range(RESET_EVERY_MS.0..=RESET_EVERY_MS.1),
        },
        Fault::Slow => Spoil::Slow { kbit: field.rng.random_range(SLOW_KBIT.0..=SLOW_KBIT.1) },
        Fault::Delay => Spoil::Delay { ms: field.rng.random_range(DELAY_MS.0..=DELAY_MS.1) },
        other => return Err(format!("{other:?} does not spoil links")),
    };
    let (on, ways) = if fault == Fault::Slow {
        let one = field.choose(&places)?;
        (vec![one], all.into_iter().filter(|way| way.from == one).collect())
    } else {
        (places, all)
    };
    let hit_leader = field.any_leads(&on).await;
    let mut standing = stand(field, fault, on, ways, spoil, hit_leader, None).await?;
    standing.hold = field.between(SPOILED_MS.0, SPOILED_MS.1);
    Ok(standing)
}

/// Every way must have met a cut; of the rest, something.
pub(super) async fn mend(
    field: &mut Field,
    ways: &[Way],
    kind: Kind,
    before: &[u64],
    deposed: Option<Aim>,
) -> Observed {
    let mut seen = Ok(());
    if let Some(aim) = deposed {
        let other = |leader: look::Leader| leader.place != aim.leader.place && leader.term > aim.leader.term;
        if look::leader(&field.world.nodes, aim.shard, DEPOSED_LIMIT, other).await.is_none() {
            seen = Err(format!("nobody else came to lead shard {} while its leader was cut off", aim.shard));
        }
    }
    let after = field.world.met(ways, kind).await?;
    field.world.mend(ways, kind).await?;
    let met: Vec<bool> = after.iter().zip(before).map(|(after, before)| after > before).collect();
    // With another fault standing a node may be down, and send nothing.
    let enough =
        if kind == Kind::Cut && !field.paired { met.iter().all(|met| *met) } else { met.iter().any(|met| *met) };
    if !enough {
        let silent: Vec<String> = ways
            .iter()
            .zip(&met)
            .filter(|(_, met)| !**met)
            .map(|(way, _)| format!("n{} to n{}", way.from + 1, way.to + 1))
            .collect();
        return Err(format!("{kind:?}: nothing was met from {}", silent.join(", ")));
    }
    seen
}
