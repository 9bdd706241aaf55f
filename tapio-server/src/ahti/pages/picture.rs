//! Pictures that are laid out here, as SVG.

use std::collections::BTreeSet;

use tapio_ahti::{
    about::About,
    blast::{Blast, Part},
};

use super::{blast::word, time::lasting};

/// More than that nobody reads as a graph.
const MAX_NODES: usize = 25;
const WIDTH: usize = 210;
const HEIGHT: usize = 46;
const GAP: usize = 70;
const ROW_GAP: usize = 18;
/// Characters that fit into a node.
const FITS: usize = 27;

/// A graph from left to right.
pub(super) struct Graph {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
}

pub(super) struct Node {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) name: String,
    pub(super) kind: String,
    /// Its part, as a word without spaces.
    pub(super) class: &'static str,
}

pub(super) struct Edge {
    /// The line, as SVG writes it.
    pub(super) path: String,
    pub(super) is_explained: bool,
}

impl Graph {
    /// The picture of how far an incident reaches; `None` if that is too far for one, or nowhere.
    pub(super) fn of(blast: &Blast) -> Option<Self> {
        if blast.members.len() > MAX_NODES || blast.reaches.is_empty() {
            return None;
        }
        let depths = depths(blast);
        let columns = depths.iter().max().map_or(1, |deepest| deepest + 1);
        let in_column = |column: usize| depths.iter().filter(|depth| **depth == column).count();
        let most = (0..columns).map(in_column).max().unwrap_or(1);
        let height = most * (HEIGHT + ROW_GAP) - ROW_GAP;
        let mut filled = vec![0; columns];
        let nodes: Vec<Node> = blast
            .members
            .iter()
            .zip(&depths)
            .map(|(member, depth)| {
                let own = in_column(*depth) * (HEIGHT + ROW_GAP) - ROW_GAP;
                let nth = filled.get_mut(*depth).map_or(0, |nth| std::mem::replace(nth, *nth + 1));
                Node {
                    x: depth * (WIDTH + GAP) + 1,
                    y: (height - own) / 2 + nth * (HEIGHT + ROW_GAP) + 1,
                    name: fitting(&member.name.name),
                    kind: fitting(&format!("{}, {}", word(member.part), member.name.kind)),
                    class: class(member.part),
                }
            })
            .collect();
        let edge = |reach: &tapio_ahti::blast::Reach| {
            let (from, to) = (nodes.get(reach.from)?, nodes.get(reach.to)?);
            Some(Edge { path: path(from, to), is_explained: reach.because.is_some() })
        };
        let edges = blast.reaches.iter().filter_map(edge).collect();
        let width = columns * (WIDTH + GAP) - GAP + 2;
        Some(Self { width, height: height + 2, nodes, edges })
    }
}

const fn class(part: Part) -> &'static str {
    match part {
        Part::Cause => "cause",
        Part::Hit => "hit",
        Part::Between => "between",
        Part::AtRisk => "risk",
    }
}

/// How many steps each member is from where it begins. What begins nowhere is to the left.
fn depths(blast: &Blast) -> Vec<usize> {
    let count = blast.members.len();
    let mut depths = vec![0; count];
    let mut here: BTreeSet<usize> =
        (0..count).filter(|at| blast.reaches.iter().all(|reach| reach.to != *at)).collect();
    let mut seen = here.clone();
    if here.is_empty() {
        here.extend((0..count).take(1));
        seen.extend((0..count).take(1));
    }
    for depth in 1..count {
        let next = blast.reaches.iter().filter(|reach| here.contains(&reach.from)).map(|reach| reach.to);
        here = next.filter(|to| seen.insert(*to)).collect();
        for at in &here {
            if let Some(known) = depths.get_mut(*at) {
                *known = depth;
            }
        }
    }
    depths
}

/// A curve from the right of one to the left of the other; where that is not to the right of it, from below to above.
fn path(from: &Node, to: &Node) -> String {
    let (x, y) = (from.x + WIDTH, from.y + HEIGHT / 2);
    let (to_x, to_y) = (to.x, to.y + HEIGHT / 2);
    if to_x > x {
        let middle = x + (to_x - x) / 2;
        return format!("M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}");
    }
    let (x, to_x) = (from.x + WIDTH / 2, to.x + WIDTH / 2);
    let (y, to_y) = if from.y < to.y { (from.y + HEIGHT, to.y) } else { (from.y, to.y + HEIGHT) };
    format!("M{x} {y}L{to_x} {to_y}")
}

