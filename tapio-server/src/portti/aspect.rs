//! What a field is about, from its path.

use tapio_occurrence::kubernetes::Aspect;

/// Names of fields of a pod's spec, or of a container, by what they are about.
const TEMPLATE: &[(&str, Aspect)] = &[
    ("image", Aspect::Image),
    ("command", Aspect::Command),
    ("args", Aspect::Command),
    ("env", Aspect::Environment),
    ("envFrom", Aspect::Environment),
    ("livenessProbe", Aspect::Probe),
    ("readinessProbe", Aspect::Probe),
    ("startupProbe", Aspect::Probe),
    ("readinessGates", Aspect::Probe),
    ("volumes", Aspect::Volume),
    ("volumeMounts", Aspect::Volume),
    ("volumeDevices", Aspect::Volume),
    ("nodeSelector", Aspect::Placement),
    ("nodeName", Aspect::Placement),
    ("affinity", Aspect::Placement),
    ("tolerations", Aspect::Placement),
    ("priorityClassName", Aspect::Placement),
    ("priority", Aspect::Placement),
    ("topologySpreadConstraints", Aspect::Placement),
    ("schedulerName", Aspect::Placement),
    ("runtimeClassName", Aspect::Placement),
    ("securityContext", Aspect::Security),
    ("serviceAccountName", Aspect::Security),
    ("serviceAccount", Aspect::Security),
    ("automountServiceAccountToken", Aspect::Security),
    ("hostNetwork", Aspect::Security),
    ("hostPID", Aspect::Security),
    ("hostIPC", Aspect::Security),
    ("imagePullSecrets", Aspect::Security),
];

/// Beginnings of paths of objects that have no pod template.
const OTHERS: &[(&str, &str, Aspect)] = &[
    ("ConfigMap", "data.", Aspect::Data),
    ("ConfigMap", "binaryData.", Aspect::Data),
    ("Secret", "data.", Aspect::Data),
    ("Secret", "stringData.", Aspect::Data),
    ("HorizontalPodAutoscaler", "spec.minReplicas", Aspect::Replicas),
    ("HorizontalPodAutoscaler", "spec.maxReplicas", Aspect::Replicas),
    ("Service", "spec.selector", Aspect::Selector),
    ("Service", "spec.ports", Aspect::Ports),
    ("NetworkPolicy", "spec.podSelector", Aspect::Selector),
    ("NetworkPolicy", "spec.", Aspect::Rules),
    ("PodDisruptionBudget", "spec.selector", Aspect::Selector),
    ("PodDisruptionBudget", "spec.", Aspect::Rules),
    ("Ingress", "spec.", Aspect::Rules),
    ("HTTPRoute", "spec.", Aspect::Rules),
    ("RoleBinding", "subjects", Aspect::Rules),
    ("RoleBinding", "roleRef", Aspect::Rules),
    ("ValidatingWebhookConfiguration", "webhooks", Aspect::Rules),
    ("MutatingWebhookConfiguration", "webhooks", Aspect::Rules),
    ("ServiceAccount", "secrets", Aspect::Security),
    ("ServiceAccount", "imagePullSecrets", Aspect::Security),
    ("ServiceAccount", "automountServiceAccountToken", Aspect::Security),
    ("ResourceQuota", "spec.hard", Aspect::Amount),
    ("LimitRange", "spec.limits", Aspect::Amount),
    ("PersistentVolumeClaim", "spec.resources", Aspect::Amount),
    ("PersistentVolume", "spec.capacity", Aspect::Amount),
    ("PersistentVolumeClaim", "spec.", Aspect::Volume),
    ("PersistentVolume", "spec.", Aspect::Volume),
    ("Node", "spec.taints", Aspect::Node),
    ("Node", "spec.unschedulable", Aspect::Node),
];

/// Beginnings of the paths of a pod's spec.
const PODS: &[&str] = &["spec.template.spec.", "spec.jobTemplate.spec.template.spec."];

