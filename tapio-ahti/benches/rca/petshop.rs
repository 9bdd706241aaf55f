//! PetShop: latency and availability of a graph of services every five minutes; which of them is it?
//!
//! No rule knows a cause of what is injected: the answer is where the unknown cause is closest.

use std::{collections::BTreeMap, path::Path};

use tapio_ahti::incident::Name;
use tapio_occurrence::signal::{ERRORS, LATENCY};

use crate::{
    case::{Case, NAMESPACE, Said},
    describe::text,
    facts::{Facts, Judged, SEC},
    files::{self, Table},
    folders, nezha,
    series::Series,
};

const NODE: &str = "cloud";
/// Times of the set are rounded; its rows begin here.
const BEGAN_NS: u64 = 1_700_000_000 * SEC;
/// The alarm is about these rows.
const ALARMED: std::ops::Range<u64> = 2..4;
/// Rows are so far apart.
const STEP_NS: u64 = 300 * SEC;

pub(crate) fn cases(directory: &Path) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let mut before: Option<Table> = None;
    for load in folders(directory)? {
        let graph = Table::read(&load.join("graph.csv"))?;
        let normal = load.join("normal.csv.gz");
        // Where the normal time of a load is missing, that of the load before stands in.
        if normal.exists() {
            before = Some(Table::read(&normal)?);
        }
        for folder in folders(&load)? {
            cases.push(case(&folder, &graph, before.as_ref())?);
        }
    }
    Ok(cases)
}

fn case(folder: &Path, graph: &Table, normal: Option<&Table>) -> Result<Case, String> {
    let about = files::json(&folder.join("case.json"))?;
    let metrics = Table::read(&folder.join("metrics.csv.gz"))?;
    let truth = about.get("truth").cloned().unwrap_or_default();
    let metric = about.get("target").map(|target| text(target, "metric").to_owned()).unwrap_or_default();
    let target = about.get("target").map(|target| text(target, "node").to_owned()).unwrap_or_default();
    let calls: Vec<(&str, &str)> = graph.texts("src").into_iter().zip(graph.texts("dst")).collect();
    let nodes: BTreeMap<&str, &str> = calls.iter().flat_map(|(a, b)| [(*a, NODE), (*b, NODE)]).collect();
    Ok(Case {
        name: text(&about, "id").to_owned(),
        fault: metric.clone(),
        object: text(&truth, "node").to_owned(),
        cause: String::new(),
        choices: nodes.len(),
        leaves_no_trace: false,
        asked: Some(Name {
            kind: "Deployment".to_owned(),
            namespace: Some(NAMESPACE.to_owned()),
            name: target.clone(),
        }),
        since_unix_ns: BEGAN_NS,
        facts: facts(&metrics, normal, &nodes, &calls, (&target, &metric)),
        say: Box::new(|cause, _| Said { object: cause.workload.name.clone(), cause: String::new() }),
    })
}

fn facts(
    metrics: &Table,
    normal: Option<&Table>,
    nodes: &BTreeMap<&str, &str>,
    calls: &[(&str, &str)],
    (target, alarmed): (&str, &str),
) -> Vec<tapio_occurrence::Occurrence> {
    let mut facts = Facts::default();
    let began = BEGAN_NS;
    let first = began - 3_600 * SEC;
    facts.watched(&[NODE], first, began + ALARMED.end * STEP_NS - STEP_NS + 120 * SEC);
    nezha::system(&mut facts, nodes, calls, first);
    for column in metrics.columns() {
        let mut parts = column.split('|');
        let (Some(node), Some(metric), Some(statistic)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (kind, scale, floor, falls) = match (metric, statistic) {
            ("latency", "Average") => (LATENCY, 1e6, 10_000, false),
            ("availability", "Average") => (ERRORS, 100.0, 100, true),
            _ => continue,
        };
        if !nodes.contains_key(node) {
            continue;
        }
        let turned = |value: f64| ((if falls { 100.0 - value } else { value }).max(0.0) * scale) as u64;
        let mut series = Series::new(floor);
        let before = normal.map(|normal| normal.numbers(column)).unwrap_or_default();
        for (nth, value) in before.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            series.judge(turned(*value), nth as u64 * STEP_NS);
        }
        let after = before.len() as u64;
        for (nth, value) in
            metrics.numbers(column).into_iter().enumerate().filter(|(_, value)| value.is_finite())
        {
            let nth = nth as u64;
            if nth >= ALARMED.end {
                break;
            }
            let value_now = turned(value);
            let judged = series.judge(value_now, (after + nth) * STEP_NS);
            // That the target is abnormal is what the question says.
            let is_alarm = node == target && metric == alarmed && ALARMED.contains(&nth);
            let Some(usual) = judged.or_else(|| is_alarm.then(|| series.mean())) else { continue };
            let message = format!("{node}: {metric} {value:.3} (normally {:.3})", usual as f64 / scale);
            let judged = Judged { value: value_now, normal: usual };
            nezha::signal(&mut facts, began + nth * STEP_NS, kind, node, judged, &message);
        }
    }
    facts.all
}