fn fitting(text: &str) -> String {
    match text.chars().count() > FITS {
        true => text.chars().take(FITS - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// Changes, findings and incidents of an object, above each other over time.
pub(super) struct Lanes {
    pub(super) lanes: Vec<Lane>,
    /// How long ago it begins.
    pub(super) from: String,
}

pub(super) struct Lane {
    pub(super) name: &'static str,
    pub(super) class: &'static str,
    /// From where to where, in thousandths of the width.
    pub(super) spans: Vec<(usize, usize)>,
}

impl Lanes {
    pub(super) fn of(about: &About, now_ns: u64) -> Self {
        let changes = about.changes.iter().map(|change| (change.line.last_unix_ns, change.line.last_unix_ns));
        let findings = about.findings.iter().map(|line| (line.since_unix_ns, line.last_unix_ns));
        let incidents = about.incidents.iter();
        let incidents = incidents.map(|of| (of.since_unix_ns, of.resolved_unix_ns.unwrap_or(now_ns)));
        let all = [
            ("Changes", "change", changes.collect::<Vec<_>>()),
            ("Findings", "finding", findings.collect()),
            ("Incidents", "incident", incidents.collect()),
        ];
        let first = all.iter().flat_map(|(.., spans)| spans).map(|(from, _)| *from).min().unwrap_or(now_ns);
        let whole = now_ns.saturating_sub(first).max(60_000_000_000);
        let start = now_ns.saturating_sub(whole);
        let place =
            |ns: u64| (u128::from(ns.saturating_sub(start).min(whole)) * 990 / u128::from(whole)) as usize;
        let lane = |(name, class, spans): (_, _, Vec<(u64, u64)>)| Lane {
            name,
            class,
            spans: spans
                .iter()
                .map(|(from, to)| (place(*from), place(*to).saturating_sub(place(*from)).max(6)))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        };
        Self { lanes: all.into_iter().map(lane).collect(), from: lasting(whole) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.spans.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use tapio_ahti::{
        blast::{Member, Reach},
        incident::Name,
    };

    use super::*;

    fn blast(count: usize, reaches: &[(usize, usize)]) -> Blast {
        let member = |nth| Member {
            name: Name::new("Deployment", Some("shop"), &format!("workload-{nth}")),
            part: Part::Hit,
            since_unix_ns: None,
            text: None,
        };
        let reach =
            |(from, to): &(usize, usize)| Reach { from: *from, to: *to, because: None, certain: false };
        Blast {
            incident: "TAP-1".to_owned(),
            members: (0..count).map(member).collect(),
            reaches: reaches.iter().map(reach).collect(),
        }
    }

    #[test]
    fn nodes_do_not_lie_on_each_other_and_are_inside() {
        let graph = Graph::of(&blast(6, &[(0, 1), (0, 2), (1, 3), (2, 3), (3, 0), (4, 4)])).unwrap();
        for (nth, a) in graph.nodes.iter().enumerate() {
            assert!(a.x + WIDTH < graph.width && a.y + HEIGHT < graph.height, "{} {}", a.x, a.y);
            for b in &graph.nodes[nth + 1..] {
                assert!(a.x.abs_diff(b.x) >= WIDTH + GAP || a.y.abs_diff(b.y) >= HEIGHT + ROW_GAP);
            }
        }
        assert_eq!(graph.edges.len(), 6);
    }

    #[test]
    fn a_circle_ends_and_what_is_too_large_is_no_picture() {
        assert!(Graph::of(&blast(3, &[(0, 1), (1, 2), (2, 0)])).is_some());
        assert!(Graph::of(&blast(25, &[(0, 1)])).is_some());
        assert!(Graph::of(&blast(26, &[(0, 1)])).is_none());
        assert!(Graph::of(&blast(2, &[])).is_none());
    }
}