/// What a field of an object of this kind is about.
pub(super) fn of(kind: &str, path: &str) -> Aspect {
    if path.starts_with("metadata.") {
        return Aspect::Metadata;
    }
    if let Some((.., aspect)) = OTHERS.iter().find(|(of, start, _)| *of == kind && path.starts_with(start)) {
        return *aspect;
    }
    if let Some(path) = in_pod(kind, path) {
        return of_pod(path);
    }
    if path.starts_with("spec.template.") || path.starts_with("spec.jobTemplate.spec.template.") {
        return Aspect::Template;
    }
    match path {
        "spec.replicas" | "spec.parallelism" | "spec.completions" => Aspect::Replicas,
        _ if path.starts_with("spec.selector") => Aspect::Selector,
        _ => Aspect::Other,
    }
}

/// The path in a pod's spec.
fn in_pod<'a>(kind: &str, path: &'a str) -> Option<&'a str> {
    let start =
        if kind == "Pod" { Some("spec.") } else { PODS.iter().copied().find(|s| path.starts_with(s)) };
    path.strip_prefix(start?)
}

fn of_pod(path: &str) -> Aspect {
    let (_, path) = container(path).unwrap_or(("", path));
    let field = path.split('.').next().unwrap_or_default();
    if field == "resources" {
        // `resources.limits.memory`
        return match path.rsplit('.').next() {
            Some("memory") => Aspect::Memory,
            Some("cpu") => Aspect::Cpu,
            _ => Aspect::Template,
        };
    }
    TEMPLATE.iter().find(|(name, _)| *name == field).map_or(Aspect::Template, |(_, aspect)| *aspect)
}

/// The container that a path is in, and the path within it. Names of containers have no dots.
pub(super) fn container(path: &str) -> Option<(&str, &str)> {
    let (_, after) = path.split_once("ontainers.")?;
    after.split_once('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_what_they_are_about() {
        let app = "spec.template.spec.containers.app";
        for (kind, path, expected) in [
            ("Deployment", format!("{app}.image"), Aspect::Image),
            ("CronJob", "spec.jobTemplate.spec.template.spec.initContainers.a.image".into(), Aspect::Image),
            ("Pod", "spec.containers.app.image".into(), Aspect::Image),
            ("Deployment", format!("{app}.resources.limits.memory"), Aspect::Memory),
            ("Deployment", format!("{app}.resources.requests.cpu"), Aspect::Cpu),
            ("Deployment", format!("{app}.env.A.value"), Aspect::Environment),
            ("Deployment", format!("{app}.envFrom.0.configMapRef.name"), Aspect::Environment),
            ("Deployment", format!("{app}.readinessProbe.httpGet.port"), Aspect::Probe),
            ("Deployment", format!("{app}.args"), Aspect::Command),
            ("Deployment", format!("{app}.volumeMounts./a.name"), Aspect::Volume),
            ("Deployment", format!("{app}.securityContext.runAsUser"), Aspect::Security),
            ("Deployment", format!("{app}.terminationMessagePath"), Aspect::Template),
            ("Deployment", "spec.template.spec.volumes.a.configMap.name".into(), Aspect::Volume),
            ("Deployment", "spec.template.spec.nodeSelector.zone".into(), Aspect::Placement),
            ("Deployment", "spec.template.spec.serviceAccountName".into(), Aspect::Security),
            (
                "Deployment",
                "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt".into(),
                Aspect::Template,
            ),
            ("Deployment", "spec.replicas".into(), Aspect::Replicas),
            ("Deployment", "spec.selector.matchLabels.app".into(), Aspect::Selector),
            ("Deployment", "spec.paused".into(), Aspect::Other),
            ("Deployment", "metadata.labels.app".into(), Aspect::Metadata),
            ("ConfigMap", "data.app.yaml".into(), Aspect::Data),
            ("Service", "spec.selector.app".into(), Aspect::Selector),
            ("Service", "spec.ports.http.targetPort".into(), Aspect::Ports),
            ("HorizontalPodAutoscaler", "spec.maxReplicas".into(), Aspect::Replicas),
            ("NetworkPolicy", "spec.ingress.0.from".into(), Aspect::Rules),
            ("ResourceQuota", "spec.hard.pods".into(), Aspect::Amount),
            ("PersistentVolumeClaim", "spec.resources.requests.storage".into(), Aspect::Amount),
            ("Node", "spec.unschedulable".into(), Aspect::Node),
            ("Node", "spec.taints.node.kubernetes.io/unschedulable.effect".into(), Aspect::Node),
        ] {
            assert_eq!(of(kind, &path), expected, "{kind} {path}");
        }
    }
}
