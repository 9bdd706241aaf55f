//! Explaining: which findings explain which, and what is the smallest set of causes that explains them all.

mod cover;
mod ends;
mod link;
mod rates;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tapio_occurrence::Name as Text;

pub use self::cover::Certainty;
pub(crate) use self::{
    cover::{Explanation, Term, opens},
    ends::charged,
    link::{Found, Link, Reach, Ways, causes, look},
};
use crate::{
    coverage::Seen,
    finding::{Finding, FindingId},
    findings::Findings,
    graph::{EntityId, Graph, Name},
    links::Links,
    rule::Rules,
    usual::Usual,
    verdicts::Verdicts,
};

/// Maximum number of findings that are explained together. Of more, those that matter least are left out.
pub(crate) const MAX_TOGETHER: usize = 256;

/// Parts of the engine that are left out, to measure what they are worth. Nothing is, by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Without {
    /// Whether what is always there is a cause like any other.
    pub standing: bool,
    /// Whether new pods are not compared with old ones.
    pub old_new: bool,
    /// Whether trouble on a connection is not charged to one of its ends.
    pub two_ended: bool,
    /// Whether what was usual so far is not taken into account.
    pub learning: bool,
}

/// Everything that explaining reads.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) findings: &'a Findings,
    pub(crate) rules: &'a Rules,
    pub(crate) seen: &'a Seen,
    pub(crate) usual: &'a Usual,
    pub(crate) verdicts: &'a Verdicts,
    pub(crate) without: Without,
    pub(crate) now_ns: u64,
}

/// Findings that are joined by links.
#[derive(Clone, Debug, Default)]
pub(crate) struct Component {
    /// In order of time.
    pub(crate) findings: Vec<FindingId>,
    /// By cause.
    pub(crate) links: Vec<Link>,
    /// Findings that were left out since there are too many.
    pub(crate) left_out: usize,
}

impl Component {
    /// The links from a cause, with their indices.
    fn links_of(&self, cause: FindingId) -> impl Iterator<Item = (usize, &Link)> {
        let first = self.links.partition_point(|link| link.cause < cause);
        let from_first = self.links.iter().enumerate().skip(first);
        from_first.take_while(move |(_, link)| link.cause == cause)
    }

    /// Leaves out what matters least of too many: a change counts as much as it is likely the cause of something, and the
    /// n-th finding of a type on a workload 1/n.
    fn cut(&mut self, known: Known<'_>, most: usize) {
        if self.findings.len() <= most {
            return;
        }
        let mut strongest: BTreeMap<FindingId, f64> = BTreeMap::new();
        for link in &self.links {
            let strength = strongest.entry(link.cause).or_default();
            *strength = strength.max(link.strength);
        }
        let mut of_kin: BTreeMap<Kin, f64> = BTreeMap::new();
        let mut weight = |id: FindingId| {
            let is_change =
                known.findings.get(id).is_some_and(|finding| crate::fact::is_change(&finding.key.kind));
            if is_change {
                return strongest.get(&id).copied().unwrap_or_default();
            }
            let Some(kin) = kin(known, id) else { return 1.0 };
            let count = of_kin.entry(kin).or_default();
            *count += 1.0;
            count.recip()
        };
        let mut ranked: Vec<_> = self.findings.iter().map(|id| (weight(*id), *id)).collect();
        // Of those that matter as much, the later ones.
        ranked.reverse();
        ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let kept: BTreeSet<_> = ranked.into_iter().take(most).map(|(_, id)| id).collect();
        self.left_out = self.findings.len() - kept.len();
        self.findings.retain(|id| kept.contains(id));
        self.links.retain(|link| kept.contains(&link.cause) && kept.contains(&link.effect));
    }
}

/// The order in which findings are shown, which does not depend on the order in which they came.
pub(crate) fn order(known: Known<'_>, id: FindingId) -> impl Ord + use<> {
    known.findings.get(id).map(|finding| {
        let name = known.graph.get(finding.key.entity).map(|entity| Arc::clone(&entity.name));
        (finding.onset_ns, finding.key.kind.clone(), name, finding.key.detail.clone())
    })
}

