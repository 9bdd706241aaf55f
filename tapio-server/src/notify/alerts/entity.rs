//! What an alert is about, by its labels.

use tapio_ahti::incident::Name;

use super::Labels;

/// Labels that name an object in a namespace, with its kind; the first that is known counts. `job` is the job of Prometheus that
/// scrapes: mostly called as the Service, or the workload, that it scrapes.
const KINDS: &[(&str, &[&str])] = &[
    ("deployment", &["Deployment"]),
    ("statefulset", &["StatefulSet"]),
    ("daemonset", &["DaemonSet"]),
    ("cronjob", &["CronJob"]),
    ("job_name", &["Job"]),
    ("workload", &["Deployment", "StatefulSet", "DaemonSet", "CronJob", "Job"]),
    ("pod", &["Pod"]),
    ("service", &["Service"]),
    ("persistentvolumeclaim", &["PersistentVolumeClaim"]),
    ("horizontalpodautoscaler", &["HorizontalPodAutoscaler"]),
    ("job", &["Service", "Deployment", "StatefulSet", "DaemonSet", "Job"]),
    ("container", &["Deployment", "StatefulSet", "DaemonSet"]),
];
/// Labels that name a node; of an address the host is taken.
const NODES: &[&str] = &["node", "instance"];

/// The objects that an alert may be about, the likeliest first.
pub(super) fn names(labels: &Labels) -> Vec<Name> {
    // Where the scraped target has labels of the same names, Prometheus renames those of the metric.
    let get = |key: &str| {
        let value = labels.get(&format!("exported_{key}")).or_else(|| labels.get(key));
        value.map(String::as_str).filter(|value| !value.is_empty())
    };
    let mut names = Vec::new();
    if let Some(namespace) = get("namespace") {
        for (label, kinds) in KINDS {
            let Some(name) = get(label) else { continue };
            names.extend(kinds.iter().map(|kind| Name::new(kind, Some(namespace), name)));
        }
    }
    for value in NODES.iter().filter_map(|label| get(label)) {
        let host = value.rsplit_once(':').map_or(value, |(host, _)| host);
        names.push(Name::new("Node", None, host));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_say_what_an_alert_is_about() {
        for (labels, expected) in [
            (&[("namespace", "shop"), ("deployment", "pay")][..], &["Deployment shop/pay"][..]),
            (&[("namespace", "shop"), ("pod", "pay-1"), ("node", "n1")], &["Pod shop/pay-1", "Node n1"]),
            (
                &[
                    ("namespace", "monitoring"),
                    ("pod", "kube-state-metrics-0"),
                    ("exported_namespace", "shop"),
                    ("exported_pod", "pay-1"),
                ],
                &["Pod shop/pay-1"],
            ),
            (&[("instance", "n1:9100")], &["Node n1"]),
            (&[("severity", "page"), ("pod", "pay-1")], &[]),
            (&[("namespace", "shop"), ("pod", "")], &[]),
        ] {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let said: Vec<String> = names(&labels).iter().map(ToString::to_string).collect();
            assert_eq!(said, expected);
        }
    }
}
