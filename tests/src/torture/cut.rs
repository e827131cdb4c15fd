//! Packets that are dropped, all or some: nobody believes two leaders, and who hears nobody does not lead.

use super::arena::{Arena, names};
use super::lasts;
use crate::lan::{HUB, Lan};
use std::time::Duration;

/// Longest cut. Leases end in it, and connections are given up.
const CUT_MS: u64 = 4_000;

/// Cuts a leader or some other node off, in one way or another, and heals it.
pub async fn strike(arena: &mut Arena) -> String {
    arena.some_events().await;
    let victim = if arena.random.one_in(3) {
        arena.some_nodes(1)[0]
    } else {
        arena.leaders().await[0]
    };
    let lan = arena
        .cluster
        .lan()
        .expect("cuts are struck only in a network")
        .clone();
    let way = arena.random.below(7);
    let what = cut(&lan, arena, victim, way);
    // A leader that clients still reach, and nobody else, must not answer them from what it knows.
    arena.visit(victim);
    let limit = Duration::from_millis(arena.random.below(CUT_MS));
    lasts(limit).await;
    (0..arena.nodes).for_each(|n| lan.heal(n));
    format!("{} {what}, for {limit:?}", names(&[victim]))
}

fn cut(lan: &Lan, arena: &mut Arena, victim: usize, way: u64) -> String {
    let others: Vec<usize> = (0..arena.nodes).filter(|n| *n != victim).collect();
    let what = match way {
        0 => {
            for n in &others {
                lan.part(victim, *n);
            }
            "cut off from the members"
        }
        1 => {
            for n in &others {
                lan.cut(Lan::address(victim), *n);
            }
            "heard by nobody"
        }
        2 => {
            for n in &others {
                lan.cut(Lan::address(*n), victim);
            }
            "hears nobody"
        }
        3 => {
            lan.part(victim, others[arena.random.position(others.len())]);
            "cut off from one member"
        }
        4 => {
            for n in &others {
                lan.part(victim, *n);
            }
            lan.cut(HUB, victim);
            "gone without a word"
        }
        5 => {
            let percent = 5 + arena.random.below(40);
            lan.lose(victim, percent);
            return format!("loses {percent} % of what is sent to it");
        }
        _ => {
            let ports: Vec<u16> = arena.cluster.etcd.ports().collect();
            if ports.len() > 1 && arena.random.one_in(2) {
                lan.cut_ports(victim, [ports[arena.random.position(ports.len())]]);
                "cut off from one member of etcd"
            } else {
                lan.cut_ports(victim, ports);
                "cut off from etcd"
            }
        }
    };
    what.to_owned()
}