/// Joins findings with all that may explain them.
pub(crate) fn components(
    known: Known<'_>,
    known_links: &mut Links,
    effects: impl IntoIterator<Item = FindingId>,
) -> Vec<Component> {
    let mut links: BTreeMap<(FindingId, FindingId), Link> = BTreeMap::new();
    let mut open: Vec<FindingId> = effects.into_iter().collect();
    let mut done: BTreeSet<FindingId> = BTreeSet::new();
    while let Some(effect) = open.pop() {
        if !done.insert(effect) {
            continue;
        }
        for link in known_links.of(effect, || causes(known, effect)) {
            open.push(link.cause);
            let pair = (link.cause, link.effect);
            // Of two rules for a pair, the stronger one.
            if links.get(&pair).is_none_or(|other| other.strength < link.strength) {
                links.insert(pair, link.clone());
            }
        }
    }
    // Two that explain each other: the stronger way, then the earlier cause.
    let both: Vec<_> = links.keys().filter(|(a, b)| links.contains_key(&(*b, *a))).copied().collect();
    for (a, b) in both {
        let (Some(there), Some(back)) = (links.get(&(a, b)), links.get(&(b, a))) else { continue };
        let keep = there.strength.total_cmp(&back.strength).then(order(known, b).cmp(&order(known, a)));
        links.remove(&if keep.is_ge() { (b, a) } else { (a, b) });
    }
    let mut group: BTreeMap<FindingId, FindingId> = done.iter().map(|id| (*id, *id)).collect();
    for (a, b) in links.keys() {
        let (a, b) = (find(&mut group, *a), find(&mut group, *b));
        group.insert(a.max(b), a.min(b));
    }
    // The same on several pods of a workload, and changes that were made together, are one story.
    let mut of_kin: BTreeMap<Kin, FindingId> = BTreeMap::new();
    for id in &done {
        let Some(kin) = kin(known, *id) else { continue };
        let other = *of_kin.entry(kin).or_insert(*id);
        let (a, b) = (find(&mut group, *id), find(&mut group, other));
        group.insert(a.max(b), a.min(b));
    }
    let mut components: BTreeMap<FindingId, Component> = BTreeMap::new();
    for id in done {
        let root = find(&mut group, id);
        components.entry(root).or_default().findings.push(id);
    }
    for link in links.into_values() {
        let root = find(&mut group, link.effect);
        if let Some(component) = components.get_mut(&root) {
            component.links.push(link);
        }
    }
    let mut components: Vec<_> = components.into_values().collect();
    for component in &mut components {
        component.findings.sort_by_cached_key(|id| order(known, *id));
        component.cut(known, MAX_TOGETHER);
    }
    components
}

fn find(group: &mut BTreeMap<FindingId, FindingId>, id: FindingId) -> FindingId {
    let mut root = id;
    while let Some(next) = group.get(&root).filter(|next| **next != root) {
        root = *next;
    }
    group.insert(id, root);
    root
}

/// What makes findings the same thing in several places: the type and the workload; of changes the set.
pub(crate) type Kin = (Text, Option<Arc<Name>>);

/// The kin of a finding; `None` for a change that was made by itself.
pub(crate) fn kin(known: Known<'_>, id: FindingId) -> Option<Kin> {
    let finding = known.findings.get(id)?;
    if crate::fact::is_change(&finding.key.kind) {
        return finding.set.clone().map(|set| (set.into(), None));
    }
    let name = Arc::clone(&known.graph.get(workload(known, finding))?.name);
    Some((finding.key.kind.clone(), Some(name)))
}

/// The workload that a finding is about.
pub(crate) fn workload(known: Known<'_>, finding: &Finding) -> EntityId {
    charged(known, finding).unwrap_or_else(|| known.graph.workload(finding.key.entity, finding.onset_ns))
}

/// Whether a claim has been there so often, or for so long, that it is no news.
pub(crate) fn is_standing(known: Known<'_>, finding: &Finding) -> bool {
    const DAY_NS: u64 = 24 * 3_600_000_000_000;
    const OFTEN: usize = 3;
    !known.without.standing
        && (known.now_ns.saturating_sub(finding.onset_ns) > DAY_NS
            || known.findings.earlier(finding).count() >= OFTEN)
}

/// Explains a component.
pub(crate) fn explain(known: Known<'_>, component: &Component) -> Vec<Explanation> {
    cover::explain(known, component)
}
